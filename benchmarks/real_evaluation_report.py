"""The page of `make real-evaluation`: claims of both models, and what steering recovers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from report import claims_table, keep_tables

from steerkit.evaluation.curve_plot import (
    draw_curve,
    finish_panel,
    fluent_range,
    room_below,
    wrapped,
    write_below,
)
from steerkit.evaluation.pace import duration
from steerkit.evaluation.pooled import Pooled, pool
from steerkit.evaluation.record import Evaluation
from steerkit.evaluation.resampling import ends, rates_drawn
from steerkit.files import write_text_atomic
from steerkit.plots import FAINT, STYLE, save_figure

COLORS = {"thinking": "#c44e52", "plain": "#3b6fb6"}
NAMES = {"thinking": "with the adapter that makes it think", "plain": "plain"}


def recovered(plain: Evaluation, thinking: Evaluation) -> pd.DataFrame:
    """How much of the difference between two models steering the plain one brings back.

    (steered - plain) / (thinking - plain), of each steered behaviour's share of sentences, and of
    accuracy, at the coefficients above zero; tasks are resampled, the same for all three, so that
    the quotient's interval is paired.

    Returns
    -------
    One row an annotator, behaviour, coefficient and measure (``spans`` or ``accuracy``):
    ``plain``, ``steered``, ``thinking`` (rates), ``recovered``, ``low``, ``high`` (95 %;
    missing where the models do not differ), ``fluent``, ``tasks``.
    """
    rows = []
    for left in pool(plain.generations):
        right = next((p for p in pool(thinking.generations) if p.annotator == left.annotator), None)
        if right is None:
            continue
        steered = left.conditions[
            (left.conditions["kind"] == "steered") & (left.conditions["coefficient"] > 0)
        ]
        for index, condition in steered.iterrows():
            name, at = str(condition["behavior"]), float(condition["coefficient"])
            fluent = fluent_range(plain.settings, name)
            inside = fluent is not None and fluent[0] <= at <= fluent[1]
            for measure in ("spans", "accuracy"):
                found = _recovered(left, right, int(str(index)), name, measure)
                if found is not None:
                    known = {"annotator": left.annotator, "behavior": name, "coefficient": at}
                    rows.append({**known, "measure": measure, **found, "fluent": inside})
    return pd.DataFrame(rows)


def _recovered(
    left: Pooled, right: Pooled, row: int, label: str, measure: str
) -> dict[str, float] | None:
    """One row of :func:`recovered`; ``None`` where no task is known to all three."""
    parts = [_fraction(pooled, label, measure) for pooled in (left, right)]
    if None in parts:
        return None
    (tops, bottoms), (others, below) = (part for part in parts if part is not None)
    three = []
    for top, bottom, pooled in (
        (tops[left.baseline], bottoms[left.baseline], left),
        (tops[row], bottoms[row], left),
        (others[right.baseline], below[right.baseline], right),
    ):
        there = {task: (top[i], bottom[i]) for i, task in enumerate(pooled.tasks) if bottom[i] > 0}
        three.append(there)
    tasks = sorted(set.intersection(*(set(there) for there in three)))
    if len(tasks) < 2:
        return None
    cells = np.array([[there[task] for task in tasks] for there in three])
    value, drawn = rates_drawn(cells[..., 0], cells[..., 1])
    shares = _share(drawn)
    low, high = ends(shares[None], len(tasks))
    return {
        **dict(zip(("plain", "steered", "thinking"), map(float, value), strict=True)),
        "recovered": float(_share(value[:, None])[0]),
        "low": float(low[0]),
        "high": float(high[0]),
        "tasks": len(tasks),
    }


def _share(rates: np.ndarray) -> np.ndarray:
    moved, gap = rates[1] - rates[0], rates[2] - rates[0]
    return np.divide(moved, gap, out=np.full(moved.shape, np.nan), where=np.abs(gap) > 1e-12)


def _fraction(pooled: Pooled, label: str, measure: str) -> tuple[np.ndarray, np.ndarray] | None:
    if measure == "accuracy":
        if "n:correct" not in pooled.sums:
            return None
        return pooled.sums["sum:correct"], pooled.sums["n:correct"]
    return pooled.fraction(label, "spans") if label in pooled.labels else None


def page(made: Mapping[str, Evaluation]) -> str:
    """Claims by model and annotator, what the prompt does, and what steering recovers."""
    parts = []
    for name, evaluation in made.items():
        settings = evaluation.settings
        parts.append(f"## {settings['model']}\n\nThe model {NAMES[name]}.")
        parts += [f"Labels by {a}:\n\n{claims_table(evaluation, a)}" for a in evaluation.annotators]
        parts.append(f"Asked for in the prompt instead:\n\n{_prompts(evaluation)}")
        parts.append(_measured(evaluation))
    if {"plain", "thinking"} <= set(made):
        found = recovered(made["plain"], made["thinking"])
        parts.append(
            "## How much of the difference between the two does steering bring back?\n\n"
            "The plain model steered, between the plain model (0 %) and the thinking one (100 %); "
            "below 0 it moves away, above 100 beyond. 95 % intervals over tasks, the same tasks "
            "for all three.\n\n" + _recovery_table(found)
        )
    return "\n\n".join(parts) + "\n"


def _prompts(made: Evaluation) -> str:
    table = made.rates[made.rates["measure"] == "spans"]
    rates = table.set_index(["condition", "annotator", "label"])["value"]
    effects = made.effects
    asked = effects[(effects["kind"] == "prompt") & (effects["measure"] == "spans")]
    base = table.loc[table["kind"] == "baseline", "condition"].iloc[0]
    lines = []
    for row in asked[asked["label"] == asked["behavior"]].to_dict("records"):
        of = (row["annotator"], row["label"])
        lines.append(
            f"| {row['behavior']} | {row['annotator']} | {100 * rates[(base, *of)]:.1f} % "
            f"| {100 * rates[(row['condition'], *of)]:.1f} % | {100 * row['change']:+.1f} "
            f"({100 * row['low']:+.1f} to {100 * row['high']:+.1f}) |"
        )
    head = ["| behaviour | annotator | unsteered | asked for | change |", "|---|---|---|---|---|"]
    return "\n".join([*head, *lines]) if lines else "not written."


def _measured(made: Evaluation) -> str:
    settings, table = made.settings, made.generations
    chains = table[table["annotator"] == made.annotators[0]]
    base = chains[chains["kind"] == "baseline"]
    known = base["correct"].dropna()
    ranges = "; ".join(
        f"{name} {found['fluent'][0]:+g} to {found['fluent'][1]:+g}"
        for name, found in settings["ranges"].items()
    )
    return (
        f"{len(chains):,} chains of at most {chains['tokens'].max()} tokens at temperature "
        f"{settings['temperature']:g} on {settings['tasks']} held-out tasks, controls on "
        f"{settings['control_tasks']} of them. Unsteered, {100 * base['closed'].mean():.0f} % "
        f"close and {100 * known.mean():.0f} % of {len(known)} answers that can be checked are "
        f"right. Fluent ranges, from other tasks: {ranges}. Written in "
        f"{duration(settings['seconds'])}."
    )


def _recovery_table(found: pd.DataFrame) -> str:
    lines = [
        "| behaviour | annotator | coefficient | of | plain | steered | thinking | brought back |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found.to_dict("records"):
        share = "the models do not differ"
        if math.isfinite(row["recovered"]):
            share = f"{100 * row['recovered']:.0f} %"
            if math.isfinite(row["low"]):
                share += f" ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
        beyond = "" if row["fluent"] else " (not fluent)"
        what = "sentences" if row["measure"] == "spans" else "right answers"
        numbers = " | ".join(f"{100 * row[key]:.1f} %" for key in ("plain", "steered", "thinking"))
        lines.append(
            f"| {row['behavior']} | {row['annotator']} | {row['coefficient']:+g}{beyond} | {what} "
            f"| {numbers} | {share} |"
        )
    return "\n".join(lines)


def figure(made: Mapping[str, Evaluation], annotator: str | None = None) -> Figure:
    """Dose and response of both models, one panel a behaviour, controls as bands."""
    first = next(iter(made.values()))
    annotator = annotator or first.annotators[0]
    names = list(first.settings["behaviors"])
    width = max(4.1 * len(names), 5.2)
    handles = _handles(made)
    text = wrapped(_caption(made, annotator), width)
    below = room_below(text, handles, width)
    height = 0.42 + 3.0 + below
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(drawn)
        panels = drawn.subplots(1, len(names), squeeze=False)[0]
        drawn.subplots_adjust(
            left=0.75 / width,
            right=1 - 0.12 / width,
            wspace=0.28,
            top=1 - 0.42 / height,
            bottom=(below + 0.52) / height,
        )
        for panel, name in zip(panels, names, strict=True):
            for number, (model, evaluation) in enumerate(made.items()):
                _draw(panel, evaluation, model, name, annotator, 0.006 * (2 * number - 1))
            panel.set_title(name, loc="left", fontsize=10.5, fontweight="bold")
            finish_panel(panel, first.settings, "share of sentences", share=True)
            low, high = panel.get_ylim()
            panel.set_ylim(min(low, -0.02 * high), high)
        write_below(drawn, text, handles)
    return drawn


def _draw(
    axes: Axes, made: Evaluation, model: str, name: str, annotator: str, aside: float
) -> None:
    table = made.rates
    mine = table[(table["annotator"] == annotator) & (table["measure"] == "spans")]
    mine = mine[mine["label"] == name]
    base = mine[mine["kind"] == "baseline"]
    curve = mine[(mine["kind"] == "steered") & (mine["behavior"] == name)]
    color = COLORS[model]
    unsteered = float(base["value"].iloc[0])
    axes.axhline(unsteered, color=color, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.7)
    for value in mine.loc[(mine["kind"] == "prompt") & (mine["behavior"] == name), "value"]:
        axes.axhline(value, color=color, linestyle="-.", linewidth=1.0, alpha=0.7)
    fluent = fluent_range(made.settings, name)
    draw_curve(axes, pd.concat([base, curve]), color, fluent, gid=f"{model} {name}", aside=aside)
    controls = made.controls
    controls = controls[(controls["annotator"] == annotator) & (controls["behavior"] == name)]
    for sign, part in controls.groupby("sign"):
        size = float(part["coefficient"].abs().iloc[0])
        low, high = part["change"].min() + unsteered, part["change"].max() + unsteered
        axes.bar(
            (size if sign == "amplify" else -size) + 1.5 * aside,
            high - low,
            width=0.02,
            bottom=low,
            color=color,
            alpha=0.25,
            edgecolor=color,
            linewidth=0.8,
            zorder=2,
        )


def _handles(made: Mapping[str, Evaluation]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=COLORS[name], marker="o", linewidth=1.6, markersize=4.5, label=label)
        for name, label in (("thinking", "with the adapter"), ("plain", "plain"))
        if name in made
    ]
    line = {"color": FAINT, "linewidth": 1.0}
    return [
        *handles,
        Line2D([], [], linestyle=(0, (4, 3)), label="unsteered", **line),
        Line2D([], [], linestyle="-.", label="asked for in the prompt", **line),
        Line2D(
            [], [], linestyle=":", marker="o", markerfacecolor="white", label="not fluent", **line
        ),
        Patch(color=FAINT, alpha=0.3, label="all controls"),
    ]


def _caption(made: Mapping[str, Evaluation], annotator: str) -> str:
    first = next(iter(made.values()))
    settings = first.settings
    controls = first.controls
    numbers = controls[controls["annotator"] == annotator].groupby(["behavior", "sign"]).size()
    layers = ", ".join(str(layer) for layer in sorted(set(controls["layer"])))
    return (
        f"{settings['model'].split('+')[0].strip()}, plain and with an adapter that makes it "
        f"think; the same directions at layer {layers}, extracted from the plain model. "
        f"{settings['tasks']} held-out tasks, one chain each; labels by {annotator}; lines: 95 % "
        f"intervals over tasks. Bands: smallest to largest of {int(numbers.max())} random and "
        f"shuffled directions of the same length, on {settings['control_tasks']} tasks, as changes "
        "from the unsteered rate of these."
    )


def keep(made: Mapping[str, Evaluation], results: Path) -> str:
    """Tables, settings and figures of each model, and the page, which is returned."""
    for name, evaluation in made.items():
        keep_tables(evaluation, results / "real_evaluation" / name)
        report = evaluation.folder / "report.html"
        if report.is_file():
            shutil.copy(report, results / "real_evaluation" / name / report.name)
    save_figure(figure(made), results / "real_evaluation.png")
    if {"plain", "thinking"} <= set(made):
        table = recovered(made["plain"], made["thinking"])
        write_text_atomic(
            results / "real_evaluation" / "recovered.csv",
            table.to_csv(index=False, float_format="%.6g"),
        )
    text = page(made)
    write_text_atomic(results / "real_evaluation.md", text)
    return text
