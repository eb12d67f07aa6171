"""Figures, made without pyplot: nothing global is touched, the same data give the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from steerkit.behaviors import behaviors
from steerkit.direction import Direction
from steerkit.errors import SteerkitError
from steerkit.files import write_bytes_atomic
from steerkit.positions import Window
from steerkit.vectors import SteeringVectors, weaknesses

# what would tell when and by which program a file was written
_NAMELESS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
INK, FAINT, GRID = "#222222", "#666666", "#e6e6e6"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "svg.hashsalt": "steerkit",
    "svg.fonttype": "path",
}

Curve = Callable[[Direction], Any]


class ReportFigure(Figure):
    """A matplotlib Figure that shows itself in a notebook, whatever backend is active."""

    def _repr_png_(self) -> bytes:
        return figure_bytes(self, "png")


def plot_layers(vectors: SteeringVectors) -> Figure:
    """How long, how reliable and how telling each behaviour's direction is, by layer.

    Three panels: the length of the raw difference over the layer's mean norm; the cosine
    between directions of two halves of the tasks, with that for shuffled labels dashed in
    the same colour; and the AUROC of the projection at the token before a span, with chance
    dotted and the suggested layer ringed. A caption underneath says what was measured on what.
    Curves that the vectors do not have are left out.
    """
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(11.0, 4.8), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 3)
        # text stands above and below the panels: their place is fixed, not fitted to it
        figure.subplots_adjust(left=0.06, right=0.985, top=0.825, bottom=0.33, wspace=0.24)
        left, middle, right = axes
        _lines(left, vectors, _relative_norm)
        label_panel(left, "Length", "‖difference‖ / mean norm E‖h‖")
        left.set_ylim(bottom=0.0)
        _lines(middle, vectors, lambda d: d.split_half_shuffled, linestyle=(0, (3, 2)), width=1.1)
        _lines(middle, vectors, lambda d: d.split_half)
        middle.axhline(0.0, color="#999999", linewidth=0.8, zorder=1)
        label_panel(middle, "Reliability", "cosine between two halves")
        middle.set_ylim(top=1.03)
        right.axhline(0.5, color=FAINT, linestyle=":", linewidth=1.3, zorder=1)
        _lines(right, vectors, lambda d: d.auroc)
        _rings(right, vectors)
        label_panel(right, "Foresight", "AUROC before a span")
        low, high = right.get_ylim()
        right.set_ylim(min(low, 0.45), max(high, 1.0) + 0.015)
        right.annotate(
            "chance",
            (0.995, 0.5),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            color=FAINT,
            fontsize=8,
        )
        model = vectors.provenance.get("model")
        of_model = f" of {model}" if model else ""
        figure.text(
            0.06,
            0.945,
            f"Directions{of_model} by layer",
            fontsize=13,
            fontweight="bold",
            va="center",
        )
        _legend(figure, vectors)
        caption = textwrap.fill(_caption(vectors), width=165)
        figure.text(0.06, 0.115, caption, fontsize=8, color=FAINT, va="top", linespacing=1.4)
    return figure


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as ``png``, ``svg`` or ``pdf``; no time and no program's name is in it."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(
            buffer,
            format=kind,
            dpi=figure.get_dpi(),
            metadata=_NAMELESS[kind],  # type: ignore[arg-type]
        )
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically, as its suffix says; the same figure gives the same bytes.

    Raises :class:`SteerkitError` for a suffix other than ``.png``, ``.svg`` and ``.pdf``.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in _NAMELESS:
        raise SteerkitError(
            "not a format for figures",
            expected="a name that ends in " + ", ".join(f".{known}" for known in _NAMELESS),
            found=Path(path).name,
        )
    return write_bytes_atomic(path, figure_bytes(figure, kind))


def _relative_norm(direction: Direction) -> Any:
    if direction.mean_norm is None:
        return None
    return direction.tensor.norm(dim=1) / direction.mean_norm


def behavior_colors(vectors: Mapping[str, Direction]) -> dict[str, str]:
    """The colour that every figure gives a behaviour; grey for what is none, such as a control."""
    known = {b.name: b.color for b in behaviors()}
    return {name: known.get(name, "#7f7f7f") for name in vectors}


def _lines(
    axes: Axes,
    vectors: SteeringVectors,
    curve: Curve,
    *,
    linestyle: Any = "-",
    width: float = 1.8,
) -> None:
    for name, color in behavior_colors(vectors).items():
        values = curve(vectors[name])
        if values is None:
            continue
        layers = vectors[name].layers
        axes.plot(
            layers,
            np.asarray(values.cpu().double()),
            color=color,
            linestyle=linestyle,
            linewidth=width,
            # points tell which layers were read; with many layers the lines are enough
            gid=name,
            marker="o" if len(layers) <= 16 else "",
            markersize=3.2 if linestyle == "-" else 2.0,
            zorder=3 if linestyle == "-" else 2,
        )


def _rings(axes: Axes, vectors: SteeringVectors) -> None:
    for name, color in behavior_colors(vectors).items():
        direction = vectors[name]
        if direction.layer is None or direction.auroc is None:
            continue
        height = float(direction.auroc[direction.row(direction.layer)])
        axes.plot(
            [direction.layer],
            [height],
            marker="o",
            markersize=9.0,
            markerfacecolor="none",
            markeredgecolor=color,
            markeredgewidth=2.0,
            linestyle="",
            zorder=4,
        )


def label_panel(
    axes: Axes, title: str, unit: str, across: str = "layer (output of decoder layer, from 0)"
) -> None:
    """Give a panel its title, axis labels, ticks and grid, and say if nothing was measured.

    What was measured are the lines that have a ``gid``.
    """
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", pad=8)
    axes.set_xlabel(across)
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)
    if not any(line.get_gid() for line in axes.lines):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=FAINT)


def _legend(figure: Figure, vectors: SteeringVectors) -> None:
    """Behaviours by colour, in one row under the panels, where no data are."""
    handles = [
        Line2D([], [], color=color, linewidth=3.0, label=name + "*" * bool(vectors[name].weakness))
        for name, color in behavior_colors(vectors).items()
    ]
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.052, 0.175),
        ncols=min(max(len(handles), 1), 6),
        frameon=False,
        handlelength=1.4,
        handletextpad=0.6,
        columnspacing=2.0,
    )


def _caption(vectors: SteeringVectors) -> str:
    facts = vectors.provenance
    parts = []
    if facts.get("contrast"):
        parts.append(f"Contrast: {facts['contrast']}.")
    used = chains_and_tasks(facts, "traces", "extract_tasks")
    if used:
        parts.append(f"Directions from {used}.")
    chosen = chains_and_tasks(facts, "select_traces", "select_tasks")
    if chosen:
        parts.append(f"AUROC of the projection on the token before a span, on {chosen} kept apart.")
    by = sorted({d.chosen_by for d in vectors.values() if d.chosen_by})
    ring = f"chosen by {' or '.join(by)}" if by else "where AUROC is largest"
    parts.append(
        "Dashed: the same cosine with labels shuffled within chains. Dotted: chance, 0.5. "
        f"Ring: the suggested layer, {ring}."
    )
    parts += untrusted(weaknesses(vectors))
    window = facts.get("window")
    if window:
        parts.append(f"Read of a span: {Window(**window).words}.")
    return " ".join(parts)


def untrusted(weak: Mapping[str, str]) -> list[str]:
    """What a caption says of directions that are marked by an asterisk; nothing for none."""
    named = ", ".join(f"{name} {why}" for name, why in weak.items())
    return [f"* Not to be trusted yet: {named}."] if weak else []


def chains_and_tasks(facts: Mapping[str, Any], chains: str, tasks: str) -> str:
    """How many chains of how many tasks a provenance lists under these keys; empty for none."""
    if not facts.get(chains):
        return ""
    return f"{len(facts[chains]):,} chains of {len(facts.get(tasks, ())):,} tasks"
