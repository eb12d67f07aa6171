"""Statistics of paired outcomes: means and their bootstrap intervals over tasks."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steerkit.errors import StatisticsError


class Interval(NamedTuple):
    """A mean and the ends of its interval, in the unit of the values."""

    mean: float
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
    means = _resamples(len(found), resamples, seed) @ found / len(found)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(found.mean()), float(low), float(high))


@lru_cache(maxsize=8)
def _resamples(tasks: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each task occurs in every resample: multinomial counts, ``[resample, task]``."""
    draw = np.random.default_rng(seed)
    return draw.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples).astype(np.float64)
