"""Intervals cover as often as they say, and agree with scipy's bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, permutation_test

from steerkit.errors import StatisticsError
from steerkit.statistics import (
    Interval,
    holm,
    mean_interval,
    ratio_interval,
    share_interval,
    sign_flip_test,
)


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=120)
    found = mean_interval(values)
    theirs = bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
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


def test_ratio_agrees_with_scipy_and_with_the_mean() -> None:
    draw = np.random.default_rng(4)
    bottoms = draw.integers(1, 9, size=90)
    tops = draw.binomial(bottoms, 0.3)
    found = ratio_interval(tops, bottoms)
    theirs = bootstrap(
        (tops, bottoms),
        lambda t, b, axis: t.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert found.value == pytest.approx(tops.sum() / bottoms.sum(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    # one each: the ratio is the mean
    assert ratio_interval(tops, np.ones(90)) == pytest.approx(mean_interval(tops))
    assert ratio_interval([0, 0], [0, 0]) == Interval(0, 0, 0)


@pytest.mark.parametrize(("yes", "tasks"), [(0, 40), (1, 40), (17, 40), (40, 40), (3, 7)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_share_agrees_with_scipy(yes, tasks, level) -> None:
    theirs = binomtest(yes, tasks).proportion_ci(level, method="wilson")
    found = share_interval(yes, tasks, level=level)
    assert found == pytest.approx((yes / tasks, theirs.low, theirs.high), abs=1e-12)
    assert found.low <= found.value <= found.high and found.low < found.high


def test_sign_flips_of_yes_and_no_are_mcnemars_test() -> None:
    for up, down in ((9, 2), (4, 4), (12, 1), (40, 20), (55, 45)):
        differences = [1.0] * up + [-1.0] * down + [0.0] * 30
        exact = binomtest(up, up + down).pvalue
        assert sign_flip_test(differences) == pytest.approx(exact, abs=0.015)
        if up + down < 14:  # every flip is looked at
            assert sign_flip_test(differences) == pytest.approx(exact, abs=1e-12)


def test_sign_flips_agree_with_scipy_and_hold_their_level() -> None:
    draw = np.random.default_rng(6)
    differences = draw.normal(0.25, 1, size=60)
    theirs = permutation_test(
        (differences, np.zeros(60)),
        lambda a, b, axis: (a - b).sum(axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(7),
    ).pvalue
    assert sign_flip_test(differences) == pytest.approx(theirs, abs=0.015)
    null = [sign_flip_test(draw.normal(size=30), flips=200) for _ in range(500)]
    assert 0.02 < np.mean(np.array(null) <= 0.05) < 0.08
    moved = [sign_flip_test(draw.normal(1, 1, size=30), flips=200) for _ in range(100)]
    assert np.mean(np.array(moved) <= 0.05) > 0.95
    assert sign_flip_test([0.0, 0.0]) == 1.0
    assert sign_flip_test(np.ones(40)) == pytest.approx(1 / 10_001)


def test_holm_agrees_with_the_worked_example() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.6]), [1.0, 1.0])
    assert holm([]).size == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ratio_interval([1, 2], [1]), "numerator and a denominator"),
        (lambda: ratio_interval([1, 2], [1, -1]), "not negative"),
        (lambda: ratio_interval([1, np.inf], [1, 1]), "finite"),
        (lambda: share_interval(3, 2), "count among tasks"),
        (lambda: share_interval(0, 0), "count among tasks"),
        (lambda: sign_flip_test([]), "differences"),
        (lambda: sign_flip_test([np.nan, 1]), "differences"),
        (lambda: holm([1.2]), "p-values"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message) -> None:
    with pytest.raises(StatisticsError, match=message):
        call()
