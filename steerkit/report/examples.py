"""Examples: one task under one noise at several coefficients, chosen by a rule, not by eye."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from steerkit.report.grids import color_of
from steerkit.report.numbers import coefficient, counted, known, points
from steerkit.trace_html import legend_html, response_html

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.evaluation.record import Evaluation
    from steerkit.traces import Trace

MOST = 5
"""Coefficients that an example shows."""


@dataclass(frozen=True)
class Chain:
    """One chain of an example; ``html`` and ``legend`` are safe: what was written is escaped."""

    head: str
    facts: str
    html: Markup
    legend: Markup


@dataclass(frozen=True)
class Example:
    """The chains of one task and sample, by coefficient, the unsteered one among them."""

    behavior: str
    color: str
    task: str
    prompt: str
    why: str
    chains: tuple[Chain, ...]


def find_examples(
    evaluation: Evaluation, count: int, annotator: str, labeller: Any = None
) -> list[Example]:
    """Examples of every behaviour that was steered, at most ``count`` each.

    Shown is a chain whose change is typical: the pairs of task and sample are ordered by how far
    the behaviour's share of sentences at the largest coefficient shown lies above that at the
    smallest, and those nearest to the median are taken, ties by name.

    Parameters
    ----------
    annotator:
        Whose counts are used.
    labeller:
        What labels the chains again, where its name is not enough.
    """

    @cache
    def chains(condition: str) -> dict[str, Trace]:
        return {t.id: t for t in evaluation.traces(condition, labeller or annotator)}

    table = evaluation.generations
    table = table[(table["annotator"] == annotator) & table["kind"].isin(["baseline", "steered"])]
    made = []
    for behavior in evaluation.settings.get("behaviors", ()):
        own = table[(table["kind"] == "baseline") | (table["behavior"] == behavior)]
        there = sorted({float(c) for c in own["coefficient"]})
        shown = _coefficients(evaluation.settings.get("headline", {}).get(behavior), there)
        if len(shown) > 1 and f"spans:{behavior}" in own:
            made += _typical(own, str(behavior), shown, count, chains)
    return made


def _typical(
    own: pd.DataFrame,
    behavior: str,
    shown: list[float],
    count: int,
    chains: Callable[[str], dict[str, Trace]],
) -> list[Example]:
    spans = f"spans:{behavior}"
    shares = own.assign(share=(own[spans] / own["sentences"].clip(lower=1)).astype(float))
    wide = shares.pivot_table(index=["task", "sample"], columns="coefficient", values="share")
    change = (wide[shown[-1]] - wide[shown[0]])[wide[shown].notna().all(axis=1)]
    if change.empty:
        return []
    middle = float(change.median())
    order = sorted(change.index, key=lambda pair: (abs(change[pair] - middle), pair))
    made = []
    for task, sample in order[:count]:
        rows = own[(own["task"] == task) & (own["sample"] == sample)]
        by_coefficient = {row["coefficient"]: row for row in rows.to_dict("records")}
        found = [
            (r, chains(r["condition"])[r["trace"]]) for r in map(by_coefficient.get, shown) if r
        ]
        made.append(
            Example(
                behavior,
                color_of(behavior),
                str(task),
                found[0][1].prompt or str(task),
                f"its share of sentences changes by {points(change[(task, sample)])} points from "
                f"{coefficient(shown[0])} to {coefficient(shown[-1])}, the median chain's by "
                f"{points(middle)}",
                tuple(_chain(row, trace, spans) for row, trace in found),
            )
        )
    return made


def _coefficients(headline: Any, there: list[float]) -> list[float]:
    """The headline coefficients, 0, and the one nearest half way to each; at most :data:`MOST`."""
    named = list(headline.values()) if isinstance(headline, Mapping) else list(headline or ())
    ends = [c for c in named if c in there and c] or [c for c in (there[0], there[-1]) if c]
    halves = [
        min((c for c in there if 0 < c / end < 1), key=lambda c: abs(c - end / 2), default=end)
        for end in ends
    ]
    return sorted({0.0, *ends, *halves} & set(there))[:MOST]


def _chain(row: Mapping[str, Any], trace: Trace, spans: str) -> Chain:
    facts = [
        f"{spans.partition(':')[2]} in {int(row[spans])} of "
        f"{counted(int(row['sentences']), 'sentence')}",
        counted(int(row["tokens"]), "token"),
    ]
    if known(row.get("correct")):
        facts.append("right" if row["correct"] else "wrong")
    if row["truncated"]:
        facts.append("cut off")
    return Chain(
        coefficient(row["coefficient"]) if row["coefficient"] else "unsteered",
        ", ".join(facts),
        Markup(response_html(trace)),
        Markup(legend_html(trace)),
    )
