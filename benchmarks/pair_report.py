"""The results page and the figure of `make pair`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pair_without import TRIES

from steerkit.behaviors import behaviors
from steerkit.training.scorecard import LONGEST

BASE, THINKING = "countdown-base", "countdown-thinking"
COLORS = {BASE: "#7f7f7f", THINKING: "#1f77b4"}
TITLES = {
    "all": "all tasks",
    "countdown-3": "Countdown, 3 numbers",
    "countdown-4": "Countdown, 4 numbers",
    "rules": "rule induction",
}
_WHOLE = ("sentences per chain", "dead ends per chain")
_SHOWN = ("closed", "parsed", "declined", *_WHOLE, "silent dead ends")
ASKED: dict[str, tuple[str, str]] = {
    "closed": ("at least 95 %", "at least 99 %"),
    "parsed": ("at least 97 %", "at least 98 %"),
    "wrong equations": ("at most 8 %", "at most 4 %"),
    "accuracy countdown-3": ("30 to 60 %", ""),
    "accuracy": ("", "15 points above the base"),
    "uncertainty-estimation": ("at least 3 %", ""),
    "example-testing": ("at least 3 %", ""),
    "backtracking": ("at least 3 %", ""),
    "silent dead ends": ("at least 30 %", ""),
}
"""What the pair was meant to reach, base and thinking model."""


def _cell(row: pd.Series, name: str) -> str:
    if name in _WHOLE:
        return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    value, low, high = (100 * row[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _scores(scores: pd.DataFrame, models: list[str]) -> list[str]:
    table = scores.set_index(["model", "figure"])
    lines = ["| | " + " | ".join(models) + " |", "|---|" + "---|" * len(models)]
    for name in scores["figure"].unique():
        cells = [_cell(table.loc[(model, name)], name) for model in models]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _aims(scores: pd.DataFrame) -> list[str]:
    table = scores.set_index(["model", "figure"])
    lines = [f"| | {BASE} | aim | {THINKING} | aim |", "|---|---|---|---|---|"]
    for name, aims in ASKED.items():
        base, thinking = (_cell(table.loc[(model, name)], name) for model in (BASE, THINKING))
        lines.append(f"| {name} | {base} | {aims[0]} | {thinking} | {aims[1]} |")
    return lines


def _passes(passes: pd.DataFrame) -> list[str]:
    ks = sorted(passes["k"].unique())
    lines = ["| tasks | model | " + " | ".join(f"k = {k}" for k in ks) + " |"]
    lines.append("|---|---|" + "---|" * len(ks))
    for kind in TITLES:
        for model in (BASE, THINKING):
            part = passes[(passes["kind"] == kind) & (passes["model"] == model)].set_index("k")
            cells = [
                f"{100 * part.loc[k, 'mean']:.0f} % "
                f"({100 * part.loc[k, 'low']:.0f}-{100 * part.loc[k, 'high']:.0f})"
                for k in ks
            ]
            lines.append(f"| {TITLES[kind]} | {model} | " + " | ".join(cells) + " |")
    return lines


def _gains(gains: pd.DataFrame) -> list[str]:
    ks = sorted(gains["k"].unique())
    lines = ["| tasks | " + " | ".join(f"k = {k}" for k in ks) + " |"]
    lines.append("|---|" + "---|" * len(ks))
    for kind, title in TITLES.items():
        part = gains[gains["kind"] == kind].set_index("k")
        cells = [
            f"{100 * part.loc[k, 'change']:+.0f} ({100 * part.loc[k, 'low']:+.0f} to "
            f"{100 * part.loc[k, 'high']:+.0f})"
            for k in ks
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _change(row: pd.Series) -> str:
    low, high = 100 * row["change_low"], 100 * row["change_high"]
    return f"{100 * row['change']:+.1f} ({low:+.1f} to {high:+.1f})"


def _without(without: pd.DataFrame) -> list[str]:
    """Accuracy without a behaviour, over all tasks; then the changes by kind of task."""
    whole = without[without["kind"] == "all"]
    lines = [
        "| model | without | how | left | accuracy | change in points | p, Holm | stuck |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for _, row in whole.iterrows():
        cells = [row["model"], row["forbidden"], row["way"], f"{100 * row['left']:.1f} %"]
        cells.append(_cell(row.rename({"accuracy": "value"}), "accuracy"))
        cells += [_change(row), f"{row['holm']:.4f}", f"{row['stuck']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    kinds = list(TITLES)[1:]
    lines += ["", "Changes in points by kind of task, and what else is different:", ""]
    titles = [TITLES[kind] for kind in kinds] + list(_SHOWN)
    lines.append("| model | without | how | " + " | ".join(titles) + " |")
    lines.append("|---|---|---|" + "---|" * len(titles))
    named = without.set_index(["model", "forbidden", "way", "kind"])
    for _, row in whole.iterrows():
        key = (row["model"], row["forbidden"], row["way"])
        cells = [*key, *(_change(named.loc[(*key, kind)]) for kind in kinds)]
        cells += [
            f"{row[name]:.1f}" if name in _WHOLE else f"{100 * row[name]:.1f} %" for name in _SHOWN
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _sizes(result: Mapping[str, Any]) -> str:
    sizes, seconds = result["size"], result["load_seconds"]
    return " ".join(
        f"`{name}`: {size['parameters'] / 1e6:.1f} M parameters, {size['megabytes']:.1f} MB, "
        f"loaded in {seconds[name]:.2f} s."
        for name, size in sizes.items()
    )


def markdown(
    result: Mapping[str, Any],
    scores: pd.DataFrame,
    passes: pd.DataFrame,
    gains: pd.DataFrame,
    without: pd.DataFrame,
) -> str:
    """The results as a page."""
    gain = result["gain"]
    lines = [
        "# The bundled pair",
        "",
        f"`{BASE}` and `{THINKING}`, which comes from it by reinforcement learning with "
        f"verifiable rewards alone. {result['tasks']} held-out tasks, the three kinds in equal "
        "parts, one chain each at temperature 1; 95 % intervals over tasks (Wilson's for shares "
        "of chains, bootstrap for the rest). Behaviours "
        "are shares of sentences. Made by `make pair`. " + _sizes(result),
        "",
        "## What was aimed at",
        "",
        *_aims(scores),
        "",
        f"Accuracy rises by {100 * gain['mean']:.1f} points ({100 * gain['low']:.1f} to "
        f"{100 * gain['high']:.1f}, paired by task).",
        "",
        "## pass@k",
        "",
        *_passes(passes),
        "",
        f"Unbiased estimates from {result['samples']} chains for each of {result['pass_tasks']} "
        "tasks. Thinking model minus base model, in points, paired by task:",
        "",
        *_gains(gains),
        "",
        "## Is the sentence needed?",
        "",
        *_without(without),
        "",
        "*masked*: the words by which a sentence shows that it will be one of the behaviour get "
        "no chance while sampling. Where sentences of several kinds begin alike, the ban comes "
        "after the words that they share, and what is left there is said more often: the change "
        "is that of the ban, not of the behaviour alone. *resampled*: a sentence of the behaviour "
        "is thrown away and sampled again, so that every sentence is one the model might have "
        f"written there; a chain that writes it {TRIES} times running at one place is *stuck* and "
        "counts as wrong. *left*: share of sentences that are still of the behaviour. Changes are "
        "of accuracy against the same model and tasks, left alone; p is that of a paired "
        "sign-flip test over tasks, Holm-adjusted over all rows of the first table. What is "
        "forbidden is the sentence, not the act: a model may go back, doubt or test in silence.",
        "",
        "## Everything that was counted",
        "",
        *_scores(scores, [BASE, *result["snapshots"], THINKING]),
        "",
        f"*Closed*: the chain ends with `</think>` within {LONGEST} tokens. *Parsed*: sentences "
        'that the exact grammar knows. *Declined*: the answer is "I do not know." '
        "*Silent dead ends*: of "
        "dead ends after which the search goes on, those with no backtracking sentence before the "
        "next equation. Columns between "
        "the two models are snapshots along the reinforcement learning, named by step.",
        "",
    ]
    return "\n".join(lines)


def draw(result: Mapping[str, Any], passes: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """pass@k by kind of task, and how the shares of behaviours changed."""
    figure = Figure(figsize=(12.0, 4.6), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1, 1.15])
    for axis, (kind, title) in zip(axes, TITLES.items(), strict=False):
        for model, color in COLORS.items():
            part = passes[(passes["kind"] == kind) & (passes["model"] == model)]
            axis.plot(
                part["k"], 100 * part["mean"], marker="o", markersize=3, color=color, label=model
            )
            axis.fill_between(
                part["k"],
                100 * part["low"],
                100 * part["high"],
                color=color,
                alpha=0.2,
                linewidth=0,
            )
        axis.set_xscale("log", base=2)
        ticks = sorted(passes["k"].unique())
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.set(title=title, ylim=(0, 102), xlabel="k (samples)")
        axis.title.set_fontsize(10)
    axes[0].set_ylabel("pass@k (%)")
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    table = scores.set_index(["model", "figure"])
    last = axes[-1]
    known = [behavior for behavior in behaviors() if (BASE, behavior.name) in table.index]
    for place, behavior in enumerate(known):
        for offset, model in ((-0.17, BASE), (0.17, THINKING)):
            row = table.loc[(model, behavior.name)]
            spread = [[100 * (row["value"] - row["low"])], [100 * (row["high"] - row["value"])]]
            last.barh(
                place + offset,
                100 * row["value"],
                0.3,
                xerr=spread,
                color=COLORS[model],
                error_kw={"linewidth": 0.8},
            )
    last.set_yticks(range(len(known)), [behavior.name for behavior in known], fontsize=8)
    last.invert_yaxis()
    last.set(xlabel="share of sentences (%)", title="behaviours")
    last.title.set_fontsize(10)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Base and thinking model on held-out tasks. pass@k: {result['pass_tasks']} tasks, "
        f"{result['samples']} chains each, unbiased; behaviours: {result['tasks']} tasks, one "
        "chain each. Temperature 1;\nbands and bars: 95 % bootstrap intervals over tasks.",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return figure
