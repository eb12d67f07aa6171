"""Intervals cover as often as they say, and agree with scipy's bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from steerkit.errors import StatisticsError
from steerkit.evaluation.statistics import Interval, mean_interval


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=120)
    found = mean_interval(values)
    theirs = bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.low == pytest.approx(theirs.low, abs=0.02)
    assert found.high == pytest.approx(theirs.high, abs=0.02)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    runs = [mean_interval(draw.normal(0.3, 1, size=80), resamples=400) for _ in range(600)]
    covered = np.mean([run.low <= 0.3 <= run.high for run in runs])
    assert 0.91 < covered < 0.98
    # positive control: another value is covered less often
    assert np.mean([run.low <= 0.6 <= run.high for run in runs]) < 0.5


def test_level_widens_and_seed_repeats() -> None:
    values = np.arange(30.0)
    assert mean_interval(values) == mean_interval(values)
    wide, narrow = mean_interval(values, level=0.99), mean_interval(values, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_excluding_zero_is_one_sided() -> None:
    assert Interval(1, 0.5, 2).excludes_zero and Interval(-1, -2, -0.5).excludes_zero
    assert not Interval(0.1, -0.5, 2).excludes_zero


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_what_has_no_interval_is_refused(values) -> None:
    with pytest.raises(StatisticsError, match="at least two tasks"):
        mean_interval(values)
