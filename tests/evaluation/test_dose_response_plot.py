"""The figure shows every coefficient, interval, control and range that the tables have."""

from __future__ import annotations

import numpy as np
import pytest

from steerkit.errors import StatisticsError
from steerkit.evaluation.dose_response_plot import plot_dose_response
from steerkit.evaluation.rates import rates
from steerkit.evaluation.verdicts import controls
from steerkit.plots import figure_bytes
from tests.evaluation.planted import SETTINGS, experiment, table


@pytest.fixture(scope="module")
def tables():
    generations = table(experiment(controls=3, control_tasks=6), tasks=12, truncated=0.1)
    return rates(generations), controls(generations)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def drawn(axes, gid):
    return [artist for artist in (*axes.lines, *axes.patches) if artist.get_gid() == gid]


def test_points_bands_and_ranges_are_those_of_the_tables(tables) -> None:
    found, against = tables
    figure = plot_dose_response(*tables, SETTINGS, caption="A model.")
    left, right = panels(figure)
    assert left.get_title(loc="left") == "backtracking"
    assert right.get_title(loc="left") == "uncertainty-estimation"
    own = found[(found.label == "backtracking") & (found.measure == "spans")]
    value = own[own.kind.isin(["steered", "baseline"])]
    value = value[value.behavior.isna() | (value.behavior == "backtracking")]
    value = value.set_index("coefficient")["value"].sort_index()
    (inside,), (outside,) = drawn(left, "backtracking"), drawn(left, "backtracking: outside")
    assert list(inside.get_xdata()) == [-0.2, -0.1, 0.0, 0.1, 0.2, 0.3]
    assert list(outside.get_xdata()) == [-0.3, 0.4]  # drawn apart
    np.testing.assert_allclose(inside.get_ydata(), value[list(inside.get_xdata())])
    np.testing.assert_allclose(outside.get_ydata(), value[list(outside.get_xdata())])
    assert len(drawn(right, "uncertainty-estimation: outside")[0].get_xdata()) == 0
    (asked,) = drawn(left, "prompt")
    prompt = own[own.kind == "prompt"]["value"].item()
    assert asked.get_ydata()[0] == prompt and not drawn(right, "prompt")
    for axes, name in ((left, "backtracking"), (right, "uncertainty-estimation")):
        base = found[(found.kind == "baseline") & (found.label == name)]
        base = base[base.measure == "spans"]["value"].item()
        for kind in ("random", "shuffled"):
            bands = {round(b.get_x() + b.get_width() / 2, 1): b for b in drawn(axes, kind)}
            assert sorted(bands) == [-0.2, 0.3]
            for sign, at in (("suppress", -0.2), ("amplify", 0.3)):
                part = against[(against.behavior == name) & (against.kind == kind)]
                change = part[part.sign == sign].change
                assert bands[at].get_y() == pytest.approx(base + change.min())
                assert bands[at].get_height() == pytest.approx(change.max() - change.min())
    assert len(drawn(left, "fluent")) == 1 and len(drawn(left, "free")) == 1
    assert len(drawn(right, "fluent")) == 1 and not drawn(right, "free")
    said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert "A model." in said and "3 control directions of each kind" in said
    assert "cut off" in said and "on 6 tasks" in said


def test_measures_have_units_and_no_bands_but_those_of_spans(tables) -> None:
    for measure in ("tokens", "count", "hazard"):
        figure = plot_dose_response(*tables, SETTINGS, measure=measure)
        for axes in panels(figure):
            assert axes.get_ylabel() and axes.get_xlabel()
            assert not drawn(axes, "random") and not drawn(axes, "shuffled")


def test_without_ranges_every_point_is_alike_and_that_is_said(tables) -> None:
    figure = plot_dose_response(*tables, {})
    for axes in panels(figure):
        assert not drawn(axes, "fluent") and not drawn(axes, "free")
    assert len(drawn(panels(figure)[0], "backtracking: outside")[0].get_xdata()) == 0
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["steered", "unsteered"]
    said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert "No range of fluent text is known for backtracking" in said


def test_the_same_tables_give_the_same_bytes(tables) -> None:
    first, second = (figure_bytes(plot_dose_response(*tables, SETTINGS), "png") for _ in range(2))
    assert first == second


def test_nothing_overlaps(tables) -> None:
    figure = plot_dose_response(*tables, SETTINGS, caption="A model and its tasks. " * 3)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [figure.legends[0].get_window_extent()]
    boxes += [axes.get_tightbbox() for axes in panels(figure)]
    for i, a in enumerate(boxes):
        assert a.x0 >= 0 and a.y0 >= 0 and a.x1 <= figure.bbox.x1 and a.y1 <= figure.bbox.y1
        for b in boxes[i + 1 :]:
            assert not a.overlaps(b)


def test_what_cannot_be_drawn_is_refused(tables) -> None:
    found, against = tables
    with pytest.raises(StatisticsError, match="no such annotator"):
        plot_dose_response(found, against, SETTINGS, annotator="nobody")
    with pytest.raises(StatisticsError, match="nothing to draw"):
        plot_dose_response(found[found.kind != "steered"], against, SETTINGS)


def test_a_single_behaviour_has_room_for_its_legend(tables) -> None:
    found, against = tables
    one = found[found.behavior.isna() | (found.behavior == "backtracking")]
    figure = plot_dose_response(one, against, SETTINGS)
    figure.canvas.draw()
    (panel,) = panels(figure)
    boxes = [panel.get_tightbbox(), figure.legends[0].get_window_extent()]
    boxes += [text.get_window_extent() for text in figure.texts]
    assert len(boxes) == 3
    for i, a in enumerate(boxes):
        assert a.x0 >= 0 and a.y0 >= 0 and a.x1 <= figure.bbox.x1
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
