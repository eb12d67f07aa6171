"""pass@k: how likely at least one of k answers is right, estimated from n samples a task."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from steerkit.errors import StatisticsError
from steerkit.statistics import mean_interval


def pass_at_k(right: ArrayLike, samples: int, k: int) -> NDArray[np.float64]:
    """Unbiased estimate 1 - C(n - c, k) / C(n, k) for every task, ``[task]``, 0 to 1.

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374),
    section 2.1. It is the chance that k of the n samples, drawn without replacement, hold a
    right one.

    Parameters
    ----------
    right:
        c, the right answers of every task, ``[task]``, each 0 to ``samples``.
    samples:
        n, the samples of every task.
    k:
        1 to ``samples``. Near ``samples`` the estimate is unbiased but coarse: choose n at
        least twice the largest k.

    Raises :class:`StatisticsError` for counts or k out of range.
    """
    counts = np.asarray(right)
    if counts.ndim != 1 or not 1 <= k <= samples or ((counts < 0) | (counts > samples)).any():
        raise StatisticsError(
            "pass@k needs the number of right answers of every task",
            expected=f"counts from 0 to {samples}, and k from 1 to {samples}",
            found=f"shape {counts.shape}, k {k}",
        )
    wrong = samples - counts.astype(np.float64)
    # C(n - c, k) / C(n, k) = prod (n - c - i) / (n - i) over i < k, without large factorials
    steps = np.arange(k)
    factors = np.clip(wrong[:, None] - steps, 0, None) / (samples - steps)
    return 1.0 - factors.prod(axis=1)


def pass_table(right: ArrayLike, samples: int, ks: Iterable[int]) -> pd.DataFrame:
    """Mean pass@k over tasks with its 95 % bootstrap interval over tasks.

    Columns ``k``, ``mean``, ``low``, ``high``, one row for every k. See :func:`pass_at_k`.
    """
    rows = []
    for k in ks:
        found = mean_interval(pass_at_k(right, samples, k))
        rows.append({"k": k, "mean": found.value, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)
