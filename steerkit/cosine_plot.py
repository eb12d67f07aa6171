"""The figure of cosines between directions: a heatmap with values and intervals in its cells."""

from __future__ import annotations

import math
import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steerkit.cosine_matrix import PARTS, middle_layer
from steerkit.errors import VectorsError
from steerkit.layers import Layer, layer_numbers
from steerkit.plots import (
    FAINT,
    INK,
    STYLE,
    ReportFigure,
    behavior_colors,
    chains_and_tasks,
    untrusted,
)
from steerkit.vectors import SteeringVectors, weaknesses

_CELL = (1.06, 0.62)  # inches
_LEFT, _RIGHT, _TOP, _BOTTOM = 1.75, 1.0, 0.62, 1.85
_DIAGONAL = "#efefef"
_UNRELATED = {
    "rest": "Under rest, 0 is not what unrelated behaviours come to: rare ones beside a frequent "
    "one share its mean, and come to about 0.5.",
    "balanced": "Under balanced, 0 is not what unrelated behaviours come to, but -1/(k - 1), k "
    "being the number of behaviours.",
    "overall": "Under overall, 0 is not what unrelated behaviours come to: all directions share "
    "what is common to the starts of spans.",
}
"""What directions share by their contrast alone (docs/geometry.md)."""


def plot_cosines(vectors: SteeringVectors, layer: Layer | None = None) -> Figure:
    """Cosines between the behaviours' directions at one layer, as a heatmap.

    Below the diagonal: the cosine of the directions as they are. Above: its estimate freed of
    sampling noise, with its 95 % interval (:func:`steerkit.geometry.cosines`); where the
    vectors have none, the plain cosine again. On the diagonal: how reliable each direction is,
    the cosine between directions of two halves of the tasks. The colour scale runs from -1 to
    1 in every figure, so that figures compare. An asterisk marks directions that should not be
    trusted yet; the caption says why.

    ``layer`` is by default the middle one of those suggested for the directions. Raises
    :class:`VectorsError` for fewer than two directions and for a layer that is not there.
    """
    if len(vectors) < 2:
        raise VectorsError("cosines need two directions", found=", ".join(vectors) or "none")
    at = middle_layer(vectors) if layer is None else layer_numbers([layer], VectorsError)[0]
    table = vectors.cosines(at)
    n = len(vectors)
    width, height = _LEFT + n * _CELL[0] + _RIGHT, _TOP + n * _CELL[1] + _BOTTOM
    width = max(width, 5.4)
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        place = (_LEFT / width, _BOTTOM / height, n * _CELL[0] / width, n * _CELL[1] / height)
        axes = figure.add_axes(place)
        known = _matrices(table, list(vectors))
        shown = _shown(known)
        image = axes.imshow(
            np.ma.masked_invalid(shown), cmap="RdBu_r", vmin=-1.0, vmax=1.0, aspect="auto"
        )
        axes.set_facecolor(_DIAGONAL)
        _cells(axes, vectors, known, shown, at)
        _names(axes, vectors)
        bar = (place[0] + place[2] + 0.16 / width, place[1], 0.14 / width, place[3])
        scale = figure.colorbar(image, cax=figure.add_axes(bar), ticks=[-1, -0.5, 0, 0.5, 1])
        scale.set_label("cosine")
        scale.outline.set_visible(False)  # type: ignore[operator]
        model = vectors.provenance.get("model")
        title = f"Cosines of directions{f' of {model}' if model else ''} at layer {at}"
        figure.text(
            0.12 / width,
            1 - 0.3 / height,
            textwrap.shorten(title, width=int(width * 11), placeholder="..."),
            fontsize=12,
            fontweight="bold",
            va="center",
        )
        caption = textwrap.fill(_caption(vectors, table), width=int(width * 16.5))
        figure.text(
            0.12 / width,
            (_BOTTOM - 0.62) / height,
            caption,
            fontsize=7.5,
            color=FAINT,
            va="top",
            linespacing=1.35,
        )
    return figure


def _matrices(table: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
    """What is known of each pair, ``[behavior, behavior]``, in the order of the names."""
    return {
        part: table.pivot(index="behavior_a", columns="behavior_b", values=part)
        .loc[names, names]
        .to_numpy(dtype=float)
        for part in PARTS
    }


def _shown(known: dict[str, np.ndarray]) -> np.ndarray:
    """What the colours show; NaN on the diagonal and where nothing is known."""
    above = np.where(np.isnan(known["low"]), known["cosine"], known["corrected"])
    shown = np.tril(known["cosine"], -1) + np.triu(above, 1)
    np.fill_diagonal(shown, np.nan)
    return shown


def _cells(
    axes: Axes,
    vectors: SteeringVectors,
    known: dict[str, np.ndarray],
    shown: np.ndarray,
    layer: int,
) -> None:
    for (i, j), value in np.ndenumerate(shown):
        under = ""
        if i == j:
            direction = list(vectors.values())[i]
            halves = direction.split_half
            value = math.nan if halves is None else float(halves[direction.row(layer)])
            under = "between halves"
        elif i < j and not math.isnan(known["low"][i, j]):
            under = f"{known['low'][i, j]:.2f} to {known['high'][i, j]:.2f}"
        dark = i != j and abs(value) > 0.65
        ink = "white" if dark else FAINT if i == j else INK
        text = "-" if math.isnan(value) else f"{value:.2f}"
        shift = 0.13 if under else 0.0
        axes.text(j, i - shift, text, ha="center", va="center", color=ink, fontsize=10)
        if under:
            axes.text(j, i + 0.24, under, ha="center", va="center", color=ink, fontsize=7)


def _names(axes: Axes, vectors: SteeringVectors) -> None:
    """Names of the rows and columns, in the behaviours' colours; grid lines between cells."""
    names = [name + "*" * bool(direction.weakness) for name, direction in vectors.items()]
    axes.set_xticks(range(len(names)), [name.replace("-", "-\n", 1) for name in names], fontsize=8)
    axes.set_yticks(range(len(names)), names)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, color in zip(labels, behavior_colors(vectors).values(), strict=True):
            label.set_color(color)
    edges = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _caption(vectors: SteeringVectors, table: pd.DataFrame) -> str:
    facts = vectors.provenance
    parts = []
    if facts.get("contrast"):
        parts.append(f"Contrast: {facts['contrast']}.")
    used = chains_and_tasks(facts, "traces", "extract_tasks")
    if used:
        parts.append(f"Directions from {used}.")
    pairs = table[table["behavior_a"] != table["behavior_b"]]
    if pairs["low"].notna().any():
        parts.append(
            "Below the diagonal: cosines of the directions as they are. Above: freed of sampling "
            "noise, with 95 % intervals (bootstrap over tasks)."
        )
        if pairs["low"].isna().any():
            parts.append("Without an interval: spans in too few tasks; the plain cosine.")
        if (pairs["corrected"].isna() & pairs["low"].notna()).any():
            parts.append("A dash: too noisy to tell.")
    else:
        parts.append("Cosines of the directions as they are; no intervals are known.")
    parts.append("On the diagonal: cosine between the directions of two halves of the tasks.")
    parts += untrusted(weaknesses(vectors))
    if facts.get("contrast") in _UNRELATED:
        parts.append(_UNRELATED[facts["contrast"]])
    spread = 1 / math.sqrt(next(iter(vectors.values())).d_model)
    parts.append(
        f"Chance: random directions have cosines of 0 with a standard deviation of {spread:.2f}."
    )
    return " ".join(parts)
