"""Chain statistics: how often behaviours occur, what follows what, and where in the chain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.behaviors import UNPARSED, behaviors
from steerkit.errors import TraceError
from steerkit.spans import Span
from steerkit.statistics import Interval, ratio_interval, share_interval
from steerkit.traces import Trace, Traces

if TYPE_CHECKING:
    import pandas as pd

START, END = "(start)", "(end)"
"""Before the first span of a chain and after its last one; no behaviour has brackets."""
UNITS = ("spans", "characters", "chains")
"""Of what a share is one: spans, characters other than white space, chains with the label."""
QUARTILES = ("lower_quartile", "median", "upper_quartile")


@dataclass(frozen=True)
class ChainStatistics:
    """Behaviours in chains of one group or of several side by side, as tidy tables.

    Attributes
    ----------
    shares:
        One row for every ``group``, ``behavior`` and ``unit``: ``count`` of ``total``, their
        ratio ``share`` with ``low`` and ``high``. Units: ``spans``; ``characters`` of the
        thinking section other than white space, those in no span included in the total;
        ``chains`` that have the behaviour at all.
    transitions:
        One row for every ``group`` and pair ``first``, ``second`` of which ``first`` occurs:
        ``count``, and ``share`` of what follows ``first``, with ``low`` and ``high``;
        ``expected`` is the share of ``second`` after anything. ``first`` can be
        :data:`START` and ``second`` :data:`END`.
    positions:
        One row for every ``group`` and ``behavior``: ``count`` of spans, the ``mean`` of their
        beginnings with ``low`` and ``high``, and quartiles, from 0, the start of the thinking
        section, to 1, its end.
    counts:
        What was counted, one row a group: ``chains``, ``tasks``, ``spans`` of thinking;
        ``unlabelled`` chains without any; ``outside``, spans that begin outside the thinking
        section and are left out; ``truncated`` chains, cut off by the token limit, whose
        positions and ends are not known and left out; ``gaps``, transitions across text that
        is in no span; ``models``, who wrote them, and ``annotators``.

    ``unparsed`` text is no behaviour, but it is part of every denominator and has rows of its
    own. Intervals are of 95 % over tasks, each task with all its chains: bootstrap of the
    ratio of sums, or Wilson's for shares of chains where every task has one chain. A single
    task has none. Do not read bootstrap intervals of fewer than twenty tasks: they are too
    narrow then.
    """

    shares: pd.DataFrame
    transitions: pd.DataFrame
    positions: pd.DataFrame
    counts: pd.DataFrame

    @property
    def groups(self) -> list[str]:
        """Names of the groups, in order."""
        return list(self.counts["group"])

    def matrix(self, group: str | None = None, values: str = "share") -> pd.DataFrame:
        """Transitions of a group as a matrix: rows ``first``, columns ``second``.

        ``values`` is ``share``, ``count``, ``low``, ``high`` or ``expected``. Raises
        :class:`TraceError` for an unknown group, and for none where there are several.
        """
        names = self.groups
        if group is None and len(names) == 1:
            group = names[0]
        if group not in names:
            raise TraceError(f"no group {group!r}", expected="one of " + ", ".join(names))
        rows = self.transitions[self.transitions["group"] == group]
        first, second = (list(dict.fromkeys(rows[part])) for part in ("first", "second"))
        return rows.pivot(index="first", columns="second", values=values).loc[first, second]

    def to_json(self) -> dict[str, Any]:
        """All of it as what JSON holds; undefined numbers are null."""
        tables = ("counts", "shares", "transitions", "positions")
        return {name: _records(getattr(self, name)) for name in tables}

    def _repr_html_(self) -> str:
        return "".join(
            table.to_html(index=False) or "" for table in (self.counts, self.shares, self.positions)
        )


def describe_chains(
    traces: Iterable[Trace] | Mapping[str, Iterable[Trace]],
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> ChainStatistics:
    """Count behaviours, transitions between them and their places in labelled chains.

    Parameters
    ----------
    traces:
        Labelled chains; or groups of them by name, such as those of several models, which
        are described side by side.
    resamples, seed:
        Bootstrap resamples of the tasks, and what draws them.

    Raises :class:`TraceError` for no chain, and for a group without any span in its thinking
    sections.
    """
    import pandas as pd

    groups = dict(traces) if isinstance(traces, Mapping) else {"chains": traces}
    if not groups:
        raise TraceError("no chain to describe", expected="at least one group of chains")
    made = [_Group(name, Traces(chains), resamples, seed) for name, chains in groups.items()]
    used = {label for group in made for label in group.labels}
    labels = [*(b.name for b in behaviors() if b.name in used), UNPARSED]
    return ChainStatistics(
        pd.DataFrame([row for group in made for row in group.shares(labels)]),
        pd.DataFrame(
            [row for group in made for row in group.transitions([n for n in labels if n in used])]
        ),
        pd.DataFrame([row for group in made for row in group.positions(labels)]),
        pd.DataFrame([group.counts() for group in made]),
    )


class _Group:
    """One group's chains, added up by task."""

    def __init__(self, name: str, traces: Traces, resamples: int, seed: int) -> None:
        self.name, self.traces = name, traces
        self._draw = {"resamples": resamples, "seed": seed}
        self._tasks = {key: n for n, key in enumerate(dict.fromkeys(t.task_key for t in traces))}
        self._of = [self._tasks[trace.task_key] for trace in traces]
        self._spans = [_thinking_spans(trace) for trace in traces]
        self.labels = {span.label for spans in self._spans for span in spans}
        if not self.labels:
            raise TraceError(
                "no labelled span in the thinking sections" if traces else "no chain to describe",
                where=name,
                fix="label the chains first: sk.annotate(traces), or steerkit annotate FILE",
            )

    def counts(self) -> dict[str, Any]:
        """What was counted and what was left out."""
        models = dict.fromkeys(trace.model or "unknown" for trace in self.traces)
        annotators = dict.fromkeys(trace.annotator or "unknown" for trace in self.traces)
        return {
            "group": self.name,
            "chains": len(self.traces),
            "tasks": len(self._tasks),
            "spans": sum(map(len, self._spans)),
            "unlabelled": sum(not spans for spans in self._spans),
            "outside": sum(
                len(t.spans) - len(s) for t, s in zip(self.traces, self._spans, strict=True)
            ),
            "truncated": sum(trace.truncated for trace in self.traces),
            "gaps": sum(_gaps(t, spans) for t, spans in zip(self.traces, self._spans, strict=True)),
            "models": ", ".join(models),
            "annotators": ", ".join(annotators),
        }

    def shares(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of :attr:`ChainStatistics.shares`."""
        held = [Counter(span.label for span in spans) for spans in self._spans]
        written = [_characters(t, spans) for t, spans in zip(self.traces, self._spans, strict=True)]
        totals: dict[str, list[float]] = {
            "spans": [sum(counts.values()) for counts in held],
            "characters": [solid(trace.thinking) for trace in self.traces],
            "chains": [1] * len(self.traces),
        }
        rows = []
        for label in labels:
            tops: dict[str, list[float]] = {
                "spans": [counts[label] for counts in held],
                "characters": [counts[label] for counts in written],
                "chains": [counts[label] > 0 for counts in held],
            }
            for unit in UNITS:
                found = self._ratio(tops[unit], totals[unit], whole=unit == "chains")
                rows.append(
                    {
                        "group": self.name,
                        "behavior": label,
                        "unit": unit,
                        "count": int(sum(tops[unit])),
                        "total": int(sum(totals[unit])),
                        "share": found.value,
                        "low": found.low,
                        "high": found.high,
                    }
                )
        return rows

    def transitions(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of :attr:`ChainStatistics.transitions`."""
        pairs = [
            Counter(_pairs(trace, spans))
            for trace, spans in zip(self.traces, self._spans, strict=True)
        ]
        firsts, seconds = (START, *labels), (*labels, END)
        every = sum(sum(counts.values()) for counts in pairs)
        rows = []
        for first in firsts:
            left = [sum(counts[first, s] for s in seconds) for counts in pairs]
            if not sum(left):
                continue
            for second in seconds:
                tops = [counts[first, second] for counts in pairs]
                found = self._ratio(tops, left)
                after_any = sum(counts[f, second] for counts in pairs for f in firsts)
                rows.append(
                    {
                        "group": self.name,
                        "first": first,
                        "second": second,
                        "count": sum(tops),
                        "share": found.value,
                        "low": found.low,
                        "high": found.high,
                        "expected": after_any / every,
                    }
                )
        return rows

    def positions(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of :attr:`ChainStatistics.positions`."""
        rows = []
        for label in labels:
            places = [
                [] if t.truncated else _places(t, spans, label)
                for t, spans in zip(self.traces, self._spans, strict=True)
            ]
            values = np.array([place for found in places for place in found])
            mean = self._ratio([sum(found) for found in places], list(map(len, places)))
            quartiles = [math.nan] * 3
            if len(values):
                quartiles = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
            rows.append(
                {
                    "group": self.name,
                    "behavior": label,
                    "count": len(values),
                    "mean": mean.value,
                    "low": mean.low,
                    "high": mean.high,
                    **dict(zip(QUARTILES, quartiles, strict=True)),
                }
            )
        return rows

    def _ratio(
        self, tops: Sequence[float], bottoms: Sequence[float], *, whole: bool = False
    ) -> Interval:
        """Ratio of sums over chains, and its interval over tasks; NaN where there is none."""
        n = len(self._tasks)
        top = np.bincount(self._of, weights=np.asarray(tops, dtype=float), minlength=n)
        bottom = np.bincount(self._of, weights=np.asarray(bottoms, dtype=float), minlength=n)
        if bottom.sum() == 0:
            return Interval(math.nan, math.nan, math.nan)
        if n < 2:
            return Interval(float(top.sum() / bottom.sum()), math.nan, math.nan)
        if whole and len(self.traces) == n:
            return share_interval(int(top.sum()), n)
        return ratio_interval(top, bottom, **self._draw)


def solid(text: str) -> int:
    """Characters other than white space."""
    return sum(not character.isspace() for character in text)


def _thinking_spans(trace: Trace) -> tuple[Span, ...]:
    """Spans that begin in the thinking section, in order."""
    start, end = trace.thinking_bounds
    return tuple(span for span in trace.spans if start <= span.start < end)


def _characters(trace: Trace, spans: Sequence[Span]) -> Counter[str]:
    """Characters of the thinking section by label, white space aside."""
    end = trace.thinking_bounds[1]
    found: Counter[str] = Counter()
    for span in spans:
        found[span.label] += solid(trace.response[span.start : min(span.end, end)])
    return found


def _pairs(trace: Trace, spans: Sequence[Span]) -> list[tuple[str, str]]:
    """Each span's label and the next one's, from the start to the end.

    What follows the last span of a chain that was cut off is not known.
    """
    if not spans:
        return []
    labels = [START, *(span.label for span in spans)]
    labels += [] if trace.truncated else [END]
    return list(pairwise(labels))


def _gaps(trace: Trace, spans: Sequence[Span]) -> int:
    """Neighbouring spans between which stands text in no span."""
    return sum(bool(trace.response[a.end : b.start].strip()) for a, b in pairwise(spans))


def _places(trace: Trace, spans: Sequence[Span], label: str) -> list[float]:
    """Where spans of a label begin, from 0 to 1 of the thinking section, its ends' space aside."""
    start, end = trace.thinking_bounds
    text = trace.response[start:end]
    first = start + len(text) - len(text.lstrip())
    length = max(len(text.strip()), 1)
    return [max(span.start - first, 0) / length for span in spans if span.label == label]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(key): None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        for row in table.to_dict("records")
    ]
