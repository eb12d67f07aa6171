"""Resampling of tasks: intervals of many rates at once, from the same resamples."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from steerkit.evaluation.pooled import share
from steerkit.statistics import resampled_counts, sign_flip_test

RESAMPLES = 1_999
"""Of the tasks; with so many the 2.5 % point is the 50th value (Davison and Hinkley 1997)."""
FLIPS = 10_000
_SEED = 0
_AT_ONCE = 128  # comparisons whose flips are held at once

Ends = tuple[NDArray[np.float64], NDArray[np.float64]]


def rates_drawn(
    tops: Float64[np.ndarray, "condition task"], bottoms: Float64[np.ndarray, "condition task"]
) -> tuple[Float64[np.ndarray, " condition"], Float64[np.ndarray, "condition resample"]]:
    """Ratios of sums over tasks, and the same of every resample of the tasks.

    Whole tasks are drawn, with all their samples and, because every condition of as many tasks
    meets the same resamples, with all their conditions: differences and ratios of rows are
    paired. NaN where a resample has nothing to divide by.
    """
    weights = resampled_counts(tops.shape[1], RESAMPLES, _SEED)
    drawn = share(tops @ weights.T, bottoms @ weights.T)
    return share(tops.sum(axis=1), bottoms.sum(axis=1)), drawn


def ends(
    drawn: Float64[np.ndarray, "comparison resample"], tasks: int, *, level: float = 0.95
) -> Ends:
    """Ends of the expanded percentile intervals of what was drawn from ``tasks`` tasks.

    The percentile interval is too narrow for few tasks, by the same sqrt((n - 1) / n) and by
    taking a normal quantile for Student's as the naive standard error. Expanded percentiles
    (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", The American Statistician
    69(4), section on small samples) put both right: the lower one is

        Phi(-sqrt(n / (n - 1)) t),  t the upper (1 - level) / 2 point of Student's t, n - 1 degrees

    2.03 % instead of 2.5 % for 40 tasks. Resamples without a value are left out. Missing
    (NaN) for fewer than two tasks, and where no resample has a value. Where all tasks agree
    the interval has no width: it is no bound then.
    """
    missing = np.isnan(drawn)
    if tasks < 2:
        return np.full(len(drawn), np.nan), np.full(len(drawn), np.nan)
    low, high = _ends(drawn, tasks, level)
    for row in np.flatnonzero(missing.any(axis=1)):
        there = drawn[row][~missing[row]]
        low[row], high[row] = np.nan, np.nan
        if len(there):
            (low[row],), (high[row],) = _ends(there[None], tasks, level)
    return low, high


def _ends(drawn: NDArray[np.float64], tasks: int, level: float) -> Ends:
    size = drawn.shape[1]
    rank = min(max(int(_tail(tasks, level) * (size + 1)), 1), (size + 1) // 2)
    # order statistics and no interpolation: a ratio may be infinite
    ordered = np.partition(drawn, (rank - 1, size - rank), axis=1)
    return ordered[:, rank - 1].copy(), ordered[:, size - rank].copy()


@lru_cache
def _tail(tasks: int, level: float) -> float:
    from scipy.special import ndtr, stdtrit

    quantile = stdtrit(tasks - 1, (1 + level) / 2)
    return float(ndtr(-np.sqrt(tasks / (tasks - 1)) * quantile))


def sign_flip_tests(
    differences: Float64[np.ndarray, "comparison task"],
) -> Float64[np.ndarray, " comparison"]:
    """:func:`steerkit.statistics.sign_flip_test` of many comparisons, by the same random flips.

    A task without a difference (NaN) takes no part; a comparison without any task is missing
    (NaN). Comparisons with few tasks that differ are looked at under every flip.
    """
    moved = np.nan_to_num(differences)
    found = np.full(len(moved), np.nan)
    exact = 2.0 ** np.count_nonzero(moved, axis=1) <= FLIPS
    some = ~np.isnan(differences).all(axis=1)
    for row in np.flatnonzero(exact & some):
        found[row] = sign_flip_test(moved[row], flips=FLIPS)
    rows = np.flatnonzero(~exact)
    signs = _signs(moved.shape[1])
    for first in range(0, len(rows), _AT_ONCE):
        part = moved[rows[first : first + _AT_ONCE]]
        # sums that are equal but for rounding count as equal
        bound = np.abs(part.sum(axis=1)) - 1e-9 * np.abs(part).sum(axis=1)
        reached = (np.abs(part @ signs) >= bound[:, None]).sum(axis=1)
        found[rows[first : first + _AT_ONCE]] = (1 + reached) / (1 + FLIPS)
    return found


@lru_cache(maxsize=2)
def _signs(tasks: int) -> Float64[np.ndarray, "task flip"]:
    draw = np.random.default_rng(_SEED)
    return draw.integers(0, 2, size=(tasks, FLIPS), dtype=np.int8) * 2.0 - 1.0
