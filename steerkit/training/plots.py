"""The figure of a training run, from its log."""

from __future__ import annotations

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from steerkit.behaviors import behaviors
from steerkit.plots import FAINT, INK, STYLE, ReportFigure, label_panel

_Curve = tuple[str, str, str]  # column of the log, label, colour
_KINDS = ("#4C78A8", "#54A24B", "#B279A2", "#9D755D", "#E45756")


def plot_training(log: pd.DataFrame) -> Figure:
    """How a training run went, from its ``log.csv``: a panel for everything that it logs.

    Over optimizer steps: loss or reward; accuracy, of every kind of task where there are
    several; length of the chains and how they end; the behaviours' shares of sentences in
    their own colours; dead ends; the gradient's norm. Thin lines are rows of the log, thick
    ones their running mean (centred, over an eighth of the rows, at most 25); a supervised
    run's rows are means already. Points, dashed between them, are measurements on held-out
    tasks. Columns that the log does not have are left out.
    """
    panels = [
        (title, unit, [curve for curve in curves if _measured(log, curve[0])])
        for title, unit, curves in _training_panels(log)
    ]
    panels = [panel for panel in panels if panel[2]]
    rows = max(-(-len(panels) // 2), 1)
    span = max(1, min(25, len(log) // 8)) if "reward" in log else 1
    height = 1.0 + 2.7 * rows
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(10.5, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, 2, squeeze=False)
        figure.subplots_adjust(left=0.065, right=0.885, wspace=0.45, hspace=0.5)
        figure.subplots_adjust(top=1 - 0.8 / height, bottom=0.9 / height)
        for panel in axes.flat[len(panels) :]:
            panel.set_visible(False)
        for panel, (title, unit, curves) in zip(axes.flat, panels, strict=False):
            labels = [_training_curve(panel, log, curve, span) for curve in curves]
            label_panel(panel, title, unit, across="optimizer step")
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if unit.startswith("share"):
                panel.set_ylim(bottom=0.0)
            if title == "Loss":  # most of its fall is in the first steps
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                panel.yaxis.set_major_formatter(ScalarFormatter())
                panel.yaxis.set_minor_formatter(NullFormatter())
            _label_ends(panel, labels)
        figure.text(
            0.065,
            1 - 0.25 / height,
            "Training by step",
            fontsize=13,
            fontweight="bold",
            va="center",
        )
        tokens = f", {int(log['tokens'].iloc[-1]):,} tokens" if len(log) else ""
        thick = f" Thin: single rows. Thick: their running mean over {span}." if span > 1 else ""
        points = " Points: held-out tasks, the same each time."
        caption = f"{len(log):,} rows of the log{tokens}.{thick}{points}"
        figure.text(0.065, 0.22 / height, caption, fontsize=8, color=FAINT, va="center")
    return figure


def _training_panels(log: pd.DataFrame) -> list[tuple[str, str, list[_Curve]]]:
    """Title, unit and curves of every panel that a log could fill."""
    kinds = [name.partition("_")[2] for name in log.columns if name.startswith("accuracy_")]
    kinds = [kind for kind in kinds if _measured(log, f"accuracy_{kind}")]
    colors = dict(zip(kinds, _KINDS, strict=False))
    accuracy = [("accuracy", "all", INK), ("heldout_accuracy", "held out", INK)]
    for kind, color in colors.items():
        accuracy.append((f"accuracy_{kind}", kind, color))
        accuracy.append((f"heldout_accuracy_{kind}", "", color))
    shares = [(b.name, b.short or b.name, b.color) for b in behaviors()]
    loss = [("loss", "training", INK), ("heldout_loss", "held out", "#D55E00")]
    return [
        ("Reward", "mean per chain", [("reward", "reward", INK)]),
        # that of reinforcement learning has a gradient worth following, but no worth itself
        ("Loss", "nats per token", [] if "reward" in log else loss),
        ("Accuracy", "share of chains", accuracy),
        ("Length", "new tokens per chain", [("length", "length", INK)]),
        (
            "Endings",
            "share of chains",
            [
                ("closed", "closed", INK),
                ("truncated", "cut off", "#E45756"),
                ("unused", "no advantage", "#9D755D"),
            ],
        ),
        ("Behaviours", "share of sentences", [*shares, ("unparsed", "unparsed", "#000000")]),
        ("Dead ends", "per chain", [("dead_ends", "dead ends", INK)]),
        ("Silent dead ends", "share of dead ends", [("silent_dead_ends", "silent", INK)]),
        ("Gradient", "norm before clipping", [("grad_norm", "norm", INK)]),
    ]


def _measured(log: pd.DataFrame, column: str) -> bool:
    return column in log and bool(log[column].notna().any())


def _training_curve(
    axes: Axes, log: pd.DataFrame, curve: _Curve, span: int
) -> tuple[str, str, float]:
    """Draw one column; its label, its colour and the height at which it ends."""
    column, label, color = curve
    values = log.set_index("step")[column].dropna()
    if column.startswith("heldout") or len(values) * 2 <= len(log):  # measured now and then
        look: dict[str, Any] = {"linestyle": "--", "linewidth": 1.0, "marker": "o"}
        axes.plot(values.index, values, color=color, markersize=3.5, gid=column, **look)
        return label, color, float(values.iloc[-1])
    mean = values.rolling(span, center=True, min_periods=1).mean()
    axes.plot(values.index, values, color=color, linewidth=0.6, alpha=0.35)
    axes.plot(values.index, mean, color=color, linewidth=1.8, gid=column)
    return label, color, float(mean.iloc[-1])


def _label_ends(axes: Axes, labels: list[tuple[str, str, float]]) -> None:
    """Names of the curves right of the panel, at the heights where they end, none over another."""
    apart = 0.085  # of the panel's height
    named = sorted((label for label in labels if label[0]), key=lambda label: label[2])
    axes.get_ylim()  # takes note of what was drawn: before it, transData is that of an empty panel
    ends = [axes.transData.transform((0.0, value)) for _, _, value in named]
    places: list[float] = []
    for end in ends:
        wanted = float(axes.transAxes.inverted().transform(end)[1])
        places.append(max(wanted, places[-1] + apart) if places else wanted)
    # what was pushed over the top comes down again, and pushes what is below it
    limit = 1.0
    for number in range(len(places) - 1, -1, -1):
        places[number] = min(places[number], limit)
        limit = places[number] - apart
    for (label, color, _), place in zip(named, places, strict=True):
        axes.annotate(
            label,
            (1.02, place),
            xycoords="axes fraction",
            color=color,
            fontsize=8,
            va="center",
            annotation_clip=False,
        )
