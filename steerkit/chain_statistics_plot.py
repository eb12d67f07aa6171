"""The figure of chain statistics: shares, positions, and what follows what."""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from steerkit.behaviors import behaviors
from steerkit.chain_statistics import END, START, ChainStatistics
from steerkit.plots import FAINT, GRID, INK, STYLE, ReportFigure

_MARKERS = "osD^vPX*"
_NAMES, _PANEL, _LEFT, _CELL = 1.75, 3.6, 0.25, 0.47  # inches; a cell at most


def plot_chain_statistics(statistics: ChainStatistics) -> Figure:
    """Shares and positions of behaviours, and transitions between them, groups side by side.

    Above, on the left: the share of spans that each behaviour has, with its 95 % interval. On
    the right: where in the thinking section its spans begin: a bar between the quartiles with
    a tick at the median, and the mean with its 95 % interval. A marker tells the group.
    Below: a matrix a group, the share of what follows each behaviour with its count; bold
    where the interval lies above the share that the second has after anything. The caption says
    what was counted and what was left out.
    """
    groups = statistics.groups
    names = [n for n in dict.fromkeys(statistics.shares["behavior"]) if _occurs(statistics, n)]
    sides = len(names) + 1
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    tall = 0.35 + len(names) * max(0.34, 0.17 * len(groups) + 0.12)
    square = sides * min(_CELL, 3.5 / sides)
    block = square + 1.75  # a matrix with its title and the names beneath
    width = 2 * (_NAMES + _PANEL) + _LEFT
    caption = textwrap.wrap(_caption(statistics), width=int(width * 15.4))
    foot = 0.25 + 0.165 * len(caption)
    height = 1.05 + tall + 0.85 + rows * block + foot
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)

        def place(left: float, top: float, wide: float, high: float) -> Axes:
            """Axes by the inches from the left and from the top."""
            return figure.add_axes(
                (left / width, 1 - (top + high) / height, wide / width, high / height)
            )

        left = place(_NAMES, 1.05, _PANEL, tall)
        right = place(2 * _NAMES + _PANEL, 1.05, _PANEL, tall)
        _shares(left, statistics, names)
        _positions(right, statistics, names)
        for number, group in enumerate(groups):
            row, column = divmod(number, columns)
            top = 1.05 + tall + 0.85 + row * block + 0.35
            axes = place(_NAMES + column * (_NAMES + _PANEL), top, square, square)
            _matrix(axes, statistics, group, names)
        figure.text(
            _LEFT / width,
            1 - 0.3 / height,
            "Behaviours in chains" if len(groups) > 1 else f"Behaviours in {groups[0]}",
            fontsize=13,
            fontweight="bold",
            va="center",
        )
        if len(groups) > 1:
            figure.legend(
                handles=[
                    Line2D([], [], color=INK, marker=_marker(n), linestyle="", label=group)
                    for n, group in enumerate(groups)
                ],
                loc="center left",
                bbox_to_anchor=(_LEFT / width - 0.006, 1 - 0.6 / height),
                ncols=min(len(groups), 6),
                frameon=False,
                handletextpad=0.2,
            )
        figure.text(
            _LEFT / width,
            (foot - 0.1) / height,
            "\n".join(caption),
            fontsize=8,
            color=FAINT,
            va="top",
            linespacing=1.4,
        )
    return figure


def _occurs(statistics: ChainStatistics, name: str) -> bool:
    rows = statistics.shares[statistics.shares["behavior"] == name]
    return bool(rows["count"].sum())


def _marker(number: int) -> str:
    return _MARKERS[number % len(_MARKERS)]


def _color(name: str) -> str:
    return next((b.color for b in behaviors() if b.name == name), "#7f7f7f")


def _heights(names: list[str], groups: list[str]) -> dict[tuple[str, str], float]:
    """Where each behaviour of each group stands; the first is on top."""
    step = 0.72 / len(groups)
    return {
        (name, group): -n + step * ((len(groups) - 1) / 2 - g)
        for n, name in enumerate(names)
        for g, group in enumerate(groups)
    }


def _frame(axes: Axes, names: list[str], title: str, across: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", pad=8)
    axes.set_xlabel(across)
    axes.set_yticks([-n for n in range(len(names))], names)
    axes.set_ylim(-len(names) + 0.5, 0.5)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3)


