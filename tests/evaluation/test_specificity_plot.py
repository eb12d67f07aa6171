"""The heatmap shows the changes of its table, with intervals, and nothing overlaps."""

from __future__ import annotations

import numpy as np
import pytest

from steerkit.errors import StatisticsError
from steerkit.evaluation.specificity import specificity
from steerkit.evaluation.specificity_plot import plot_specificity
from steerkit.plots import figure_bytes
from tests.evaluation.planted import experiment, table


@pytest.fixture(scope="module")
def found():
    return specificity(table(experiment(controls=1), tasks=12))


def test_cells_are_changes_in_percentage_points(found) -> None:
    figure = plot_specificity(found, caption="A model.")
    heatmaps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in heatmaps] == ["Amplified", "Suppressed"]
    labels = list(dict.fromkeys(found.label))
    for axes, sign in zip(heatmaps, ("amplify", "suppress"), strict=True):
        part = found[found.sign == sign]
        shown = axes.images[0].get_array()
        low, high = axes.images[0].get_clim()
        assert low == -high and high == pytest.approx(100 * found.change.abs().max())
        for i, condition in enumerate(dict.fromkeys(part.condition)):
            row = part[part.condition == condition].set_index("label").loc[labels]
            np.testing.assert_allclose(shown[i], 100 * row.change)
            texts = {
                t.get_position()[0]: t.get_text()
                for t in axes.texts
                if round(t.get_position()[1] + 0.13, 6) == i
            }
            for j, change in enumerate(row.change):
                assert float(texts[j].replace("−", "-")) == pytest.approx(100 * change, abs=0.051)
        frames = [p for p in axes.patches if p.get_gid() == "own"]
        assert len(frames) == 2  # each behaviour's own label
    said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert "A model." in said and "12 tasks" in said


def test_nothing_overlaps_and_bytes_repeat(found) -> None:
    figure = plot_specificity(found, caption="A model and its tasks. " * 3)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [axes.get_tightbbox() for axes in figure.axes]
    for i, a in enumerate(boxes):
        assert a.x0 >= 0 and a.y0 >= 0 and a.x1 <= figure.bbox.x1 and a.y1 <= figure.bbox.y1
        for b in boxes[i + 1 :]:
            assert not a.overlaps(b)
    first, second = (figure_bytes(plot_specificity(found), "png") for _ in range(2))
    assert first == second


def test_one_sign_alone_draws(found) -> None:
    figure = plot_specificity(found[found.sign == "suppress"])
    assert sum(bool(axes.images) for axes in figure.axes) == 1


def test_nothing_to_draw_is_refused(found) -> None:
    with pytest.raises(StatisticsError, match="annotator"):
        plot_specificity(found[:0])
    with pytest.raises(StatisticsError, match="no change is known"):
        plot_specificity(found.assign(change=np.nan))
