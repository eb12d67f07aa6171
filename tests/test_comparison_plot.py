"""The figure of a comparison shows the numbers of its table, and nothing stands on anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from steerkit.behaviors import behavior
from steerkit.comparison import compare_directions
from steerkit.comparison_plot import plot_comparison
from steerkit.errors import VectorsError
from steerkit.plots import save_figure
from steerkit.vectors import SteeringVectors
from tests.test_plots import made

NAMES = ("deduction", "uncertainty-estimation", "backtracking")


def vectors(seed: int, names=NAMES, layers=(0, 2, 3, 5), **changes) -> SteeringVectors:
    found = made(layers, names, **changes)
    generator = torch.Generator().manual_seed(seed)
    return SteeringVectors(
        {
            name: replace(
                d,
                tensor=torch.randn(d.tensor.shape, generator=generator),
                cone=5 + 5 * torch.rand(len(layers), generator=generator),
            )
            for name, d in found.items()
        },
        {"model": f"model-{seed}", "contrast": "rest"},
    )


@pytest.fixture(scope="module")
def table():
    return compare_directions(vectors(0), vectors(1))


@pytest.fixture(scope="module")
def shuffled():
    return compare_directions(vectors(2), vectors(1))


def line(axes, gid):
    (found,) = [line for line in axes.lines if line.get_gid() == gid]
    return found


def test_panels_show_the_cosines_of_the_table(table, shuffled) -> None:
    figure = plot_comparison(table, shuffled=shuffled)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(NAMES)
    for axes, name in zip(figure.axes, NAMES, strict=True):
        mine = table[table["behavior_a"] == name]
        same = mine[mine["matched"]]
        drawn = line(axes, name)
        assert to_hex(drawn.get_color()) == behavior(name).color.lower()
        np.testing.assert_allclose(drawn.get_xdata(), same["layer"])
        np.testing.assert_allclose(drawn.get_ydata(), same["cosine"])
        for other in set(NAMES) - {name}:
            grey = line(axes, other)
            assert to_hex(grey.get_color()) == "#b5b5b5"
            rows = mine[mine["behavior_b"] == other]
            np.testing.assert_allclose(grey.get_ydata(), rows["cosine"])
        dashed = line(axes, f"shuffled {name}")
        twin = shuffled[(shuffled["behavior_a"] == name) & shuffled["matched"]]
        np.testing.assert_allclose(dashed.get_ydata(), twin["cosine"])
        assert dashed.get_linestyle() == "--"
        (band,) = axes.collections
        bounds = band.get_paths()[0].vertices
        assert bounds[:, 1].min() == pytest.approx(same["low"].min())
        assert bounds[:, 1].max() == pytest.approx(same["high"].max())
        chance = axes.patches[0].get_extents().transformed(axes.transData.inverted())
        assert (chance.y0, chance.y1) == pytest.approx(
            (-table["chance"].iloc[0], table["chance"].iloc[0])
        )
    assert figure.axes[0].get_ylabel() == "cosine" and "layer" in figure.axes[0].get_xlabel()


def words(figure) -> str:
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def test_caption_and_legend_say_what_is_there_and_no_more(table, shuffled) -> None:
    whole = plot_comparison(table, shuffled=shuffled)
    for part in (
        "model-0 and model-1",
        "Contrast: rest.",
        "cones over tasks of both",
        "at least 90 %",
    ):
        assert part in words(whole)
    assert "labels shuffled within each chain" in words(whole)
    assert f"width 8: within {table['chance'].iloc[0]:.3f}" in words(whole)
    named = [text.get_text() for text in whole.legends[0].get_texts()]
    assert named == [
        *("the same behaviour", "its interval", "other behaviours", "labels shuffled"),
        "95 % of random directions",
    ]
    bare = SteeringVectors(dict(made(names=("deduction",))), {})
    figure = plot_comparison(compare_directions(bare, bare))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "the same behaviour",
        "95 % of random directions",
    ]
    assert "Interval" not in words(figure) and "shuffled" not in words(figure)
    one_sided = plot_comparison(compare_directions(vectors(0), made()))
    assert "cones over tasks of the first" in words(one_sided) and "at least 95 %" in words(
        one_sided
    )


@pytest.mark.parametrize(
    "names", [NAMES[:1], NAMES, (*NAMES, "adding-knowledge", "initializing", "example-testing")]
)
def test_texts_keep_off_the_panels_and_inside_the_figure(names) -> None:
    table = compare_directions(vectors(0, names, range(6)), vectors(1, names, range(6)))
    figure = plot_comparison(table, shuffled=table)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == len(names)
    panels = [axes.get_tightbbox(renderer) for axes in shown]
    boxes = [artist.get_window_extent(renderer) for artist in (*figure.legends, *figure.texts)]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in (*panels, *boxes[i + 1 :]))
    for i, panel in enumerate(panels):
        assert not any(panel.overlaps(other) for other in panels[i + 1 :])


def test_same_table_same_bytes(table, tmp_path) -> None:
    first = save_figure(plot_comparison(table), tmp_path / "a.png").read_bytes()
    assert save_figure(plot_comparison(table), tmp_path / "b.png").read_bytes() == first
    other = plot_comparison(table.assign(cosine=table["cosine"] / 2))
    assert save_figure(other, tmp_path / "c.png").read_bytes() != first


def test_an_empty_table_is_refused(table) -> None:
    with pytest.raises(VectorsError, match="nothing was compared"):
        plot_comparison(table.iloc[:0])


def test_several_shuffles_are_shown_as_mean_and_range(table) -> None:
    twins = [compare_directions(vectors(seed), vectors(1)) for seed in range(2, 7)]
    several = pd.concat([twin.assign(twin=n) for n, twin in enumerate(twins)], ignore_index=True)
    figure = plot_comparison(table, shuffled=several)
    for axes, name in zip(figure.axes, NAMES, strict=True):
        drawn = several[several.matched & (several.behavior_a == name)]
        cosines = drawn.pivot(index="layer", columns="twin", values="cosine").to_numpy()
        dashed = [found for found in axes.lines if found.get_linestyle() == "--"]
        assert line(axes, f"shuffled {name}") in dashed and len(dashed) == 3
        heights = [found.get_ydata() for found in dashed]
        for expected in (cosines.mean(axis=1), cosines.min(axis=1), cosines.max(axis=1)):
            assert any(np.allclose(height, expected) for height in heights)
        np.testing.assert_allclose(line(axes, f"shuffled {name}").get_ydata(), cosines.mean(axis=1))
    assert "mean and range of 5 shuffles" in words(figure)


def test_weak_directions_have_an_asterisk_and_a_reason(table) -> None:
    marked = table.assign(note="")
    marked.attrs = table.attrs
    own = marked["matched"] & (marked["behavior_a"] == "deduction")
    marked.loc[own, "note"] = "B: 7 spans"
    figure = plot_comparison(marked)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        name + "*" * (name == "deduction") for name in NAMES
    ]
    assert "* Not to be trusted yet: deduction (B: 7 spans)." in words(figure)