def _shares(axes: Axes, statistics: ChainStatistics, names: list[str]) -> None:
    heights = _heights(names, statistics.groups)
    rows = statistics.shares[statistics.shares["unit"] == "spans"]
    for row in rows.to_dict("records"):
        if row["behavior"] not in names:
            continue
        height = heights[row["behavior"], row["group"]]
        color = _color(row["behavior"])
        axes.plot([row["low"], row["high"]], [height, height], color=color, linewidth=2.0)
        axes.plot(
            [row["share"]],
            [height],
            marker=_marker(statistics.groups.index(row["group"])),
            markersize=5.5,
            color=color,
            linestyle="",
            gid=f"{row['group']} {row['behavior']}",
        )
    axes.set_xlim(left=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _frame(axes, names, "How often", "share of the spans of thinking sections")


def _positions(axes: Axes, statistics: ChainStatistics, names: list[str]) -> None:
    heights = _heights(names, statistics.groups)
    thick = 0.5 / len(statistics.groups)
    for row in statistics.positions.to_dict("records"):
        if row["behavior"] not in names or not row["count"]:
            continue
        height = heights[row["behavior"], row["group"]]
        color = _color(row["behavior"])
        low, high = row["lower_quartile"], row["upper_quartile"]
        axes.barh(height, high - low, left=low, height=thick, color=color, alpha=0.22)
        axes.plot(
            [row["median"]] * 2,
            [height - thick / 2, height + thick / 2],
            color=color,
            linewidth=1.4,
            solid_capstyle="butt",
        )
        axes.plot([row["low"], row["high"]], [height, height], color=color, linewidth=2.0)
        axes.plot(
            [row["mean"]],
            [height],
            marker=_marker(statistics.groups.index(row["group"])),
            markersize=5.0,
            color=color,
            linestyle="",
            gid=f"{row['group']} {row['behavior']}",
        )
    axes.set_xlim(-0.02, 1.02)
    _frame(axes, names, "Where", "beginning of a span, from 0, start, to 1, end of the thinking")


def _matrix(axes: Axes, statistics: ChainStatistics, group: str, names: list[str]) -> None:
    rows = statistics.transitions[statistics.transitions["group"] == group]
    known = {(row["first"], row["second"]): row for row in rows.to_dict("records")}
    firsts, seconds = [START, *names], [*names, END]
    shown = np.full((len(firsts), len(seconds)), np.nan)
    for (first, second), row in known.items():
        if first in firsts and second in seconds:
            shown[firsts.index(first), seconds.index(second)] = row["share"]
    axes.imshow(shown, cmap="Greys", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    for (i, j), share in np.ndenumerate(shown):
        row = known.get((firsts[i], seconds[j]), {})
        if not row.get("count"):
            continue
        telling = row["low"] > row["expected"]
        ink = "white" if share > 0.55 else INK
        axes.text(
            j,
            i - 0.12,
            f"{share:.2f}",
            ha="center",
            va="center",
            color=ink,
            fontsize=8,
            fontweight="bold" if telling else "normal",
        )
        axes.text(
            j, i + 0.25, f"{row['count']:,}", ha="center", va="center", color=ink, fontsize=6.5
        )
    axes.set_title(
        textwrap.shorten(f"What follows what: {group}", 52, placeholder=" ..."),
        loc="left",
        fontsize=10.5,
        fontweight="bold",
        pad=8,
    )
    axes.set_xticks(range(len(seconds)), seconds, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(firsts)), firsts)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label in labels:
            label.set_color(_color(label.get_text()) if label.get_text() in names else FAINT)
    axes.set_xticks(np.arange(len(seconds) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(firsts) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _caption(statistics: ChainStatistics) -> str:
    parts = []
    for row in statistics.counts.to_dict("records"):
        told = (
            f"{row['group']}: {row['spans']:,} spans in {row['chains']:,} chains of "
            f"{row['tasks']:,} tasks, labelled by {row['annotators']}"
        )
        left = [
            f"{row[key]:,} {what}"
            for key, what in (
                ("unlabelled", "chains without spans"),
                ("outside", "spans outside the thinking section left out"),
                ("truncated", "chains cut off, without positions and ends"),
                ("gaps", "transitions across text in no span"),
            )
            if row[key]
        ]
        parts.append(f"{'; '.join([told, *left])}.")
    parts.append(
        "Lines: 95 % intervals over tasks. Bars: quartiles, with a tick at the median. Matrices: "
        "from row to column, the share of what follows the row, with the count beneath; bold "
        "where its interval lies above the share that the column has after anything (not adjusted "
        "for the number of cells)."
    )
    return " ".join(parts)
