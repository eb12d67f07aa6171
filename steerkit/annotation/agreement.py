"""Agreement: how far two annotations of the same chains say the same, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from steerkit.annotation.agreement_measures import label_rows, summary_rows
from steerkit.annotation.sentences import Bounds, trace_sentences
from steerkit.behaviors import UNPARSED, behaviors
from steerkit.errors import AnnotationError
from steerkit.traces import Trace, Traces

if TYPE_CHECKING:
    import pandas as pd

UNITS = ("sentences", "spans", "characters", "tokens")
"""What can be compared one by one."""

Tokenize = Callable[[str], Sequence[Bounds]]
"""Text to the characters [start, end) of each of its tokens."""


@dataclass(frozen=True)
class Agreement:
    """How far annotation B agrees with annotation A, as tidy tables.

    Attributes
    ----------
    summary:
        One row for every unit and measure: ``unit``, ``measure``, ``value``, ``low``, ``high``
        and the ``count`` of units behind it. Measures: ``kappa`` (Cohen 1960), ``accuracy``
        and ``macro_f1`` over all units; ``kappa_labelled`` and ``accuracy_labelled`` over
        those that both label; ``coverage``, the share of A's labelled units that B labels.
    labels:
        One row for every unit and label: ``precision``, ``recall`` and ``f1`` of B, A being
        right, with ``f1_low`` and ``f1_high``, and how many units A and B give the label.
    confusion:
        One row for every unit and pair of labels: ``a``, ``b``, ``count``.
    counts:
        What was compared: ``chains`` and ``tasks``; ``only_a`` and ``only_b``, chains that
        the other lacks; ``unlabelled``, by unit, those that neither labels and that are
        therefore left out.
    annotators:
        Who labelled A and B, as their traces say.

    Text that carries ``unparsed`` or stands in no span counts as ``unparsed``, which is a
    category of kappa and accuracy, but not of the macro average. Intervals are the 2.5 and
    97.5 % quantiles over resampled tasks, every task with all its chains.
    """

    summary: pd.DataFrame
    labels: pd.DataFrame
    confusion: pd.DataFrame
    counts: dict[str, Any]
    annotators: tuple[str, str]

    def value(self, measure: str, unit: str = "sentences") -> float:
        """One measure; NaN where it is undefined, as kappa is if there is but one label."""
        rows = self.summary
        found = rows[(rows["unit"] == unit) & (rows["measure"] == measure)]["value"]
        if len(found) != 1:
            raise AnnotationError(
                f"no {measure!r} of {unit!r} here",
                expected=", ".join(sorted({*rows["measure"]} | {*rows["unit"]})),
            )
        return float(found.iloc[0])

    def matrix(self, unit: str = "sentences") -> pd.DataFrame:
        """The confusion matrix: rows are A's labels, columns are B's."""
        rows = self.confusion[self.confusion["unit"] == unit]
        names = list(dict.fromkeys(rows["a"]))
        return rows.pivot(index="a", columns="b", values="count").loc[names, names]

    def to_json(self) -> dict[str, Any]:
        """All of it as what JSON holds; undefined numbers are null."""
        tables = {"summary": self.summary, "labels": self.labels, "confusion": self.confusion}
        return {
            "annotators": list(self.annotators),
            "counts": self.counts,
            **{name: _records(table) for name, table in tables.items()},
        }

    def _repr_html_(self) -> str:
        return (self.summary.to_html(index=False) or "") + (self.labels.to_html(index=False) or "")


def agree(
    a: Iterable[Trace],
    b: Iterable[Trace],
    *,
    units: Sequence[str] = ("sentences", "characters"),
    tokenize: Tokenize | None = None,
    resamples: int = 2_000,
    seed: int = 0,
) -> Agreement:
    """Compare two annotations of the same chains.

    Parameters
    ----------
    a, b:
        Chains with spans, matched by their ids; A is what B is measured by. Chains that only
        one of them holds are counted and left out.
    units:
        What is compared, any of :data:`UNITS`: the ``sentences`` of the thinking section; A's
        ``spans``, for an annotator that was given their bounds; ``characters`` other than
        white space, which weighs labels by their share of the text and needs no tokenizer;
        ``tokens``, the same with a model's tokens.

        A unit's label is that of most of its characters, white space aside; of two that have
        as many, the one that comes first.
    tokenize:
        For ``tokens``: gives the characters of every token of a text, as
        ``tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ["offset_mapping"]`` of a fast Hugging Face tokenizer does. The thinking section
        alone is passed to it.
    resamples, seed:
        Bootstrap resamples of the tasks, and what draws them. Do not read the intervals for
        fewer than twenty tasks: they are too narrow then.

    kappa = (p - q) / (1 - q), with p the share of units on which A and B agree and
    q = sum over labels of A's share times B's (Cohen 1960): 1 is perfect, 0 is chance.
    F1 = 2 tp / (2 tp + fp + fn); the macro average is over the labels that occur in A.

    Raises :class:`AnnotationError` for no chain in common, the same id with another text,
    unknown units and tokens without ``tokenize``.
    """
    _check_units(units, tokenize)
    pairs, only_a, only_b = _matched(Traces(a), Traces(b))
    tasks = {trace.task_key: 0 for trace, _ in pairs}
    tasks = {key: row for row, key in enumerate(tasks)}
    used = {span.label for pair in pairs for trace in pair for span in trace.spans}
    names = [known.name for known in behaviors() if known.name in used]
    columns = {name: column for column, name in enumerate([*names, UNPARSED])}
    weights = np.random.default_rng(seed).multinomial(
        len(tasks), np.full(len(tasks), 1 / len(tasks)), size=resamples
    )
    summary: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    confusion: list[dict[str, Any]] = []
    unlabelled: dict[str, int] = {}
    for unit in units:
        size = len(columns)
        table = np.zeros((len(tasks), size, size))
        for left, right in pairs:
            table[tasks[left.task_key]] += _compared(left, right, unit, columns, tokenize)
        unlabelled[unit] = int(table[:, -1, -1].sum())
        table[:, -1, -1] = 0  # neither says anything: no disagreement, and no agreement
        whole = table.sum(axis=0)
        drawn = np.tensordot(weights, table, axes=1)
        summary += summary_rows(unit, whole, drawn)
        labels += label_rows(unit, [*names, UNPARSED], whole, drawn)
        confusion += [
            {"unit": unit, "a": first, "b": second, "count": int(whole[i, j])}
            for first, i in columns.items()
            for second, j in columns.items()
        ]
    import pandas as pd

    return Agreement(
        pd.DataFrame(summary),
        pd.DataFrame(labels),
        pd.DataFrame(confusion),
        {
            "chains": len(pairs),
            "tasks": len(tasks),
            "only_a": only_a,
            "only_b": only_b,
            "unlabelled": unlabelled,
        },
        (_annotators(first for first, _ in pairs), _annotators(second for _, second in pairs)),
    )


def _compared(
    a: Trace, b: Trace, unit: str, columns: dict[str, int], tokenize: Tokenize | None
) -> Int[np.ndarray, "label label"]:
    """How often each pair of labels meets in a chain."""
    start, end = a.thinking_bounds
    counted = np.array([not c.isspace() for c in a.response[start:end]], dtype=bool)
    left, right = (_by_character(trace, start, end, columns) for trace in (a, b))
    size = len(columns)
    if unit == "characters":
        pairs = left[counted] * size + right[counted]
        return np.bincount(pairs, minlength=size * size).reshape(size, size)
    table = np.zeros((size, size), dtype=np.int64)
    for first, last in _bounds(a, unit, tokenize):
        here = slice(max(first - start, 0), last - start)
        solid = counted[here]
        if solid.any():
            table[_most(left[here][solid]), _most(right[here][solid])] += 1
    return table


def _bounds(trace: Trace, unit: str, tokenize: Tokenize | None) -> list[Bounds]:
    if unit == "sentences":
        return trace_sentences(trace)
    if unit == "spans":
        return [(span.start, span.end) for span in trace.spans]
    offset = trace.thinking_bounds[0]
    if tokenize is None:  # refused at the beginning
        return []
    return [(offset + first, offset + last) for first, last in tokenize(trace.thinking)]


def _by_character(
    trace: Trace, start: int, end: int, columns: dict[str, int]
) -> Int[np.ndarray, " character"]:
    found = np.full(max(end - start, 0), len(columns) - 1)
    for span in trace.spans:
        found[max(span.start - start, 0) : max(span.end - start, 0)] = columns[span.label]
    return found


def _most(labels: Int[np.ndarray, " character"]) -> int:
    """The most frequent label; among equals the one that comes first."""
    values, first, counts = np.unique(labels, return_index=True, return_counts=True)
    return int(values[np.lexsort((first, -counts))[0]])


def _matched(a: Traces, b: Traces) -> tuple[list[tuple[Trace, Trace]], int, int]:
    others = {trace.id: trace for trace in b}
    pairs = [(trace, others[trace.id]) for trace in a if trace.id in others]
    if not pairs:
        raise AnnotationError(
            "the two annotations have no chain in common",
            expected="the same ids in both",
            found=f"{[t.id for t in a[:2]]} and {[t.id for t in b[:2]]}",
        )
    for left, right in pairs:
        if left.response != right.response or left.think != right.think:
            raise AnnotationError(
                f"chain {left.id!r} is another text in the other annotation",
                fix="compare annotations of the same chains",
            )
    return pairs, len(a) - len(pairs), len(b) - len(pairs)


def _annotators(traces: Iterable[Trace]) -> str:
    return ", ".join(dict.fromkeys(trace.annotator or "unknown" for trace in traces))


def _check_units(units: Sequence[str], tokenize: Tokenize | None) -> None:
    strange = [unit for unit in units if unit not in UNITS]
    if strange or not units or isinstance(units, str):
        raise AnnotationError("unknown units", expected="any of " + ", ".join(UNITS), found=units)
    if "tokens" in units and tokenize is None:
        raise AnnotationError(
            "tokens need a tokenizer", fix="pass tokenize=..., or compare characters"
        )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(key): None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        for row in table.to_dict("records")
    ]
