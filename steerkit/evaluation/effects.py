"""Effects: what a condition changes against the unsteered chains of the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import NDArray

from steerkit.evaluation.pooled import CONDITION, Pooled, alike, cells, pool, share, stacked
from steerkit.evaluation.resampling import ends, rates_drawn, sign_flip_tests

CONTROLS = ("random", "shuffled")
"""Kinds of conditions that nothing is claimed of."""
NUMBERS = ["change", "low", "high", "ratio", "ratio_low", "ratio_high", "effect_size", "p"]
COLUMNS = ["annotator", *CONDITION, "label", "measure", *NUMBERS, "tasks", "unpaired"]


def effects(generations: pd.DataFrame) -> pd.DataFrame:
    """Changes of behaviour rates against the baseline, paired by task.

    ``change`` is the difference and ``ratio`` the quotient of the two rates (ratios of sums)
    over the tasks that both conditions were run on; their intervals resample these tasks for
    both at once. ``p`` and ``effect_size`` are about tasks: of each, all samples are pooled
    first, and the difference of its two shares is what is tested
    (:func:`steerkit.statistics.sign_flip_test`). Large tasks weigh more in the former, all
    tasks the same in the latter.

    Parameters
    ----------
    generations:
        One row a generation and annotator, with the columns of ``generations.csv``.

    Returns
    -------
    Tidy, one row an annotator, condition (the baseline has none), label and measure:
    ``annotator``, ``condition``, ``kind``, ``behavior``, ``control``, ``layer``,
    ``coefficient``, ``headline``, ``label``, ``measure``, ``change``, ``low``, ``high`` (unit
    of the measure), ``ratio``, ``ratio_low``, ``ratio_high`` (infinite where the baseline has
    none, missing where neither has any), ``effect_size`` (mean over standard deviation of the
    tasks' differences; missing where all are equal), ``p`` (two-sided, not adjusted; missing for
    controls, which are compared with and not tested), ``tasks`` and ``unpaired`` (those of them
    for which either condition wrote nothing to take a share of; not in the test).

    Raises :class:`StatisticsError` for what is no table of generations, and without a baseline.
    ``p`` is for single looks; claims are judged by
    :func:`steerkit.evaluation.verdicts.verdicts`.
    """
    return stacked([_effects(pooled) for pooled in pool(generations)], COLUMNS)


def _effects(pooled: Pooled) -> pd.DataFrame:
    rows = [i for i in range(len(pooled.conditions)) if i != pooled.baseline]
    tables = [
        effect_table(pooled, label, measure, rows)
        for label in pooled.labels
        for measure in pooled.measures(label)
    ]
    return stacked(tables, COLUMNS)


def effect_table(pooled: Pooled, label: str, measure: str, rows: Sequence[int]) -> pd.DataFrame:
    """:func:`effects` on one label and measure under these conditions."""
    return pooled.conditions.iloc[list(rows)].assign(
        annotator=pooled.annotator,
        label=label,
        measure=measure,
        **effect_numbers(pooled, label, measure, rows),
    )


def effect_numbers(
    pooled: Pooled, label: str, measure: str, rows: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """The numbers of :func:`effects`, column by column, one a condition."""
    tops, bottoms = pooled.fraction(label, measure)
    shares, base = share(tops, bottoms), pooled.baseline
    kind = pooled.kinds
    found = {name: np.full(len(kind), np.nan) for name in NUMBERS}
    shared, unpaired = np.zeros(len(kind), dtype=int), np.zeros(len(kind), dtype=int)
    for group, tasks in alike(pooled.ran & pooled.ran[base], rows):
        at = cells([base, *group], tasks)
        for name, values in zip(NUMBERS[:6], _changes(tops[at], bottoms[at]), strict=True):
            found[name][group] = values
        differences = shares[cells(group, tasks)] - shares[base, tasks]
        shared[group] = len(tasks)
        unpaired[group] = np.isnan(differences).sum(axis=1)
        found["effect_size"][group] = effect_sizes(differences)
        tested = np.flatnonzero(~np.isin(kind[group], CONTROLS))
        found["p"][np.array(group)[tested]] = sign_flip_tests(differences[tested])
    return {
        name: v[list(rows)] for name, v in (found | {"tasks": shared, "unpaired": unpaired}).items()
    }


def _changes(
    tops: Float64[np.ndarray, "condition task"], bottoms: Float64[np.ndarray, "condition task"]
) -> list[NDArray[np.float64]]:
    """Changes and ratios against the first row, with their ends."""
    value, drawn = rates_drawn(tops, bottoms)
    tasks = tops.shape[1]
    change = drawn[1:] - drawn[:1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, ratios = value[1:] / value[:1], drawn[1:] / drawn[:1]
    return [value[1:] - value[0], *ends(change, tasks), ratio, *ends(ratios, tasks)]


def effect_sizes(
    differences: Float64[np.ndarray, "comparison task"],
) -> Float64[np.ndarray, " comparison"]:
    """Mean over standard deviation of paired differences (Cohen's d_z); NaN where they are equal.

    Missing differences (NaN) are left out.
    """
    known = ~np.isnan(differences)
    count = known.sum(axis=1)
    filled = np.where(known, differences, 0.0)
    mean = filled.sum(axis=1) / np.maximum(count, 1)
    squares = (np.where(known, differences - mean[:, None], 0.0) ** 2).sum(axis=1)
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    flat = (count < 2) | (deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-12))
    return np.where(flat, np.nan, mean / np.where(flat, 1.0, deviation))
