import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from steerkit.errors import StatisticsError
from steerkit.evaluation.pass_at_k import pass_at_k, pass_table


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_equals_counting_every_subset(samples):
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        for k in range(1, samples + 1):
            subsets = list(itertools.combinations(answers, k))
            expected = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k([right], samples, k)[0] == pytest.approx(expected, abs=1e-12)


def test_large_counts_are_exact():
    for right, k in ((1, 64), (3, 17), (64, 64), (127, 2), (128, 1)):
        expected = 1 - Fraction(comb(128 - right, k), comb(128, k))
        assert pass_at_k([right], 128, k)[0] == pytest.approx(float(expected), abs=1e-12)


def test_is_unbiased_where_the_naive_estimate_is_not():
    """Against a planted chance p: E pass@k is 1 - (1 - p)^k; 1 - (1 - c / n)^k is not."""
    dice = np.random.default_rng(0)
    chance, samples, k = 0.05, 16, 8
    right = dice.binomial(samples, chance, size=40_000)
    truth = 1 - (1 - chance) ** k
    unbiased = pass_at_k(right, samples, k).mean()
    naive = (1 - (1 - right / samples) ** k).mean()
    assert abs(unbiased - truth) < 0.005 < abs(naive - truth)


def test_table_rises_with_k_and_brackets_the_mean():
    dice = np.random.default_rng(1)
    right = dice.binomial(128, dice.beta(0.4, 2.0, size=200))
    table = pass_table(right, 128, (1, 2, 4, 8, 16, 32, 64))
    assert table["k"].tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert table["mean"].is_monotonic_increasing
    assert ((table["low"] < table["mean"]) & (table["mean"] < table["high"])).all()
    assert table["mean"][0] == pytest.approx((right / 128).mean())


@pytest.mark.parametrize(
    ("right", "samples", "k"),
    [([3], 2, 1), ([-1], 2, 1), ([1], 2, 3), ([1], 2, 0), ([[1]], 2, 1)],
)
def test_numbers_out_of_range_are_refused(right, samples, k):
    with pytest.raises(StatisticsError, match="pass@k"):
        pass_at_k(right, samples, k)
