"""The figure of a comparison: cosines by layer, beside what they would be by chance."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from steerkit.behaviors import behaviors
from steerkit.errors import VectorsError
from steerkit.plots import FAINT, INK, STYLE, ReportFigure, label_panel, untrusted

if TYPE_CHECKING:
    import pandas as pd

_OTHER, _CHANCE = "#b5b5b5", "#e2e2e2"
_DASHES = (0, (3, 2))


def plot_comparison(table: pd.DataFrame, *, shuffled: pd.DataFrame | None = None) -> Figure:
    """Cosines between the directions of two sets of vectors, a panel for every behaviour.

    Parameters
    ----------
    table:
        What :func:`steerkit.comparison.compare_directions` returned, for all behaviours or some.
    shuffled:
        The same for a twin of the first vectors from chains with shuffled labels; or for several,
        told apart by a column ``twin``, of which the mean and the range are drawn.

    Each panel has one behaviour of the first vectors: in its own colour the cosine with the same
    behaviour of the second, with its interval where one is known; in grey the cosines with the
    other behaviours; dashed the cosine that shuffled labels give; and around zero the band that
    holds 95 % of random directions. An asterisk marks a behaviour whose direction on either side
    should not be trusted yet. The caption says why, and what was compared.

    Raises :class:`VectorsError` for a table without rows.
    """
    names = list(dict.fromkeys(table["behavior_a"]))
    if not names:
        raise VectorsError("nothing was compared", expected="a table with rows")
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    height = 2.25 + 2.4 * rows
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(11.0, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        # text stands above and below the panels: their place is fixed, not fitted to it
        figure.subplots_adjust(left=0.065, right=0.985, wspace=0.12, hspace=0.4)
        figure.subplots_adjust(top=1 - 0.8 / height, bottom=1.6 / height)
        for panel in axes.flat[len(names) :]:
            panel.set_visible(False)
        for number, (panel, name) in enumerate(zip(axes.flat, names, strict=False)):
            _curves(panel, name, table, shuffled)
            marked = name + "*" * (name in weak_sides(table))
            label_panel(panel, marked, "cosine" if number % columns == 0 else "")
            if number + columns < len(names):  # the panel below has the same axis
                panel.set_xlabel("")
        figure.text(
            0.065, 1 - 0.28 / height, _title(table), fontsize=13, fontweight="bold", va="center"
        )
        figure.legend(
            handles=_handles(table, shuffled),
            loc="center left",
            bbox_to_anchor=(0.057, 0.93 / height),
            ncols=5,
            frameon=False,
            handlelength=1.8,
            handletextpad=0.6,
            columnspacing=2.0,
        )
        caption = textwrap.fill(_caption(table, shuffled), width=165)
        figure.text(
            0.065, 0.72 / height, caption, fontsize=8, color=FAINT, va="top", linespacing=1.4
        )
    return figure


def _curves(axes: Axes, name: str, table: pd.DataFrame, shuffled: pd.DataFrame | None) -> None:
    color = _color(name)
    chance = float(table["chance"].iloc[0])
    axes.axhspan(-chance, chance, color=_CHANCE, linewidth=0, zorder=0)
    axes.axhline(0.0, color="#999999", linewidth=0.8, zorder=1)
    mine = table[table["behavior_a"] == name]
    for other, curve in mine[~mine["matched"]].groupby("behavior_b", sort=False):
        axes.plot(
            curve["layer"], curve["cosine"], color=_OTHER, linewidth=0.9, gid=f"{other}", zorder=2
        )
    same = mine[mine["matched"]]
    marker = "o" if len(same) <= 16 else ""
    if len(same):
        axes.fill_between(
            same["layer"], same["low"], same["high"], color=color, alpha=0.16, linewidth=0, zorder=2
        )
        axes.plot(
            same["layer"],
            same["cosine"],
            color=color,
            linewidth=2.0,
            marker=marker,
            markersize=3.2,
            gid=name,
            zorder=4,
        )
    if shuffled is not None:
        twin = shuffled[shuffled["matched"] & (shuffled["behavior_a"] == name)]
        drawn = twin.groupby("layer")["cosine"]
        mean = drawn.mean()
        axes.plot(
            mean.index,
            mean,
            color=color,
            linestyle=_DASHES,
            linewidth=1.2,
            gid=f"shuffled {name}",
            zorder=3,
        )
        if _shuffles(shuffled) > 1:
            for edge in (drawn.min(), drawn.max()):
                axes.plot(edge.index, edge, color=color, linestyle=_DASHES, linewidth=0.6, zorder=3)


def _shuffles(shuffled: pd.DataFrame) -> int:
    """How many twins with shuffled labels a table holds."""
    return int(shuffled["twin"].nunique()) if "twin" in shuffled else 1


def weak_sides(table: pd.DataFrame) -> dict[str, str]:
    """Behaviours whose direction on either side should not be trusted yet, and why."""
    if "note" not in table:
        return {}
    said = table[table["matched"] & (table["note"] != "")]
    return dict(zip(said["behavior_a"], said["note"], strict=True))


def _color(name: str) -> str:
    return next((b.color for b in behaviors() if b.name == name), "#7f7f7f")


def _title(table: pd.DataFrame) -> str:
    models = [table.attrs.get(side, {}).get("model") or f"vectors {side}" for side in ("a", "b")]
    if models[0] == models[1]:
        return f"Directions of {models[0]}, twice"
    return f"Directions of {models[0]} and {models[1]}"


def _handles(table: pd.DataFrame, shuffled: pd.DataFrame | None) -> list[Line2D | Patch]:
    made: list[Line2D | Patch] = [
        Line2D([], [], color=INK, linewidth=2.0, label="the same behaviour"),
    ]
    if table.loc[table["matched"], "low"].notna().any():
        # in a colour, since its grey would be that of chance
        tint = _color(table["behavior_a"].iloc[-1])
        made.append(Patch(color=tint, alpha=0.3, linewidth=0, label="its interval"))
    if not table["matched"].all():
        made.append(Line2D([], [], color=_OTHER, linewidth=1.2, label="other behaviours"))
    if shuffled is not None:
        made.append(
            Line2D([], [], color=INK, linestyle=_DASHES, linewidth=1.2, label="labels shuffled")
        )
    made.append(Patch(color=_CHANCE, linewidth=0, label="95 % of random directions"))
    return made


def _caption(table: pd.DataFrame, shuffled: pd.DataFrame | None) -> str:
    parts = ["Each panel: one behaviour of the first vectors, its cosine with the second's."]
    contrasts = [table.attrs.get(side, {}).get("contrast") for side in ("a", "b")]
    known = list(dict.fromkeys(str(name) for name in contrasts if name is not None))
    if known:
        parts.append(f"Contrast: {' against '.join(known)}.")
    uncertain = set(table.loc[table["matched"], "uncertain"]) - {"none"}
    if uncertain:
        sides = {"a": "the first", "b": "the second", "both": "both"}
        of = " or ".join(sides[side] for side in sorted(uncertain))
        parts.append(
            f"Interval: of the cosine that unlimited data would give, at least "
            f"{90 if 'both' in uncertain else 95} %, from the bootstrap cones over tasks of {of}."
        )
    if shuffled is not None:
        parts.append(
            "Dashed: first vectors from the same chains with labels shuffled within each chain"
            + (f", mean and range of {n} shuffles." if (n := _shuffles(shuffled)) > 1 else ".")
        )
    parts += untrusted({name: f"({why})" for name, why in weak_sides(table).items()})
    chance = float(table["chance"].iloc[0])
    width = table.attrs.get("d_model")
    parts.append(
        f"Random directions{f' of width {width:,}' if width else ''}: within {chance:.3f}."
    )
    return " ".join(parts)
