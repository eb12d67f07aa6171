"""The heatmap shows the cosines of the vectors, with their intervals, and nothing overlaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from steerkit.cosine_matrix import PARTS, Cosines, between
from steerkit.cosine_plot import plot_cosines
from steerkit.errors import VectorsError
from steerkit.plots import save_figure
from steerkit.vectors import SteeringVectors
from tests.test_plots import made

NAMES = (
    "initializing",
    "deduction",
    "adding-knowledge",
    "example-testing",
    "uncertainty-estimation",
    "backtracking",
)


def with_intervals(vectors: SteeringVectors) -> SteeringVectors:
    plain = between(vectors)
    apart = 1 - torch.eye(len(vectors)).double()
    corrected = (1.25 * plain.cosine * apart).clamp(-0.9, 0.9)
    parts = (plain.cosine, corrected, corrected - 0.1, corrected + 0.05)
    return SteeringVectors(
        dict(vectors),
        vectors.provenance,
        Cosines(plain.behaviors, plain.layers, **dict(zip(PARTS, parts, strict=True))),
    )


def cells(figure) -> dict[tuple[int, int], list[str]]:
    found: dict[tuple[int, int], list[str]] = {}
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        found.setdefault((round(y), round(x)), []).append(text.get_text())
    return found


def test_cells_show_plain_cosines_below_and_corrected_ones_above_the_diagonal() -> None:
    vectors = with_intervals(made(range(6), NAMES))
    figure = plot_cosines(vectors, 3)
    table = vectors.cosines(3).set_index(["behavior_a", "behavior_b"])
    (image,) = figure.axes[0].images
    shown, texts = image.get_array(), cells(figure)
    assert image.get_clim() == (-1.0, 1.0)
    for i, a in enumerate(NAMES):
        for j, b in enumerate(NAMES):
            row = table.loc[(a, b)]
            if i == j:
                halves = vectors[a].split_half
                assert texts[i, j] == [f"{float(halves[3]):.2f}", "between halves"]
                assert shown.mask[i, j]
                continue
            value = row["cosine"] if i > j else row["corrected"]
            assert shown[i, j] == pytest.approx(value)
            expected = [f"{value:.2f}"]
            if i < j:
                expected.append(f"{row['low']:.2f} to {row['high']:.2f}")
            assert texts[i, j] == expected
    caption = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    for part in ("at layer 3", "Contrast: rest.", "95 % intervals", "1,250 chains of 250 tasks"):
        assert part in caption
    assert "Chance" in caption and f"{8**-0.5:.2f}" in caption


def test_without_intervals_both_halves_are_plain() -> None:
    vectors = made((0, 2, 3, 5))
    figure = plot_cosines(vectors)
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, shown.T)
    assert "no intervals are known" in " ".join(t.get_text() for t in figure.texts)
    assert all(len(texts) == 1 for (i, j), texts in cells(figure).items() if i != j)


def test_what_is_unknown_is_a_dash() -> None:
    vectors = with_intervals(made((0, 2), NAMES[:3]))
    known = vectors.geometry
    assert known is not None
    known.corrected[:, 0, 1], known.low[:, 0, 1], known.high[:, 0, 1] = torch.nan, -1.0, 1.0
    known.low[:, 0, 2] = known.high[:, 0, 2] = torch.nan
    figure = plot_cosines(vectors, 2)
    assert cells(figure)[0, 1] == ["-", "-1.00 to 1.00"]
    plain = vectors.cosines(2).set_index(["behavior_a", "behavior_b"])["cosine"]
    assert cells(figure)[0, 2] == [f"{plain[NAMES[0], NAMES[2]]:.2f}"]
    caption = " ".join(t.get_text() for t in figure.texts).replace("\n", " ")
    assert "too noisy to tell" in caption and "too few tasks" in caption


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("layers", [(0, 2, 3, 5), range(40)])
def test_texts_keep_inside_the_figure_and_off_each_other(count, layers) -> None:
    figure = plot_cosines(with_intervals(made(layers, NAMES[-count:])))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    heat, bar = figure.axes
    ticks = [*heat.get_xticklabels(), *heat.get_yticklabels(), bar.yaxis.label]
    boxes = [
        text.get_window_extent(renderer)
        for text in (*figure.texts, *heat.texts, *ticks)
        if text.get_text()
    ]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_the_layer_is_the_middle_of_the_suggested_ones() -> None:
    vectors = made((0, 2, 3, 5))
    suggested = sorted(d.layer for d in vectors.values())
    (title, *_) = [t.get_text() for t in plot_cosines(vectors).texts]
    assert title.endswith(f"at layer {suggested[1]}")


def test_one_direction_or_no_such_layer_is_refused() -> None:
    with pytest.raises(VectorsError, match=r"two directions.*backtracking"):
        plot_cosines(made((0, 2), NAMES[-1:]))
    with pytest.raises(VectorsError, match="no cosines at layer 1"):
        plot_cosines(made((0, 2)), 1)


def test_same_vectors_same_bytes(tmp_path) -> None:
    vectors = with_intervals(made())
    first = save_figure(plot_cosines(vectors), tmp_path / "a.png").read_bytes()
    assert save_figure(plot_cosines(vectors), tmp_path / "b.png").read_bytes() == first
    assert save_figure(plot_cosines(vectors, 5), tmp_path / "c.png").read_bytes() != first


def test_weak_directions_have_an_asterisk_and_a_reason() -> None:
    vectors = dict(made(range(4), NAMES[:3]))
    strong = {n: replace(d, spans=200, tasks=50) for n, d in vectors.items()}
    strong["deduction"] = replace(strong["deduction"], spans=7)
    figure = plot_cosines(SteeringVectors(strong, {}), 2)
    marked = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    weak = [n for n, d in strong.items() if d.weakness]
    assert "deduction" in weak and marked == [n + "*" * (n in weak) for n in strong]
    said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert "* Not to be trusted yet" in said and "deduction 7 spans" in said
