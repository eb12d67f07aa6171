"""Statistics of outcomes over tasks: intervals of means, ratios and shares; paired tests."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steerkit.errors import StatisticsError


class Interval(NamedTuple):
    """A value and the ends of its interval, in the unit of what was measured."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def mean_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over tasks and its percentile bootstrap interval.

    Parameters
    ----------
    values:
        One number a task, ``[task]``; for a paired comparison the difference between two
        conditions of the same task. Several samples of a task are averaged beforehand, so
        that whole tasks are resampled.
    level:
        Of the interval, 0 to 1.
    resamples, seed:
        Bootstrap resamples of the tasks (Efron 1979), and what draws them.

    Raises :class:`StatisticsError` for fewer than two tasks or values that are not finite.
    Do not use it for few tasks: below twenty the percentile interval is too narrow.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
        raise StatisticsError(
            "an interval needs finite values of at least two tasks",
            expected="one number a task",
            found=f"shape {found.shape}, {int((~np.isfinite(found)).sum())} not finite",
        )
    means = resampled_counts(len(found), resamples, seed) @ found / len(found)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(found.mean()), float(low), float(high))


def ratio_interval(
    tops: ArrayLike,
    bottoms: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """A ratio of sums over tasks, sum(tops) / sum(bottoms), and its percentile bootstrap interval.

    Parameters
    ----------
    tops, bottoms:
        Numerator and denominator of every task, ``[task]``: a task's samples are added up
        beforehand, so that whole tasks are resampled.
    level, resamples, seed:
        As of :func:`mean_interval`.

    A resample without a denominator counts as 0, and so does the ratio itself. Where every
    task has a ratio of 0, or every task one of 1, the interval has no width: it is no bound
    then, and for outcomes of yes and no :func:`share_interval` is to be taken.

    Raises :class:`StatisticsError` for fewer than two tasks, values that are not finite, or
    negative denominators.
    """
    top, bottom = (np.asarray(values, dtype=np.float64) for values in (tops, bottoms))
    if top.ndim != 1 or top.shape != bottom.shape or len(top) < 2 or (bottom < 0).any():
        raise StatisticsError(
            "a ratio needs a numerator and a denominator of at least two tasks",
            expected="one pair of numbers a task, denominators not negative",
            found=f"shapes {top.shape} and {bottom.shape}",
        )
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        raise StatisticsError("a ratio needs finite values")
    weights = resampled_counts(len(top), resamples, seed)
    sums, totals = weights @ top, weights @ bottom
    drawn = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    value = top.sum() / bottom.sum() if bottom.sum() > 0 else 0.0
    return Interval(float(value), float(low), float(high))


def share_interval(yes: int, tasks: int, *, level: float = 0.95) -> Interval:
    """The share of tasks with an outcome, and its Wilson score interval.

    Wilson 1927; it keeps its width where all tasks agree, as a bootstrap cannot: 0 of 100 is
    0 to 3.7 %. One independent outcome a task. Raises :class:`StatisticsError` for no task
    and for counts out of range.
    """
    if not 0 <= yes <= tasks or tasks < 1:
        raise StatisticsError(
            "a share needs a count among tasks",
            expected="0 to as many as there are tasks, at least one",
            found=f"{yes} of {tasks}",
        )
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = yes / tasks
    center = (share + z2 / (2 * tasks)) / (1 + z2 / tasks)
    half = (z2 * share * (1 - share) / tasks + (z2 / (2 * tasks)) ** 2) ** 0.5 / (1 + z2 / tasks)
    # at the ends the bound is the share itself, which rounding must not pass
    low, high = min(max(center - half, 0.0), share), max(min(center + half, 1.0), share)
    return Interval(share, low, high)


def sign_flip_test(differences: ArrayLike, *, flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a paired comparison: could the signs be those of a coin?

    Under the hypothesis that two conditions differ in name alone, every task's difference
    has either sign with equal chance (Fisher 1935, section 21). p = (1 + r) / (1 + flips)
    with r the random flips whose sum is at least as far from 0 (Phipson and Smyth 2010), or
    over all flips where there are no more than ``flips`` of them.

    Parameters
    ----------
    differences:
        One a task, ``[task]``; a task's samples are averaged beforehand.
    flips, seed:
        Random flips, and what draws them; 1 / (1 + flips) is the smallest p there is.

    Raises :class:`StatisticsError` for no task and for values that are not finite.
    """
    found = np.asarray(differences, dtype=np.float64)
    if found.ndim != 1 or len(found) == 0 or not np.isfinite(found).all():
        raise StatisticsError(
            "a paired test needs finite differences",
            expected="one number a task",
            found=f"shape {found.shape}",
        )
    moved = found[found != 0]  # a difference of 0 has no sign to flip
    if len(moved) == 0:
        return 1.0
    # sums that are equal but for rounding count as equal
    bound = abs(moved.sum()) - 1e-9 * np.abs(moved).sum()
    if 2 ** min(len(moved), 62) <= flips:
        every = np.array(list(product((-1.0, 1.0), repeat=len(moved))))
        return float((np.abs(every @ moved) >= bound).mean())
    draw = np.random.default_rng(seed)
    signs = draw.integers(0, 2, size=(flips, len(moved)), dtype=np.int8) * 2 - 1
    reached = int((np.abs(signs @ moved) >= bound).sum())
    return (1 + reached) / (1 + flips)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for their number, ``[comparison]`` (Holm 1979): max_j (m - j + 1) p_(j).

    An adjusted value below 0.05 keeps the chance of any false finding among all of them
    below 5 %. Raises :class:`StatisticsError` for values outside 0 to 1.
    """
    found = np.asarray(p_values, dtype=np.float64)
    if found.ndim != 1 or not ((found >= 0) & (found <= 1)).all():
        raise StatisticsError("not p-values", expected="a list of numbers from 0 to 1")
    order = np.argsort(found, kind="stable")
    factors = np.arange(len(found), 0, -1)
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * found[order]), 1.0)
    return adjusted


@lru_cache(maxsize=2)
def resampled_counts(tasks: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each task occurs in every resample: multinomial counts, ``[resample, task]``."""
    draw = np.random.default_rng(seed)
    return draw.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples).astype(np.float64)
