"""Curves over the coefficient as the figures of an evaluation draw them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from steerkit.behaviors import behaviors
from steerkit.errors import StatisticsError
from steerkit.places import where_words
from steerkit.plots import FAINT, GRID

LINE = 0.153
"""Inches that a line of a caption takes."""
GREY, FREE = "#7f7f7f", "#7fb58a"
"""Of behaviours that are none and of random controls; of the free range."""
_LENGTHS = {
    "norm": "coefficient (mean norms E‖h‖ of the layer)",
    "paper": "coefficient (norms of the layer's mean)",
    "raw": "coefficient (raw differences)",
    "one": "coefficient (unit vectors)",
}


def first_annotator(table: pd.DataFrame, annotator: str | None) -> str:
    """The annotator asked for, or the first of the table.

    Raises :class:`StatisticsError` for one who is not there and for a table without any.
    """
    known = [str(name) for name in dict.fromkeys(table["annotator"])]
    if not known or (annotator is not None and annotator not in known):
        raise StatisticsError(
            "no such annotator in this table",
            expected="one of " + ", ".join(known) if known else "a table with rows",
            found=annotator,
        )
    return annotator or known[0]


def behavior_color(name: str) -> str:
    """The behaviour's colour in every figure; grey for what is none."""
    return {b.name: b.color for b in behaviors()}.get(name, GREY)


def fluent_range(settings: Mapping[str, Any], name: str, kind: str = "fluent") -> Any:
    """The fluent (or free) range of a behaviour's direction, or None where it is not known."""
    return ((settings.get("ranges") or {}).get(name) or {}).get(kind)


def coefficient_label(settings: Mapping[str, Any]) -> str:
    """What the axis of coefficients says."""
    label = _LENGTHS.get(str(settings.get("unit")), "coefficient")
    return "\n".join(filter(None, (label, where_words(settings.get("where")))))


def draw_range(axes: Axes, settings: Mapping[str, Any], name: str) -> None:
    """The fluent range as a light ground, the free one as a bar along the bottom."""
    fluent, free = (fluent_range(settings, name, kind) for kind in ("fluent", "free"))
    if fluent is not None:
        axes.axvspan(*fluent, color="#f5f5f5", linewidth=0, zorder=0, gid="fluent")
    if free is not None:
        axes.plot(
            free,
            [0.0, 0.0],
            transform=axes.get_xaxis_transform(),
            color=FREE,
            linewidth=5,
            solid_capstyle="butt",
            clip_on=True,
            zorder=1,
            gid="free",
        )


def draw_curve(
    axes: Axes,
    curve: pd.DataFrame,
    color: str,
    fluent: Sequence[float] | None,
    *,
    gid: str,
    aside: float = 0.0,
) -> None:
    """Values with intervals over coefficients: filled and joined inside the fluent range.

    What lies outside is hollow and joined by dots. ``aside``: intervals stand so far from their
    coefficients, so that those of several curves can be told apart.
    """
    curve = curve.sort_values("coefficient")
    at = curve["coefficient"].to_numpy(np.float64)
    value = curve["value"].to_numpy(np.float64)
    low, high = (curve[name].to_numpy(np.float64) for name in ("low", "high"))
    inside = np.ones(len(at), dtype=bool)
    if fluent is not None:
        inside = (at >= fluent[0] - 1e-9) & (at <= fluent[1] + 1e-9)
    axes.vlines(at + aside, low, high, color=color, linewidth=1.1, alpha=0.75, zorder=3)
    axes.plot(at, value, color=color, linestyle=":", linewidth=1.0, zorder=3, gid=f"{gid}: all")
    axes.plot(
        at[inside],
        value[inside],
        color=color,
        linewidth=1.7,
        marker="o",
        markersize=4.2,
        zorder=4,
        gid=gid,
    )
    axes.plot(
        at[~inside],
        value[~inside],
        color=color,
        linestyle="",
        marker="o",
        markersize=4.6,
        markerfacecolor="white",
        markeredgewidth=1.2,
        zorder=4,
        gid=f"{gid}: outside",
    )


def finish_panel(axes: Axes, settings: Mapping[str, Any], unit: str, *, share: bool) -> None:
    """Axis labels, ticks (shares in percent) and grid of a panel."""
    axes.set_ylabel(unit)
    axes.set_xlabel(coefficient_label(settings))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if share:
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)


def _percent(value: float, _: object) -> str:
    return f"{round(100 * value, 6):g} %".replace("-", "\N{MINUS SIGN}")


def wrapped(text: str, width: float) -> str:
    """A caption in lines that fit into a figure so many inches wide."""
    kept = text.strip().replace(" %", "\N{NO-BREAK SPACE}%")
    return textwrap.fill(kept, width=int(width * 15.5))


def room_below(text: str, handles: Sequence[Any], width: float) -> float:
    """Inches that a wrapped caption and the legend above it take in a figure of this width."""
    return LINE * (text.count("\n") + 1) + 0.18 * -(-len(handles) // _across(width)) + 0.26


def write_below(figure: Figure, text: str, handles: Sequence[Any] = ()) -> None:
    """Write a wrapped caption along the bottom of a figure, and a legend above it."""
    width, height = figure.get_size_inches()
    top = LINE * (text.count("\n") + 1) + 0.1
    figure.text(
        0.12 / width, top / height, text, fontsize=8, color=FAINT, va="top", linespacing=1.35
    )
    if handles:
        figure.legend(
            handles=list(handles),
            loc="upper left",
            bbox_to_anchor=(0.04 / width, (room_below(text, handles, width) + 0.02) / height),
            ncols=_across(width),
            frameon=False,
            fontsize=8,
            columnspacing=1.4,
            handlelength=2.2,
        )


def _across(width: float) -> int:
    """Entries of a legend side by side in a figure so many inches wide."""
    return max(int(width / 1.75), 2)
