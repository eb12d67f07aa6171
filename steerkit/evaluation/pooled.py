"""Pooled outcomes: sums by condition and task of a generations table, samples added up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

from steerkit.behaviors import UNPARSED
from steerkit.errors import StatisticsError

MEASURES = ("spans", "tokens", "count", "hazard")
"""Share of spans, share of tokens, spans a chain, onset hazard."""
CONDITION = ["condition", "kind", "behavior", "control", "layer", "coefficient", "headline"]
"""Columns that describe a condition."""
_OUTCOMES = ("closed", "truncated", "correct", "thinking_tokens", "zlib", "repeated", "loop", "kl")
_FRACTIONS = {
    "spans": ("spans:{}", "sentences"),
    "tokens": ("span_tokens:{}", "thinking_tokens"),
    "count": ("spans:{}", "chains"),
    "hazard": ("onsets:{}", "at_risk:{}"),
}
_OF_LABELS = ("spans", "span_tokens", "onsets", "at_risk")
_COUNTS = ("sentences", "thinking_tokens")
_NEEDED = [*CONDITION, "task", "sample", "annotator", "truncated", *_COUNTS]
_TRUTH: dict[Any, float] = {True: 1.0, False: 0.0, "True": 1.0, "False": 0.0}


@dataclass(frozen=True, eq=False)
class Pooled:
    """Sums over the samples of every task under every condition, by one annotator.

    Attributes
    ----------
    annotator:
        Whose labels these are.
    conditions:
        One row a condition, as in the generations table (:data:`CONDITION`), the baseline first.
    tasks:
        In order of their names.
    labels:
        Behaviours that the annotator can give, and ``unparsed`` last where it is counted.
    sums:
        ``[condition, task]`` by column of the generations table, and ``chains``, the number of
        samples: 0 where a condition was not run on a task; ``silent``, those without any
        sentence. Outcomes of chains are there as ``sum:<column>`` and ``n:<column>``, the
        number of chains in which it is known; for ``parsed`` both are weighed by sentences, and
        ``perplexity`` is the sum of logarithms.
    """

    annotator: str
    conditions: pd.DataFrame
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    sums: Mapping[str, Float64[np.ndarray, "condition task"]]

    @cached_property
    def ran(self) -> Bool[np.ndarray, "condition task"]:
        """Whether a condition was run on a task."""
        return np.asarray(self.sums["chains"] > 0)

    @cached_property
    def kinds(self) -> NDArray[np.object_]:
        """Kind of every condition."""
        return np.asarray(self.conditions["kind"], dtype=object)

    @cached_property
    def baseline(self) -> int:
        """Row of the unsteered condition.

        Raises :class:`StatisticsError` where there is none or several.
        """
        rows = np.flatnonzero(self.kinds == "baseline")
        if len(rows) != 1:
            raise StatisticsError(
                "effects are changes against the unsteered chains",
                expected="one condition of kind 'baseline'",
                found=f"{len(rows)} among {len(self.conditions)} conditions",
            )
        return int(rows[0])

    def measures(self, label: str) -> list[str]:
        """Measures whose columns are there for this label."""
        return [
            measure
            for measure in MEASURES
            if all(name.format(label) in self.sums for name in _FRACTIONS[measure])
        ]

    def fraction(
        self, label: str, measure: str
    ) -> tuple[Float64[np.ndarray, "condition task"], Float64[np.ndarray, "condition task"]]:
        """Numerators and denominators of a rate.

        ==========  ====================================  ======================================
        measure     numerator                             denominator
        ==========  ====================================  ======================================
        ``spans``   spans with the label                  sentences of the thinking section
        ``tokens``  their tokens                          tokens of the thinking section
        ``count``   spans with the label                  chains
        ``hazard``  sentences with the label after        sentences after one without it, the
                    one without it                        first of a chain included
        ==========  ====================================  ======================================

        A chain that was cut off is counted as far as it goes: three measures are per sentence
        or token written, and ``count`` is a lower bound for it.
        """
        top, bottom = (name.format(label) for name in _FRACTIONS[measure])
        return self.sums[top], self.sums[bottom]


def pool(generations: pd.DataFrame) -> list[Pooled]:
    """Sums over the samples of every task, for each annotator in order of appearance.

    Parameters
    ----------
    generations:
        One row a generation and annotator, with the columns of ``generations.csv``.

    Raises :class:`StatisticsError` for missing columns or counts, and for a generation that is
    there twice.
    """
    absent = [name for name in _NEEDED if name not in generations]
    if absent or not len(generations):
        raise StatisticsError(
            "not a table of generations",
            expected="columns " + ", ".join(_NEEDED) + ", and a row",
            found=f"no {', '.join(absent)}" if absent else "no rows",
        )
    by = generations["annotator"].fillna("unknown").astype(str)
    return [_pooled(str(name), part) for name, part in generations.groupby(by, sort=False)]


def alike(
    there: Bool[np.ndarray, "condition task"], rows: Sequence[int]
) -> Iterator[tuple[list[int], Int64[np.ndarray, " task"]]]:
    """Conditions that have the same tasks, together, and those tasks; without any left out."""
    groups: dict[bytes, list[int]] = {}
    for row in rows:
        groups.setdefault(there[row].tobytes(), []).append(row)
    for group in groups.values():
        tasks = np.flatnonzero(there[group[0]])
        if len(tasks):
            yield group, tasks


def cells(
    rows: Sequence[int], tasks: Int64[np.ndarray, " task"]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the block of these conditions and tasks."""
    return np.array(rows, dtype=np.int64)[:, None], tasks


