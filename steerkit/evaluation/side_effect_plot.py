"""The figure of side effects: accuracy, endings, length and repetition over the coefficient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steerkit.errors import StatisticsError
from steerkit.evaluation.curve_plot import (
    GREY,
    behavior_color,
    draw_curve,
    finish_panel,
    first_annotator,
    fluent_range,
    room_below,
    wrapped,
    write_below,
)
from steerkit.plots import FAINT, STYLE, ReportFigure

TITLES = {
    "accuracy": ("Accuracy", "share of answers", True),
    "closed": ("Thinking ended", "share of chains", True),
    "truncated": ("Cut off", "share of chains", True),
    "thinking_tokens": ("Thinking length", "tokens a chain", False),
    "parsed": ("Parsed", "share of sentences", True),
    "repeated": ("Repeated sentences", "share of sentences", True),
    "zlib": ("Compressed size", "of plain size", False),
    "loop": ("Longest loop", "tokens", False),
    "kl": ("Divergence", "KL, nats a token", False),
    "perplexity": ("Perplexity", "unsteered model", False),
}
"""Title, unit and whether it is a share, of every measure."""
_NOTES = {
    "accuracy": "Accuracy: of answers that can be checked.",
    "truncated": "Cut off: at the limit of tokens; lengths of these chains count as they are.",
    "zlib": "Compressed size falls where text repeats itself.",
    "kl": "Divergence: of steered from unsteered predictions.",
}


def plot_side_effects(
    side_effects: pd.DataFrame,
    settings: Mapping[str, Any],
    *,
    annotator: str | None = None,
    caption: str = "",
) -> Figure:
    """Side effects over the coefficient, one panel a measure, one colour a behaviour.

    The unsteered value is dashed, with its 95 % interval as a grey band; grey ticks are the
    random control directions. Points outside a behaviour's fluent range are hollow.

    Parameters
    ----------
    side_effects:
        As :func:`steerkit.evaluation.side_effects.side_effects` gives it.
    settings:
        ``ranges`` and ``unit`` are read, where they are there.
    annotator:
        Whose labels (only ``parsed`` depends on them); by default the first.
    caption:
        Stands underneath, before what the figure says of itself.

    Raises :class:`StatisticsError` where nothing was steered.
    """
    annotator = first_annotator(side_effects, annotator)
    table = side_effects[side_effects["annotator"] == annotator]
    steered = table[(table["kind"] == "steered") & table["value"].notna()]
    measures = [name for name in TITLES if (steered["measure"] == name).any()]
    if not measures:
        raise StatisticsError("nothing to draw: no condition is steered", found=annotator)
    columns = min(len(measures), 3)
    rows = -(-len(measures) // columns)
    width = max(3.5 * columns, 5.2)
    behaviors = list(dict.fromkeys(steered["behavior"]))
    text = wrapped(f"{caption} {_said(table, annotator, measures)}", width)
    handles = [
        Line2D([], [], color=behavior_color(name), marker="o", linewidth=2, label=name)
        for name in behaviors
    ]
    handles.append(
        Line2D([], [], color=FAINT, linestyle=(0, (4, 3)), linewidth=1.0, label="unsteered")
    )
    below = room_below(text, handles, width)
    # all panels have the same axis, also those that not every coefficient was measured for
    at = np.append(steered["coefficient"].to_numpy(np.float64), 0.0)
    across = at.min() - 0.05 * np.ptp(at), at.max() + 0.05 * np.ptp(at)
    height = 0.38 + 2.6 * rows + below
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.72 / width,
            right=1 - 0.12 / width,
            wspace=0.34,
            hspace=0.62,
            top=1 - 0.38 / height,
            bottom=(below + 0.52) / height,
        )
        for panel in axes.flat[len(measures) :]:
            panel.set_visible(False)
        for panel, measure in zip(axes.flat, measures, strict=False):
            part = table[table["measure"] == measure]
            base = part[part["kind"] == "baseline"]
            if measure == "kl":  # that of a model from itself, where it was not computed
                base = base.fillna({"value": 0.0})
            _ground(panel, base, part[part["kind"] == "random"])
            steps = np.diff(np.unique(part["coefficient"].to_numpy(np.float64)))
            aside = 0.07 * float(steps.min()) if len(steps) else 0.0
            for number, name in enumerate(behaviors):
                curve = part[(part["kind"] == "steered") & (part["behavior"] == name)]
                curve = pd.concat([base, curve]) if len(base) else curve
                color = behavior_color(name)
                bounds = fluent_range(settings, name)
                shift = aside * (number - (len(behaviors) - 1) / 2)
                draw_curve(panel, curve, color, bounds, gid=name, aside=shift)
            title, unit, is_share = TITLES[measure]
            panel.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
            finish_panel(panel, settings, unit, share=is_share)
            panel.set_xlim(*across)
        write_below(figure, text, handles)
    return figure


def _ground(axes: Axes, base: pd.DataFrame, random: pd.DataFrame) -> None:
    """The unsteered value with its interval, and the random controls."""
    for row in base.to_dict("records"):
        axes.axhspan(row["low"], row["high"], color=GREY, alpha=0.13, linewidth=0, zorder=1)
        axes.axhline(row["value"], color=FAINT, linestyle=(0, (4, 3)), linewidth=0.9, zorder=2)
    # their sign means nothing: they stand on the side where they were run
    axes.plot(
        random["coefficient"].to_numpy(np.float64),
        random["value"].to_numpy(np.float64),
        linestyle="",
        marker="_",
        markersize=7,
        color=GREY,
        alpha=0.35,
        zorder=2,
        gid="random",
    )


def _said(table: pd.DataFrame, annotator: str, measures: list[str]) -> str:
    tasks = table.loc[table["kind"] == "steered", "tasks"]
    parts = [
        f"Points: means over chains of up to {int(tasks.max()):,} tasks; lines and grey band: 95 % "
        "intervals over tasks. Hollow: outside the range in which text was found to stay fluent."
    ]
    if (table["kind"] == "random").any():
        parts.append("Grey ticks: random directions of the same length.")
    parts += [_NOTES[measure] for measure in measures if measure in _NOTES]
    if "parsed" in measures:
        parts.append(f"Parsed: sentences that {annotator} could label.")
    return " ".join(parts)
