"""Intervals cover the truth as often as they say, also for few tasks; tests hold their level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from steerkit.evaluation.resampling import RESAMPLES, ends, rates_drawn, sign_flip_tests
from steerkit.statistics import ratio_interval, resampled_counts, sign_flip_test


def test_ratios_are_those_of_the_scalar_function() -> None:
    draw = np.random.default_rng(0)
    bottoms = draw.integers(1, 20, size=(3, 200)).astype(float)
    tops = draw.binomial(bottoms.astype(int), 0.2).astype(float)
    value, drawn = rates_drawn(tops, bottoms)
    low, high = ends(drawn, 200)
    for row in range(3):
        plain = ratio_interval(tops[row], bottoms[row], resamples=RESAMPLES)
        assert value[row] == pytest.approx(plain.value, rel=1e-12)
        # with 200 tasks the expansion is next to nothing
        assert low[row] == pytest.approx(plain.low, abs=2e-3)
        assert high[row] == pytest.approx(plain.high, abs=2e-3)


@pytest.mark.parametrize("tasks", [5, 12, 40])
def test_ends_are_the_expanded_percentiles(tasks) -> None:
    drawn = np.random.default_rng(1).normal(size=(2, RESAMPLES))
    tail = norm.cdf(-np.sqrt(tasks / (tasks - 1)) * student.ppf(0.975, tasks - 1))
    low, high = ends(drawn, tasks)
    rank = max(int(tail * (RESAMPLES + 1)), 1)
    np.testing.assert_array_equal(low, np.sort(drawn)[:, rank - 1])
    np.testing.assert_array_equal(high, np.sort(drawn)[:, -rank])
    narrow = np.quantile(drawn, 0.025, axis=1)
    assert (low < narrow).all()


def test_few_tasks_are_covered_as_often_as_said() -> None:
    """Rates of 15 tasks, 4,000 experiments at once; plain percentiles would be too narrow."""
    draw = np.random.default_rng(2)
    runs, tasks, truth = 4_000, 15, 0.15
    bottoms = draw.poisson(18, size=(runs, tasks)) + 1.0
    chances = truth * draw.uniform(0.3, 1.7, size=(runs, tasks))
    tops = draw.binomial(bottoms.astype(int), chances).astype(float)
    _, drawn = rates_drawn(tops, bottoms)
    low, high = ends(drawn, tasks)
    assert 0.92 < ((low <= truth) & (truth <= high)).mean() < 0.98
    plain = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert ((plain[0] <= truth) & (truth <= plain[1])).mean() < 0.93
    # positive control: another value is not covered
    assert ((low <= 0.3) & (high >= 0.3)).mean() < 0.2


def test_infinite_and_missing_values_are_ranked_and_left_out() -> None:
    drawn = np.tile(np.arange(1.0, 2000.0), (3, 1))
    drawn[0, -100:] = np.inf
    drawn[1, :1000] = np.nan
    drawn[2] = np.nan
    low, high = ends(drawn, 10_000)
    assert low[0] == 49 and high[0] == np.inf
    assert low[1] == 1000 + 24 and high[1] == 1999 - 23
    assert np.isnan([low[2], high[2]]).all()
    assert np.isnan(ends(drawn, 1)).all()


def test_sign_flips_are_those_of_the_scalar_function() -> None:
    draw = np.random.default_rng(3)
    few = draw.normal(0.4, 1, size=(6, 10))
    few[2:, :3] = 0
    few[4, 3] = np.nan
    found = sign_flip_tests(few)
    for row, p in zip(few, found, strict=True):  # every flip is looked at by both
        assert p == sign_flip_test(row[~np.isnan(row)])
    many = draw.normal(0.25, 1, size=(200, 30))
    scalar = np.array([sign_flip_test(row, seed=5) for row in many])
    np.testing.assert_allclose(sign_flip_tests(many), scalar, atol=0.025)
    assert np.isnan(sign_flip_tests(np.full((1, 4), np.nan))).all()
    assert sign_flip_tests(np.zeros((1, 4)))[0] == 1
    assert sign_flip_tests(np.zeros((0, 30))).shape == (0,)


def test_sign_flips_hold_their_level_and_find_what_is_there() -> None:
    draw = np.random.default_rng(4)
    null = draw.exponential(size=(2_000, 24)) - draw.exponential(size=(2_000, 24))
    assert 0.035 < (sign_flip_tests(null) < 0.05).mean() < 0.065
    assert (sign_flip_tests(null + 1) < 0.05).mean() > 0.8


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000), st.floats(0.01, 100))
def test_rates_have_no_unit_and_no_order(tasks, seed, scale) -> None:
    """Scaling both sides changes nothing; every condition meets the same resamples."""
    draw = np.random.default_rng(seed)
    bottoms = draw.integers(1, 9, size=(2, tasks)).astype(float)
    tops = draw.binomial(bottoms.astype(int), 0.4).astype(float)
    value, drawn = rates_drawn(tops, bottoms)
    again, scaled = rates_drawn(scale * tops, scale * bottoms)
    np.testing.assert_allclose(value, again)
    np.testing.assert_allclose(drawn, scaled)
    _, swapped = rates_drawn(tops[::-1], bottoms[::-1])
    np.testing.assert_array_equal(drawn, swapped[::-1])
    low, high = ends(drawn, tasks)
    assert (low <= high).all() and (drawn.min(1) <= low).all() and (high <= drawn.max(1)).all()
    counts = resampled_counts(tasks, RESAMPLES, 0)
    assert drawn[0, 7] == pytest.approx((counts[7] @ tops[0]) / (counts[7] @ bottoms[0]))
