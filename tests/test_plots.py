import struct
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from matplotlib.colors import to_hex

from steerkit.behaviors import behavior
from steerkit.direction import Direction
from steerkit.errors import ResourceError, SteerkitError
from steerkit.plots import plot_layers, save_figure
from steerkit.vectors import SteeringVectors

NAMES = ("deduction", "uncertainty-estimation", "backtracking")


def made(layers=(0, 2, 3, 5), names=NAMES, **changes):
    generator = torch.Generator().manual_seed(0)

    def curve(low, high):
        return low + (high - low) * torch.rand(len(layers), generator=generator)

    directions = {}
    for name in names:
        auroc = curve(0.5, 1.0)
        direction = Direction(
            behavior=name,
            tensor=torch.randn(len(layers), 8, generator=generator),
            layers=tuple(layers),
            mean_norm=curve(3.0, 9.0),
            norm_of_mean=curve(1.0, 3.0),
            layer=layers[int(auroc.argmax())],
            spans=30,
            tasks=20,
            n_layers=6,
            split_half=curve(0.7, 1.0),
            split_half_shuffled=curve(-0.2, 0.2),
            auroc=auroc,
        )
        directions[name] = replace(direction, **changes)
    provenance = {
        "model": "tiny",
        "contrast": "rest",
        "traces": ["a"] * 1250,
        "extract_tasks": ["b"] * 250,
        "select_traces": ["c"] * 60,
        "select_tasks": ["d"] * 13,
        "window": {"before": 1, "length": 10},
    }
    return SteeringVectors(directions, provenance)


def lines_of(axes, name, style):
    color = behavior(name).color.lower()
    return [
        line
        for line in axes.lines
        if to_hex(line.get_color()) == color
        and (line.get_linestyle() == style)
        and len(line.get_xdata()) > 1
    ]


def drawn(line):
    return torch.tensor([list(line.get_xdata()), list(line.get_ydata())], dtype=torch.float64)


def test_panels_show_the_curves_of_every_behavior():
    vectors = made()
    length, reliability, foresight = plot_layers(vectors).axes
    for name, d in vectors.items():
        norms = torch.tensor([float(d.tensor[i].norm() / d.mean_norm[i]) for i in range(4)])
        expected = [
            (length, "-", norms),
            (reliability, "-", d.split_half),
            (reliability, "--", d.split_half_shuffled),
            (foresight, "-", d.auroc),
        ]
        for axes, style, values in expected:
            (line,) = lines_of(axes, name, style)
            both = torch.stack([torch.tensor(d.layers).double(), values.double()])
            torch.testing.assert_close(drawn(line), both, rtol=1e-6, atol=1e-6)


def test_suggested_layer_is_ringed_and_chance_is_drawn():
    vectors = made()
    axes = plot_layers(vectors).axes[2]
    rings = {
        to_hex(line.get_markeredgecolor()): (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    for d in vectors.values():
        expected = (d.layer, float(d.auroc[d.row(d.layer)]))
        assert rings[behavior(d.behavior).color.lower()] == pytest.approx(expected)
    assert any(
        line.get_linestyle() == ":" and set(line.get_ydata()) == {0.5} for line in axes.lines
    )


def test_axes_have_units_and_the_caption_says_what_was_measured():
    figure = plot_layers(made())
    for axes in figure.axes:
        assert "layer" in axes.get_xlabel() and axes.get_ylabel()
    caption = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    for part in (
        "Contrast: rest.",
        "1,250 chains of 250 tasks",
        "60 chains of 13 tasks",
        "Dashed: the same cosine with labels shuffled within chains",
        "Dotted: chance, 0.5",
    ):
        assert part in caption


@pytest.mark.parametrize("names", [NAMES, tuple(b for b in (*NAMES, "adding-knowledge"))])
def test_texts_keep_off_the_panels_and_inside_the_figure(names):
    figure = plot_layers(made(range(6), names))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    panels = [axes.get_tightbbox(renderer) for axes in figure.axes]
    apart = [*figure.legends, *figure.texts]
    boxes = [artist.get_window_extent(renderer) for artist in apart]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in (*panels, *boxes[i + 1 :]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(names)


def test_curves_that_are_missing_are_left_out():
    bare = dict.fromkeys(("split_half", "split_half_shuffled", "auroc", "layer"))
    length, reliability, foresight = plot_layers(made(**bare)).axes
    assert lines_of(length, "deduction", "-")
    assert not lines_of(reliability, "deduction", "-")
    for axes in (reliability, foresight):
        assert "not measured" in [text.get_text() for text in axes.texts]
    assert "not measured" not in [text.get_text() for text in length.texts]
    single = made([4], spans=1)
    plot_layers(SteeringVectors(dict(single), {}))  # one layer and no provenance


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_same_vectors_same_bytes(tmp_path, kind):
    first = save_figure(plot_layers(made()), tmp_path / f"a.{kind}").read_bytes()
    assert save_figure(plot_layers(made()), tmp_path / f"b.{kind}").read_bytes() == first
    assert save_figure(plot_layers(made(spans=31)), tmp_path / f"c.{kind}").read_bytes() == first
    other = plot_layers(made(names=NAMES[:2]))  # positive control
    assert save_figure(other, tmp_path / f"d.{kind}").read_bytes() != first


def test_png_says_nothing_of_time_or_program(tmp_path):
    content = save_figure(plot_layers(made()), tmp_path / "a.png").read_bytes()
    at, kinds = 8, []
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        kinds.append(kind)
        at += 12 + size
    assert {b"IHDR", b"IDAT", b"IEND"} <= set(kinds)
    assert not {b"tEXt", b"iTXt", b"zTXt", b"tIME"} & set(kinds)


def test_unknown_formats_and_places_are_refused_and_nothing_is_left(tmp_path):
    figure = plot_layers(made())
    with pytest.raises(SteerkitError, match=r"\.png"):
        save_figure(figure, tmp_path / "a.bmp")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ResourceError):
        save_figure(figure, tmp_path / "folder.png")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


def test_a_figure_shows_itself_in_a_notebook():
    assert plot_layers(made())._repr_png_().startswith(b"\x89PNG")


def test_pyplot_is_never_imported():
    code = "import sys; import steerkit.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_should_not_be_trusted_is_marked():
    vectors = made(layers=(0, 1, 2, 3))
    few = {**vectors, "backtracking": replace(vectors["backtracking"], spans=7)}
    figure = plot_layers(SteeringVectors(few, vectors.provenance))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "backtracking*" in labels and "deduction" in labels
    said = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    assert "Not to be trusted yet: backtracking 7 spans" in said
    plain = plot_layers(vectors)
    assert not any("*" in text.get_text() for text in plain.legends[0].get_texts())


def test_the_ring_says_by_what_a_layer_was_chosen():
    vectors = made(layers=(0, 1, 2, 3), chosen_by="sweep", layer=2)
    said = " ".join(text.get_text() for text in plot_layers(vectors).texts)
    assert "chosen by sweep" in " ".join(said.split())
