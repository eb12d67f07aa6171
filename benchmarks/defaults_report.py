"""The results page and the figure of `make defaults`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steerkit.plots import FAINT, GRID, INK, STYLE, ReportFigure

COLORS = {"length": "#8a8a8a", "side effect": "#0072b2", "final": "#d55e00"}
TITLES = {
    "length": "screening, equal length",
    "side effect": "screening, equal side effect",
    "final": "other tasks, equal side effect",
}


def _interval(row: Mapping[str, Any], name: str, form: str = "{:.2f}") -> str:
    value, low, high = (form.format(row[key]) for key in (name, f"{name} low", f"{name} high"))
    return f"{value} ({low} to {high})"


def _name(candidate: str) -> str:
    return f"`{candidate}`"


def _rows(table: pd.DataFrame, stage: str, strength: str) -> dict[str, dict[str, Any]]:
    chosen = table[(table.stage == stage) & (table.strength == strength)]
    return {row["candidate"]: row for row in chosen.to_dict("records")}


def _screened(table: pd.DataFrame, left_out: Mapping[str, str]) -> list[str]:
    head = ["method, contrast, window", "AUROC", "halves (shuffled)", "swing, equal length"]
    head += ["swing, equal side effect", "accuracy lost there, points", "swing per 10 points lost"]
    head += ["sentences known", "seconds", "out because"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    length, side = (_rows(table, "screen", strength) for strength in ("length", "side effect"))
    for name, row in side.items():
        ratio = row["per point"]
        cells = [_name(name), f"{row['auroc']:.3f}"]
        cells += [
            f"{row['split_half']:.2f} ({row['shuffled']:.2f})",
            _interval(length[name], "swing"),
        ]
        cells += [_interval(row, "swing"), _interval(row, "lost", "{:+.1f}")]
        cells += ["none lost" if np.isnan(ratio) else f"{10 * ratio:.2f}"]
        cells += [f"{100 * row['parsed']:.0f} %", f"{row['seconds']:.2f}", left_out.get(name, "")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _confirmed(
    table: pd.DataFrame, behaviors: list[str], differences: list[Mapping[str, Any]]
) -> list[str]:
    head = ["method, contrast, window", "swing", *behaviors, "accuracy lost, points"]
    head += ["swing per 10 points lost", "swing minus today's", "loss minus today's"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    against = {row["candidate"]: row for row in differences}
    for name, row in _rows(table, "final", "side effect").items():
        ratio = row["per point"]
        cells = [_name(name), _interval(row, "swing")]
        cells += [f"{row[f'swing {b}']:.2f}" for b in behaviors]
        cells += [_interval(row, "lost", "{:+.1f}")]
        cells += ["none lost" if np.isnan(ratio) else f"{10 * ratio:.2f}"]
        if name in against:
            found = against[name]
            cells.append(f"{found['swing']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})")
            ends = f"({found['lost low']:+.1f} to {found['lost high']:+.1f})"
            cells.append(f"{found['lost']:+.1f} {ends}")
        else:
            cells += ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(content: Mapping[str, Any], table: pd.DataFrame) -> str:
    """The results as a page."""
    today, winner, tasks = content["today"], content["winner"], content["tasks"]
    behaviors = list(content["layers"])
    layers = ", ".join(f"{name} {layer}" for name, layer in content["layers"].items())
    moved = ", ".join(f"{name} {value:.3f}" for name, value in content["divergence"].items())
    said = (
        f"No rival does reliably better than {_name(today)}, which stays the default."
        if winner == today
        else f"By the rule {_name(winner)} takes the place of {_name(today)} as the default."
    )
    step = f"{content['coefficient']:g}"
    lines = [
        "# Which contrast, method and window should be the default?",
        "",
        f"{said} {content['model']}, three behaviours, every candidate from the same chains and at "
        f"the same layers ({layers}), pushed at both signs on *select* tasks; made by "
        "`make defaults`, which states the rule that was fixed beforehand. Windows other than "
        "1,10 became candidates after a look at 40 of the tasks.",
        "",
        f"## Screening on {tasks['screen']} tasks",
        "",
        *_screened(table, content["left_out"]),
        "",
        "*Swing*: (rate pushed up - rate pushed down) / unsteered rate of the behaviour's "
        "sentences, mean over behaviours. *Lost*: unsteered accuracy minus that of pushed chains, "
        "mean over behaviours and signs. One chain a task, same noise; 95 % bootstrap intervals "
        f"over tasks. *Equal length*: {step} mean norms. *Equal side effect*: as far as moves the "
        "predictions on unsteered text like the default of today does at that length "
        f"(KL, nats a token: {moved}). *Window*: tokens before a span, and of its own, that are "
        "averaged. *Halves*: cosine between directions of two halves of the "
        "tasks, beside that of shuffled labels; AUROC of the projection before a span, on chains "
        "of other tasks. *Seconds*: to fit all behaviours at all layers, without the pass over the "
        "chains that all share.",
        "",
        f"## The best of them on {tasks['final']} other tasks",
        "",
        *_confirmed(table, behaviors, content["differences"]),
        "",
        "At equal side effect, on tasks on which nothing was chosen. Differences to the default of "
        "today are paired by task; the interval of the swing's is 98.3 % (95 % for three rivals "
        "together), that of the loss 95 %.",
        "",
        "![Swing and accuracy lost of every candidate](defaults.png)",
        "",
    ]
    return "\n".join(lines)


def draw(content: Mapping[str, Any], table: pd.DataFrame) -> Figure:
    """Swing and lost accuracy of every candidate, both strengths, with intervals."""
    names = list(dict.fromkeys(table.candidate))
    places = {name: len(names) - number for number, name in enumerate(names)}
    series = {"length": ("screen", "length"), "side effect": ("screen", "side effect")}
    series["final"] = ("final", "side effect")
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(9.0, 9.4), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.25, 1])
        figure.subplots_adjust(left=0.25, right=0.985, top=0.97, bottom=0.16, wspace=0.06)
        for number, (key, (stage, strength)) in enumerate(series.items()):
            found = _rows(table, stage, strength)
            for axis, what in ((left, "swing"), (right, "lost")):
                values = np.array(
                    [[r[what], r[f"{what} low"], r[f"{what} high"]] for r in found.values()]
                )
                axis.errorbar(
                    values[:, 0],
                    [places[name] + 0.22 * (1 - number) for name in found],
                    xerr=[values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]],
                    fmt="D" if key == "final" else "o",
                    markersize=4.5,
                    color=COLORS[key],
                    capsize=2,
                    linewidth=1.2,
                )
        left.set_yticks([places[name] for name in names], names)
        for label, name in zip(left.get_yticklabels(), names, strict=True):
            label.set_color(INK)
            label.set_fontweight("bold" if name == content["today"] else "normal")
        left.set_xlabel("swing: (rate up - rate down) / unsteered rate")
        right.set_xlabel("accuracy lost (points)")
        for axis in (left, right):
            axis.axvline(0, color=FAINT, linestyle=":", linewidth=1)
            axis.grid(axis="x", color=GRID, linewidth=0.8)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        figure.legend(
            handles=[
                Line2D(
                    [], [], color=COLORS[k], marker="D" if k == "final" else "o", label=TITLES[k]
                )
                for k in series
            ],
            loc="lower left",
            bbox_to_anchor=(0.01, 0.07),
            ncols=3,
            frameon=False,
            fontsize=8,
        )
        tasks = content["tasks"]
        text = (
            f"{content['model']}, mean of three behaviours, both signs; {tasks['screen']} select "
            f"tasks for the screening, {tasks['final']} others for the best of it. Bars: 95 % "
            f"bootstrap over tasks. Equal length: {content['coefficient']:g} mean norms; equal "
            "side effect: the same KL of the predictions on unsteered text. Bold: the default "
            "until then."
        )
        figure.text(0.015, 0.065, textwrap.fill(text, width=128), fontsize=8, color=FAINT, va="top")
    return figure
