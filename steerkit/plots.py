"""Figures, made without pyplot: nothing global is touched, the same data give the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from steerkit.behaviors import behaviors
from steerkit.errors import SteerkitError
from steerkit.files import write_bytes_atomic
from steerkit.vectors import Direction, SteeringVectors

if TYPE_CHECKING:
    import pandas as pd

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
        _panel(left, "Length", "‖difference‖ / mean norm E‖h‖")
        left.set_ylim(bottom=0.0)
        _lines(middle, vectors, lambda d: d.split_half_shuffled, linestyle=(0, (3, 2)), width=1.1)
        _lines(middle, vectors, lambda d: d.split_half)
        middle.axhline(0.0, color="#999999", linewidth=0.8, zorder=1)
        _panel(middle, "Reliability", "cosine between two halves")
        middle.set_ylim(top=1.03)
        right.axhline(0.5, color=FAINT, linestyle=":", linewidth=1.3, zorder=1)
        _lines(right, vectors, lambda d: d.auroc)
        _rings(right, vectors)
        _panel(right, "Foresight", "AUROC before a span")
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
            _panel(panel, title, unit, across="optimizer step")
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


_Curve = tuple[str, str, str]  # column of the log, label, colour
_KINDS = ("#4C78A8", "#54A24B", "#B279A2", "#9D755D", "#E45756")


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


def _relative_norm(direction: Direction) -> Any:
    if direction.mean_norm is None:
        return None
    return direction.tensor.norm(dim=1) / direction.mean_norm


def _colors(vectors: Mapping[str, Direction]) -> dict[str, str]:
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
    for name, color in _colors(vectors).items():
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
    for name, color in _colors(vectors).items():
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


def _panel(
    axes: Axes, title: str, unit: str, across: str = "layer (output of decoder layer, from 0)"
) -> None:
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
        for name, color in _colors(vectors).items()
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
    used = _amount(facts, "traces", "extract_tasks")
    if used:
        parts.append(f"Directions from {used}.")
    chosen = _amount(facts, "select_traces", "select_tasks")
    if chosen:
        parts.append(f"AUROC of the projection on the token before a span, on {chosen} kept apart.")
    by = sorted({d.chosen_by for d in vectors.values() if d.chosen_by})
    ring = f"chosen by {' or '.join(by)}" if by else "where AUROC is largest"
    parts.append(
        "Dashed: the same cosine with labels shuffled within chains. Dotted: chance, 0.5. "
        f"Ring: the suggested layer, {ring}."
    )
    weak = [f"{name} {d.weakness}" for name, d in vectors.items() if d.weakness]
    if weak:
        parts.append(f"* Not to be trusted yet: {', '.join(weak)}.")
    window = facts.get("window")
    if window:
        parts.append(
            f"Read of a span: {window['before']} of the tokens before it, then at most "
            f"{window['length']} of its own, never its last."
        )
    return " ".join(parts)


def _amount(facts: Mapping[str, Any], chains: str, tasks: str) -> str:
    if not facts.get(chains):
        return ""
    return f"{len(facts[chains]):,} chains of {len(facts.get(tasks, ())):,} tasks"
