"""Curves are split at the borders of the fluent range; captions and legends get their room."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steerkit.errors import StatisticsError
from steerkit.evaluation.curve_plot import (
    GREY,
    behavior_color,
    draw_curve,
    draw_range,
    finish_panel,
    first_annotator,
    fluent_range,
    room_below,
    wrapped,
    write_below,
)

CURVE = pd.DataFrame(
    {
        "coefficient": [0.3, -0.2, 0.0, 0.1],
        "value": [0.4, 0.1, 0.2, 0.25],
        "low": [0.3, 0.0, 0.1, 0.2],
        "high": [0.5, 0.2, 0.3, 0.3],
    }
)


def lines(axes) -> dict[str, list[float]]:
    return {line.get_gid(): list(line.get_xdata()) for line in axes.lines if line.get_gid()}


def test_points_at_the_border_of_the_fluent_range_are_inside() -> None:
    axes = Figure().subplots()
    draw_curve(axes, CURVE, "red", (-0.1, 0.1 + 0.2), gid="own", aside=0.01)
    assert lines(axes) == {
        "own: all": [-0.2, 0.0, 0.1, 0.3],
        "own": [0.0, 0.1, 0.3],
        "own: outside": [-0.2],
    }
    (bars,) = axes.collections
    ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
    assert ends == [(0.0, 0.2), (0.1, 0.3), (0.2, 0.3), (0.3, 0.5)]
    assert bars.get_segments()[0][0, 0] == pytest.approx(-0.19)
    other = Figure().subplots()
    draw_curve(other, CURVE, "red", None, gid="own")
    assert len(lines(other)["own"]) == 4 and not lines(other)["own: outside"]


def test_ranges_that_are_not_known_are_not_drawn() -> None:
    settings = {"ranges": {"a": {"fluent": [-1, 1], "free": None}, "b": None}}
    assert fluent_range(settings, "a") == [-1, 1] and fluent_range(settings, "a", "free") is None
    assert fluent_range(settings, "b") is None and fluent_range({}, "a") is None
    axes = Figure().subplots()
    draw_range(axes, settings, "a")
    assert [patch.get_gid() for patch in axes.patches] == ["fluent"] and not axes.lines


def test_shares_are_in_percent() -> None:
    axes = Figure().subplots()
    axes.set_ylim(-0.25, 0.5)
    finish_panel(axes, {"unit": "norm"}, "share", share=True)
    tick = axes.yaxis.get_major_formatter()
    assert tick(0.125, None) == "12.5 %" and tick(-0.2, None) == "\N{MINUS SIGN}20 %"
    assert "mean norms" in axes.get_xlabel()


def test_legend_and_caption_keep_apart_in_figures_of_any_width() -> None:
    handles = [Line2D([], [], label=f"behaviour {i}") for i in range(7)]
    for width in (5.2, 7.4, 11.1):
        text = wrapped("What was measured on what, with 95 % intervals. " * 5, width)
        below = room_below(text, handles, width)
        figure = Figure(figsize=(width, below + 1))
        write_below(figure, text, handles)
        figure.canvas.draw()
        caption, legend = figure.texts[0], figure.legends[0]
        assert not caption.get_window_extent().overlaps(legend.get_window_extent())
        top = legend.get_window_extent().y1 / figure.dpi
        assert below - 0.3 < top <= below + 0.05 and caption.get_window_extent().y0 > 0


def test_annotators_and_colours() -> None:
    table = pd.DataFrame({"annotator": ["rules", "rules", "exact"]})
    assert first_annotator(table, None) == "rules" and first_annotator(table, "exact") == "exact"
    with pytest.raises(StatisticsError, match="no such annotator"):
        first_annotator(table, "judge")
    with pytest.raises(StatisticsError, match="table with rows"):
        first_annotator(table[:0], None)
    assert behavior_color("random") == GREY != behavior_color("backtracking")
