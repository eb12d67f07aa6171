"""The figure of dose and response: rate over coefficient, one panel a behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from steerkit.errors import StatisticsError
from steerkit.evaluation.curve_plot import (
    FREE,
    GREY,
    behavior_color,
    draw_curve,
    draw_range,
    finish_panel,
    first_annotator,
    fluent_range,
    room_below,
    wrapped,
    write_below,
)
from steerkit.plots import FAINT, STYLE, ReportFigure

SHUFFLED = "#b5a3c9"
_UNITS = {
    "spans": "share of sentences",
    "tokens": "share of thinking tokens",
    "count": "sentences a chain",
    "hazard": "chance that the next sentence begins it",
}


def plot_dose_response(
    rates: pd.DataFrame,
    controls: pd.DataFrame,
    settings: Mapping[str, Any],
    *,
    annotator: str | None = None,
    measure: str = "spans",
    caption: str = "",
) -> Figure:
    """Rate of each steered behaviour over the coefficient, with controls as bands.

    One panel a steered behaviour: its own rate with 95 % intervals; the unsteered rate dashed;
    where a prompt asked for the behaviour instead, its rate dash-dotted. At the headline
    coefficients bands span the rates under all random and all label-shuffled directions:
    the unsteered rate plus each control's change on the tasks it was run on. Coefficients
    outside the fluent range are hollow and joined by dots; a bar along the bottom marks the
    range in which accuracy is kept as well.

    Parameters
    ----------
    rates, controls:
        As :func:`steerkit.evaluation.rates.rates` and
        :func:`steerkit.evaluation.verdicts.controls` give them. Bands are of shares of spans
        and are drawn for that measure alone.
    settings:
        ``ranges`` and ``unit`` are read, where they are there. Without a range every point is
        drawn as if it lay inside, and the caption says so.
    annotator:
        Whose labels; by default the first of ``rates``.
    measure:
        ``spans``, ``tokens``, ``count`` or ``hazard``.
    caption:
        What was measured on what; stands underneath, before what the figure says of itself.

    Raises :class:`StatisticsError` where nothing of that annotator and measure was steered.
    """
    annotator = first_annotator(rates, annotator)
    mine = rates[(rates["annotator"] == annotator) & (rates["measure"] == measure)]
    own = mine[mine["label"] == mine["behavior"]]
    names = list(dict.fromkeys(own.loc[own["kind"] == "steered", "behavior"]))
    if not names:
        raise StatisticsError(
            "nothing to draw: no steered behaviour that this annotator can give",
            found=f"annotator {annotator!r}, measure {measure!r}",
        )
    against = controls[controls["annotator"] == annotator] if measure == "spans" else controls[:0]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    width = max(3.7 * columns, 5.2)
    text = wrapped(f"{caption} {_said(own, names, against, settings, annotator)}", width)
    known = {
        kind: any(fluent_range(settings, name, kind) is not None for name in names)
        for kind in ("fluent", "free")
    }
    handles = _handles(own, against, known)
    below = room_below(text, handles, width)
    height = 0.42 + 2.95 * rows + below
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.72 / width,
            right=1 - 0.12 / width,
            wspace=0.32,
            hspace=0.5,
            top=1 - 0.42 / height,
            bottom=(below + 0.52) / height,
        )
        for panel in axes.flat[len(names) :]:
            panel.set_visible(False)
        for panel, name in zip(axes.flat, names, strict=False):
            base = mine[(mine["kind"] == "baseline") & (mine["label"] == name)]
            curve = own[(own["behavior"] == name) & (own["kind"] == "steered")]
            curve = pd.concat([base, curve]) if len(base) else curve
            draw_range(panel, settings, name)
            if len(base):
                panel.axhline(
                    base["value"].iloc[0], color=FAINT, linestyle=(0, (4, 3)), linewidth=0.9
                )
                _bands(panel, against[against["behavior"] == name], base["value"].iloc[0], curve)
            draw_curve(panel, curve, behavior_color(name), fluent_range(settings, name), gid=name)
            for value in own.loc[(own["behavior"] == name) & (own["kind"] == "prompt"), "value"]:
                panel.axhline(
                    value, color=behavior_color(name), linestyle="-.", linewidth=1.1, gid="prompt"
                )
            _finish(panel, name, measure, settings)
        write_below(figure, text, handles)
    return figure


def _bands(axes: Axes, against: pd.DataFrame, base: float, curve: pd.DataFrame) -> None:
    """Rates under all controls at each headline coefficient, random to the left."""
    at = np.unique(curve["coefficient"].to_numpy(np.float64))
    half = min(0.3 * float(np.diff(at).min()), 0.03 * float(np.ptp(at))) if len(at) > 1 else 0.03
    for (sign, kind), part in against.groupby(["sign", "kind"], sort=False):
        size = float(part["coefficient"].abs().iloc[0])
        center = size if sign == "amplify" else -size
        left = center - half if kind == "random" else center
        low, high = part["change"].min() + base, part["change"].max() + base
        axes.bar(
            left + half / 2,
            high - low,
            width=half * 0.92,
            bottom=low,
            color=GREY if kind == "random" else SHUFFLED,
            alpha=0.5,
            # a band of no height still has to be seen
            edgecolor=GREY if kind == "random" else SHUFFLED,
            linewidth=0.8,
            zorder=2,
            gid=str(kind),
        )


def _finish(axes: Axes, name: str, measure: str, settings: Mapping[str, Any]) -> None:
    axes.set_title(name, loc="left", fontsize=10.5, fontweight="bold", color=behavior_color(name))
    finish_panel(axes, settings, _UNITS[measure], share=measure != "count")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.02 * high), high)  # a point at zero is seen whole


def _handles(own: pd.DataFrame, against: pd.DataFrame, known: Mapping[str, bool]) -> list[Any]:
    """What the legend explains; ``known``: whether there is a fluent, a free range."""
    line: dict[str, Any] = {"color": FAINT, "marker": "o", "linewidth": 1.6, "markersize": 4.5}
    outside: dict[str, Any] = line | {"linestyle": ":", "markerfacecolor": "white"}
    handles: list[Any] = [
        Line2D([], [], label="steered, fluent" if known["fluent"] else "steered", **line)
    ]
    if known["fluent"]:
        handles.append(Line2D([], [], label="outside the fluent range", **outside))
    dashes = (0, (4, 3))
    handles.append(Line2D([], [], label="unsteered", color=FAINT, linestyle=dashes, linewidth=1.0))
    if known["free"]:
        handles.append(Line2D([], [], label="accuracy kept", color=FREE, linewidth=5))
    kinds = set(against["kind"])
    if "random" in kinds:
        handles.append(Patch(color=GREY, alpha=0.5, label="random directions"))
    if "shuffled" in kinds:
        handles.append(Patch(color=SHUFFLED, alpha=0.5, label="labels shuffled"))
    if (own["kind"] == "prompt").any():
        handles.append(Line2D([], [], label="asked for in the prompt", color=FAINT, linestyle="-."))
    return handles


def _said(
    own: pd.DataFrame,
    names: Sequence[str],
    against: pd.DataFrame,
    settings: Mapping[str, Any],
    annotator: str,
) -> str:
    """What the figure says of itself."""
    steered = own[own["kind"] == "steered"]
    parts = [
        f"Labels by {annotator}. Points: rates over {_span(steered['tasks'])} tasks with all "
        f"their samples ({_span(steered['chains'])} chains); lines: 95 % intervals over tasks, "
        "which have no width where a behaviour never occurs."
    ]
    cut = steered["truncated"].sum() / max(steered["chains"].sum(), 1)
    if cut:
        parts.append(f"{100 * cut:.0f} % of the chains were cut off and count as far as they go.")
    if len(against):
        numbers = against.groupby(["behavior", "sign", "kind"])["control"].size()
        parts.append(
            f"Bands: smallest to largest rate under {_span(numbers)} control directions of each "
            f"kind, of the same length and at the same layer, on {_span(against['tasks'])} tasks, "
            "as changes from the unsteered rate of these."
        )
    unknown = [name for name in names if fluent_range(settings, name) is None]
    if unknown:
        parts.append(f"No range of fluent text is known for {', '.join(unknown)}.")
    return " ".join(parts)


def _span(numbers: Any) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
