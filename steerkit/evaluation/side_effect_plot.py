"""The figure of side effects: accuracy, endings, length and repetition over the coefficient."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from steerkit.errors import StatisticsError
from steerkit.evaluation.curve_plot import (
    GREY,
    behavior_color,
    coefficient_label,
    draw_curve,
    first_annotator,
    fluent_range,
)
from steerkit.plots import FAINT, GRID, STYLE, ReportFigure

TITLES = {
    "accuracy": ("Accuracy", "share of checkable answers", True),
    "closed": ("Thinking ended", "share of chains that close it", True),
    "truncated": ("Cut off", "share of chains at the token limit", True),
    "thinking_tokens": ("Thinking length", "tokens a chain", False),
    "parsed": ("Parsed", "share of sentences with a label", True),
    "repeated": ("Repeated sentences", "share of sentences", True),
    "zlib": ("Compressed size", "of plain size (lower: repetitive)", False),
    "loop": ("Longest loop", "tokens", False),
    "kl": ("Divergence", "KL, nats a token", False),
    "perplexity": ("Perplexity", "under the unsteered model", False),
}
"""Title, unit and whether it is a share, of every measure."""


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
    width, height = max(3.5 * columns, 5.2), 1.75 + 2.55 * rows
    behaviors = list(dict.fromkeys(steered["behavior"]))
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.72 / width,
            right=1 - 0.12 / width,
            wspace=0.3,
            hspace=0.62,
            top=1 - 0.38 / height,
            bottom=1.78 / height,
        )
        for panel in axes.flat[len(measures) :]:
            panel.set_visible(False)
        for panel, measure in zip(axes.flat, measures, strict=False):
            part = table[table["measure"] == measure]
            base = part[part["kind"] == "baseline"]
            _ground(panel, base, part[part["kind"] == "random"])
            for name in behaviors:
                curve = part[(part["kind"] == "steered") & (part["behavior"] == name)]
                curve = pd.concat([base, curve]) if len(base) else curve
                color = behavior_color(name)
                draw_curve(panel, curve, color, fluent_range(settings, name), gid=name)
            _finish(panel, measure, settings)
        handles = [
            Line2D([], [], color=behavior_color(name), marker="o", linewidth=2, label=name)
            for name in behaviors
        ]
        handles.append(
            Line2D([], [], color=FAINT, linestyle=(0, (4, 3)), linewidth=1.0, label="unsteered")
        )
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.04 / width, 1.22 / height),
            ncols=max(int(width / 1.9), 2),
            frameon=False,
            fontsize=8,
        )
        text = textwrap.fill(
            f"{caption} {_said(table, annotator, measures)}".strip(), width=int(width * 15.5)
        )
        figure.text(
            0.12 / width, 0.76 / height, text, fontsize=8, color=FAINT, va="top", linespacing=1.35
        )
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
        alpha=0.6,
        zorder=2,
        gid="random",
    )


def _finish(axes: Axes, measure: str, settings: Mapping[str, Any]) -> None:
    title, unit, is_share = TITLES[measure]
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_ylabel(unit)
    axes.set_xlabel(coefficient_label(settings))
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)


def _said(table: pd.DataFrame, annotator: str, measures: list[str]) -> str:
    tasks = table.loc[table["kind"] == "steered", "tasks"]
    parts = [
        f"Points: means over chains of up to {int(tasks.max()):,} tasks; lines and grey band: 95 % "
        "intervals over tasks. Hollow: outside the range in which text was found to stay fluent."
    ]
    if (table["kind"] == "random").any():
        parts.append("Grey ticks: random directions of the same length.")
    if "parsed" in measures:
        parts.append(f"Parsed by {annotator}.")
    if "thinking_tokens" in measures:
        parts.append("Lengths of chains that were cut off count as they are.")
    if "kl" in measures:
        parts.append("KL of steered from unsteered predictions as the table defines it.")
    return " ".join(parts)
