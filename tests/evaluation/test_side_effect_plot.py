"""The figure shows every measured side effect over the coefficient, baseline and controls too."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steerkit.errors import StatisticsError
from steerkit.evaluation.side_effect_plot import TITLES, plot_side_effects
from steerkit.evaluation.side_effects import SIDES, side_effects
from steerkit.plots import figure_bytes
from tests.evaluation.planted import SETTINGS, experiment, table


@pytest.fixture(scope="module")
def found():
    return side_effects(table(experiment(controls=3), tasks=10, truncated=0.1))


def test_every_side_effect_has_a_title() -> None:
    assert set(TITLES) == set(SIDES)


def test_one_panel_a_measure_one_curve_a_behaviour(found) -> None:
    figure = plot_side_effects(found, SETTINGS, caption="A model.")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    measures = [name for name in TITLES if name in set(found.measure)]
    assert [axes.get_title(loc="left") for axes in panels] == [TITLES[m][0] for m in measures]
    for axes, measure in zip(panels, measures, strict=True):
        assert axes.get_ylabel() and axes.get_xlabel()
        part = found[found.measure == measure]
        for behavior in ("backtracking", "uncertainty-estimation"):
            mine = part[(part.behavior == behavior) & (part.kind == "steered")]
            value = mine.set_index("coefficient")["value"]
            value[0.0] = part[part.kind == "baseline"]["value"].item()
            shown = {}
            for gid in (behavior, f"{behavior}: outside"):
                (line,) = [line for line in axes.lines if line.get_gid() == gid]
                shown |= dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
            assert shown == pytest.approx(value.to_dict())
        (ticks,) = [line for line in axes.lines if line.get_gid() == "random"]
        assert len(ticks.get_xdata()) == 6
    said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert "A model." in said and "random directions" in said and "10 tasks" in said


def test_nothing_overlaps_and_bytes_repeat(found) -> None:
    figure = plot_side_effects(found, SETTINGS, caption="A model and its tasks. " * 3)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [figure.legends[0].get_window_extent()]
    boxes += [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
    for i, a in enumerate(boxes):
        assert a.x0 >= 0 and a.y0 >= 0 and a.x1 <= figure.bbox.x1 and a.y1 <= figure.bbox.y1
        for b in boxes[i + 1 :]:
            assert not a.overlaps(b)
    first, second = (figure_bytes(plot_side_effects(found, SETTINGS), "png") for _ in range(2))
    assert first == second


def test_every_number_of_measures_draws(found) -> None:
    names = [name for name in TITLES if name in set(found.measure)]
    for count in range(1, len(names) + 1):
        figure = plot_side_effects(found[found.measure.isin(names[:count])], {})
        assert sum(axes.get_visible() for axes in figure.axes) == count


def test_nothing_steered_is_refused(found) -> None:
    with pytest.raises(StatisticsError, match="no condition is steered"):
        plot_side_effects(found[found.kind != "steered"], SETTINGS)
    with pytest.raises(StatisticsError, match="no condition is steered"):
        plot_side_effects(found.assign(value=np.nan), SETTINGS)


def test_the_divergence_of_the_unsteered_model_from_itself_is_nothing(found) -> None:
    moved = found[found.measure == "accuracy"].assign(measure="kl")
    moved.loc[moved.kind == "baseline", ["value", "low", "high"]] = np.nan
    few = moved[(moved.kind == "baseline") | moved.headline.astype(bool)]
    figure = plot_side_effects(pd.concat([found, few]), SETTINGS)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    (line,) = [x for x in panels["Divergence"].lines if x.get_gid() == "backtracking"]
    shown = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert sorted(shown) == [-0.2, 0.0, 0.3] and shown[0.0] == 0
    assert panels["Divergence"].get_xlim() == panels["Accuracy"].get_xlim()
