"""The figure of layer scores: one panel a score, one colour a behaviour, intervals as bands."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from steerkit.behaviors import behaviors
from steerkit.plots import FAINT, GRID, STYLE, ReportFigure, untrusted

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    "auroc": ("Foresight", "AUROC before a span"),
    "gradient": ("Opener slope", "nats a boundary, first order"),
    "gain": ("Opener gain", "nats a boundary"),
    "effect": ("Effect of a step", "KL beyond random steps, nats a token"),
    "published": ("As published (arXiv 2506.18167)", "|log-weighted slope| a token"),
    "sweep": ("Causal sweep", "share of spans, pushed up minus down"),
}


def plot_layer_scores(
    table: pd.DataFrame,
    chosen: Mapping[str, int],
    *,
    score: str,
    caption: str = "",
    weak: Mapping[str, str] | None = None,
) -> Figure:
    """Scores of layers as :func:`steerkit.layer_choice.scores.score_layers` gives them.

    Parameters
    ----------
    table:
        Tidy: behavior, layer, score, value, low, high.
    chosen:
        Layer of every behaviour, ringed in the panel of ``score``, by which it was chosen.
    caption:
        What was measured on what; stands underneath.
    weak:
        Behaviours whose directions should not be trusted yet, and why
        (:func:`steerkit.vectors.weaknesses`): marked by an asterisk, with the reason underneath.
    """
    names = [name for name in TITLES if name in set(table.score)]
    colors = {b.name: b.color for b in behaviors()}
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    height = 1.3 + 3.0 * rows
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(4.0 * columns, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(left=0.22 / columns, right=0.985, wspace=0.28, hspace=0.55)
        figure.subplots_adjust(top=1 - 0.45 / height, bottom=1.45 / height)
        for panel in axes.flat[len(names) :]:
            panel.set_visible(False)
        for panel, name in zip(axes.flat, names, strict=False):
            part = table[table.score == name]
            for behavior, curve in part.groupby("behavior", sort=False):
                color = colors.get(str(behavior), "#7f7f7f")
                panel.fill_between(
                    curve.layer, curve.low, curve.high, color=color, alpha=0.13, linewidth=0
                )
                panel.plot(curve.layer, curve.value, color=color, linewidth=1.7, gid=str(behavior))
                if name == score and behavior in chosen:
                    at = curve[curve.layer == chosen[str(behavior)]]
                    panel.plot(
                        at.layer,
                        at.value,
                        marker="o",
                        markersize=8,
                        markerfacecolor="none",
                        markeredgecolor=color,
                        markeredgewidth=1.8,
                        zorder=4,
                    )
            panel.axhline(0.5 if name == "auroc" else 0.0, color=FAINT, linestyle=":", linewidth=1)
            title, unit = TITLES[name]
            panel.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
            panel.set_ylabel(unit)
            panel.set_xlabel("layer (output of decoder layer, from 0)")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            panel.grid(axis="y", color=GRID, linewidth=0.8)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
        present = list(dict.fromkeys(table.behavior))
        marked = {n: why for n, why in (weak or {}).items() if n in present}
        figure.legend(
            handles=[
                Line2D(
                    [],
                    [],
                    color=colors.get(n, "#7f7f7f"),
                    linewidth=3,
                    label=n + "*" * (n in marked),
                )
                for n in present
            ],
            loc="lower left",
            bbox_to_anchor=(0.05 / columns, 0.62 / height),
            ncols=2 * columns,
            frameon=False,
            fontsize=8,
        )
        text = textwrap.fill(
            " ".join(
                [
                    f"{caption} Bands: 95 % bootstrap over tasks.".strip(),
                    f"Rings: layers chosen by {score}.",
                    *untrusted(marked),
                ]
            ),
            width=58 * columns,
        )
        figure.text(0.09 / columns, 0.58 / height, text, fontsize=8, color=FAINT, va="top")
    return figure
