"""The figure of specificity: what every steered behaviour does to every label, as a heatmap."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from steerkit.errors import StatisticsError
from steerkit.evaluation.curve_plot import (
    LINE,
    behavior_color,
    first_annotator,
    wrapped,
    write_below,
)
from steerkit.plots import INK, STYLE, ReportFigure

_MINUS = "\N{MINUS SIGN}"
_CELL = (0.98, 0.6)  # inches
_LEFT, _RIGHT, _GAP, _TOP = 2.35, 0.95, 0.5, 0.45


def plot_specificity(
    specificity: pd.DataFrame, *, annotator: str | None = None, caption: str = ""
) -> Figure:
    """Changes of labels (columns) under steered behaviours (rows), amplified above suppressed.

    Cells hold the change of the label's share of sentences in percentage points with its 95 %
    interval; those whose interval includes zero are faint. The steered behaviour's own cell
    has a frame. The colours reach from the largest change to its negative.

    Parameters
    ----------
    specificity:
        As :func:`steerkit.evaluation.specificity.specificity` gives it.
    annotator:
        Whose labels; by default the first.
    caption:
        Stands underneath, before what the figure says of itself.

    Raises :class:`StatisticsError` for a table without rows.
    """
    annotator = first_annotator(specificity, annotator)
    table = specificity[specificity["annotator"] == annotator]
    if not np.isfinite(table["change"].to_numpy(np.float64)).any():
        raise StatisticsError("nothing to draw: no change is known", found=annotator)
    labels = list(dict.fromkeys(table["label"]))
    signs = [sign for sign in ("amplify", "suppress") if (table["sign"] == sign).any()]
    parts = [table[table["sign"] == sign] for sign in signs]
    heights = [len(part["condition"].unique()) * _CELL[1] for part in parts]
    width = _LEFT + len(labels) * _CELL[0] + _RIGHT
    tasks = table["tasks"]
    span = f"{tasks.min():,}" if tasks.min() == tasks.max() else f"up to {tasks.max():,}"
    text = wrapped(
        f"{caption} Labels by {annotator}. Rows: what was steered, at its headline coefficient; "
        "columns: what changed. Changes of shares of sentences against the unsteered chains of "
        f"the same {span} tasks, in percentage points, with 95 % intervals over tasks; faint where "
        "these include zero. Shares add up to 100: what is amplified takes room from the others.",
        width,
    )
    height = _TOP + sum(heights) + _GAP * len(parts) + 0.62 + LINE * (text.count("\n") + 1)
    most = float(np.nanmax(np.abs(table["change"].to_numpy(np.float64)))) or 1.0
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        top, wide = height - _TOP, len(labels) * _CELL[0]
        for number, (sign, part, tall) in enumerate(zip(signs, parts, heights, strict=True)):
            top -= _GAP + tall
            axes = figure.add_axes((_LEFT / width, top / height, wide / width, tall / height))
            image = _heatmap(axes, part, labels, most, last=number == len(signs) - 1)
            axes.set_title(
                "Amplified" if sign == "amplify" else "Suppressed",
                loc="left",
                fontsize=10.5,
                fontweight="bold",
            )
        full = height - _TOP - _GAP - top
        bar = figure.add_axes(
            ((_LEFT + wide + 0.14) / width, top / height, 0.13 / width, full / height)
        )
        scale = figure.colorbar(image, cax=bar)
        scale.set_label("change, percentage points")
        scale.outline.set_visible(False)  # type: ignore[operator]
        figure.text(
            0.12 / width,
            1 - 0.32 / height,
            "What steering one behaviour does to the others",
            fontsize=12,
            fontweight="bold",
            va="center",
        )
        write_below(figure, text)
    return figure


def _heatmap(
    axes: Axes, part: pd.DataFrame, labels: list[str], most: float, *, last: bool
) -> AxesImage:
    conditions = list(dict.fromkeys(part["condition"]))
    cells = part.set_index(["condition", "label"])
    shown = cells["change"].unstack().reindex(index=conditions, columns=labels)
    values = 100 * shown.to_numpy(np.float64)
    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap="RdBu_r",
        vmin=-100 * most,
        vmax=100 * most,
        aspect="auto",
    )
    axes.set_facecolor("#efefef")
    rows = part.drop_duplicates("condition")
    for (i, j), value in np.ndenumerate(values):
        cell = cells.loc[(conditions[i], labels[j])]
        sure = cell["low"] > 0 or cell["high"] < 0
        ink = "white" if abs(value) > 65 * most else INK if sure else "#8a8a8a"
        text = (
            "-" if np.isnan(value) else f"{value:+.1f}".replace("+0.0", "0.0").replace("-", _MINUS)
        )
        axes.text(j, i - 0.13, text, ha="center", va="center", color=ink, fontsize=10)
        if np.isfinite(cell["low"]):
            under = f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}".replace("-", _MINUS)
            axes.text(j, i + 0.24, under, ha="center", va="center", color=ink, fontsize=6.5)
        if cell["behavior"] == labels[j]:
            frame = Rectangle(
                (j - 0.48, i - 0.47), 0.96, 0.94, fill=False, edgecolor=INK, linewidth=1.4
            )
            frame.set_gid("own")
            axes.add_patch(frame)
    named = [
        f"{row['behavior']} {row['coefficient']:+g}".replace(" -", f" {_MINUS}")
        for row in rows.to_dict("records")
    ]
    axes.set_yticks(range(len(conditions)), named)
    for tick, row in zip(axes.get_yticklabels(), rows.to_dict("records"), strict=True):
        tick.set_color(behavior_color(row["behavior"]))
    names = [label.replace("-", "-\n", 1) for label in labels]
    axes.set_xticks(range(len(labels)), names if last else [""] * len(labels), fontsize=8)
    for tick, label in zip(axes.get_xticklabels(), labels, strict=True):
        tick.set_color(behavior_color(label))
    axes.set_xticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(conditions) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image