def stacked(tables: Iterable[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Tables one under the other, with these columns; empty ones add nothing, not even types."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=columns)
    return pd.concat(filled, ignore_index=True)[columns]


def share(
    tops: Float64[np.ndarray, "*shape"], bottoms: Float64[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "*shape"]:
    """The quotient, missing (NaN) where there is nothing to divide by."""
    return np.divide(tops, bottoms, out=np.full(np.shape(tops), np.nan), where=bottoms > 0)


def _pooled(annotator: str, part: pd.DataFrame) -> Pooled:
    twice = part.duplicated(["condition", "task", "sample"])
    if twice.any():
        first = part[twice].iloc[0]
        raise StatisticsError(
            "a generation is there twice",
            found=f"condition {first['condition']!r}, task {first['task']!r}, "
            f"sample {first['sample']}",
            where=f"annotator {annotator!r}",
        )
    conditions = part.drop_duplicates("condition")[CONDITION]
    order = np.argsort((conditions["kind"] != "baseline").to_numpy(), kind="stable")
    conditions = conditions.iloc[order].reset_index(drop=True)
    conditions["headline"] = [value in (True, "True") for value in conditions["headline"]]
    tasks = sorted({str(task) for task in part["task"]})
    row = pd.Index(conditions["condition"]).get_indexer(pd.Index(part["condition"]))
    column = pd.Index(tasks).get_indexer(pd.Index(part["task"].astype(str)))
    cell = row * len(tasks) + column
    shape = (len(conditions), len(tasks))

    def added(values: Float64[np.ndarray, " generation"]) -> Float64[np.ndarray, "condition task"]:
        sums = np.bincount(cell, weights=values, minlength=shape[0] * shape[1])
        return np.asarray(sums, dtype=np.float64).reshape(shape)

    sums = {"chains": added(np.ones(len(part)))}
    counts = {name: _counts(part, name, annotator) for name in _COUNTS}
    sums |= {name: added(values) for name, values in counts.items()}
    sums["silent"] = added(np.asarray(counts["sentences"] == 0, dtype=np.float64))
    # a column without any number belongs to a label of another annotator
    counted = [str(name) for name in part if str(name).partition(":")[0] in _OF_LABELS]
    there = [name for name in counted if part[name].notna().any()]
    for name in there:
        sums[name] = added(_counts(part, name, annotator))
    for name in (*_OUTCOMES, "perplexity", "parsed"):
        if name not in part:
            continue
        values = _numbers(part[name])
        known = np.isfinite(values)
        if name == "perplexity":
            values = np.log(values)
        weights = counts["sentences"] if name == "parsed" else np.ones(len(part))
        if known.any():
            sums[f"sum:{name}"] = added(np.where(known, values, 0.0) * weights)
            sums[f"n:{name}"] = added(known * weights)
    labels = sorted(name.removeprefix("spans:") for name in there if name.startswith("spans:"))
    labels.sort(key=lambda label: label == UNPARSED)
    return Pooled(annotator, conditions, tuple(tasks), tuple(labels), sums)


def _counts(part: pd.DataFrame, name: str, annotator: str) -> Float64[np.ndarray, " generation"]:
    values = _numbers(part[name])
    if not (values >= 0).all():  # what is missing fails too
        raise StatisticsError(
            f"counts in column {name!r} are missing or negative",
            expected="a number of 0 or more in every row of the annotator",
            found=f"{int((~(values >= 0)).sum())} of {len(values)} rows without one",
            where=f"annotator {annotator!r}",
        )
    return values


def _numbers(column: Any) -> Float64[np.ndarray, " generation"]:
    """A column as numbers: yes is 1, no is 0, missing is NaN."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(np.float64, na_value=np.nan)
    found = [np.nan if pd.isna(value) else float(_TRUTH.get(value, value)) for value in column]
    return np.array(found, dtype=np.float64)
