"""The figure of layer scores shows every score, curve, ring and interval."""

from __future__ import annotations

import pandas as pd

from steerkit.layer_plot import TITLES, plot_layer_scores
from steerkit.plots import figure_bytes


def table(scores=("auroc", "gradient", "sweep")) -> pd.DataFrame:
    rows = [
        {"behavior": name, "layer": layer, "score": score, "value": layer / 10, "low": 0, "high": 1}
        for score in scores
        for name in ("backtracking", "deduction")
        for layer in range(5)
    ]
    return pd.DataFrame(rows)


def test_one_panel_a_score_one_curve_a_behaviour() -> None:
    figure = plot_layer_scores(table(), {"backtracking": 4}, score="sweep", caption="A model.")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        TITLES[name][0] for name in ("auroc", "gradient", "sweep")
    ]
    for axes in panels:
        curves = [line for line in axes.lines if line.get_gid()]
        assert [line.get_gid() for line in curves] == ["backtracking", "deduction"]
        assert list(curves[0].get_ydata()) == [0.0, 0.1, 0.2, 0.3, 0.4]
        assert len(axes.collections) == 2 and axes.get_ylabel() and axes.get_xlabel()
    rings = [line for line in panels[2].lines if line.get_marker() == "o"]
    assert len(rings) == 1 and list(rings[0].get_xdata()) == [4]
    assert not [line for line in panels[0].lines if line.get_marker() == "o"]
    said = " ".join(text.get_text() for text in figure.texts)
    assert "A model." in said and "95 % bootstrap" in said and "chosen by sweep" in said


def test_every_number_of_scores_draws_and_repeats() -> None:
    for count in range(1, len(TITLES) + 1):
        scores = list(TITLES)[:count]
        figure = plot_layer_scores(table(scores), {}, score=scores[0])
        assert sum(axes.get_visible() for axes in figure.axes) == count
    first, second = (
        figure_bytes(plot_layer_scores(table(), {}, score="sweep"), "png") for _ in range(2)
    )
    assert first == second


def test_weak_directions_have_an_asterisk_and_a_reason() -> None:
    weak = {"deduction": "7 spans", "initializing": "3 spans"}  # the second was not scored
    figure = plot_layer_scores(table(), {}, score="sweep", weak=weak)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["backtracking", "deduction*"]
    said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert "* Not to be trusted yet: deduction 7 spans." in said
    plain = plot_layer_scores(table(), {}, score="sweep")
    assert "trusted" not in " ".join(text.get_text() for text in plain.texts)
