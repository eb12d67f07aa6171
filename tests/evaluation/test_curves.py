"""Slopes at zero and saturation of curves whose course is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from steerkit.evaluation.curves import COLUMNS, _curves, curves, saturation, slope_weights
from tests.evaluation.planted import BASELINE, Sums, experiment, steered, table


@given(st.floats(-1, 1), st.floats(-2, 2), st.integers(0, 3), st.integers(0, 3))
def test_the_slope_of_any_parabola_is_exact(slope, bend, below, above) -> None:
    at = np.array([-0.3, -0.2, -0.05, 0.0, 0.1, 0.2, 0.4])[3 - below : 4 + above]
    if len(at) < 2:
        return
    rates = 0.1 + slope * at + (bend * at**2 if len(at) > 2 else 0.0)
    assert slope_weights(at) @ rates == pytest.approx(slope, abs=1e-9)
    assert slope_weights(at).sum() == pytest.approx(0, abs=1e-9)


def test_far_coefficients_do_not_count() -> None:
    at = np.array([-0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.5])
    weights = slope_weights(at)
    assert weights[0] == weights[-1] == 0 and (weights[1:3] != 0).all()
    np.testing.assert_allclose(slope_weights(np.array([-0.1, 0.0, 0.1])), [-5, 0, 5], atol=1e-12)
    np.testing.assert_allclose(slope_weights(np.array([0.0, 0.2])), [-5, 5])


def test_slopes_cover_the_planted_one(unchecked) -> None:
    curve = {-0.2: 0.052, -0.1: 0.073, 0.1: 0.133, 0.2: 0.172}  # 0.1 + 0.3 c + 0.3 c ** 2
    plan = [BASELINE, *(steered("backtracking", c, rate) for c, rate in curve.items())]
    made, draw = Sums(plan, tasks=24, behaviors=("backtracking",)), np.random.default_rng(0)
    runs = [next(_curves(made.draw(draw))) for _ in range(400)]
    assert np.mean([run["slope"] for run in runs]) == pytest.approx(0.3, abs=0.02)
    assert 0.92 < np.mean([run["low"] <= 0.3 <= run["high"] for run in runs]) < 0.98
    assert np.mean([run["low"] <= 0 <= run["high"] for run in runs]) < 0.2  # positive control


def test_the_monotone_fit_is_scikit_learns() -> None:
    draw = np.random.default_rng(1)
    at = np.array([-0.4, -0.2, -0.1, 0.0, 0.1, 0.3, 0.5])
    for _ in range(20):
        rates, weights = draw.uniform(size=7), draw.uniform(1, 9, size=7)
        fit = IsotonicRegression().fit(at, rates, sample_weight=weights).predict(at)
        found = saturation(at, rates, weights)
        assert found["floor"] == pytest.approx(fit[0])
        assert found["ceiling"] == pytest.approx(fit[-1])
        assert found["departure"] == pytest.approx(np.abs(rates - fit).max())


def test_curves_that_level_off_are_told_from_those_that_do_not() -> None:
    at, one = np.linspace(-0.4, 0.4, 9), np.ones(9)
    straight = saturation(at, 0.5 + at, one)
    assert straight["up_at"] == pytest.approx(0.36) and not straight["saturated_up"]
    assert straight["down_at"] == pytest.approx(-0.36) and not straight["saturated_down"]
    assert straight["departure"] == pytest.approx(0)
    flat = saturation(at, 0.5 + np.clip(at, -0.2, 0.1), one)
    assert flat["up_at"] == pytest.approx(0.09) and flat["saturated_up"]
    assert flat["down_at"] == pytest.approx(-0.18) and flat["saturated_down"]
    falls = saturation(at, 0.5 - at, one)  # does not rise at all
    assert np.isnan([falls["up_at"], falls["down_at"]]).all() and falls["departure"] > 0.3
    assert falls["saturated_up"] is None
    turns = saturation(at, np.where(at > 0.25, 0.1, 0.5 + at), one)
    assert turns["departure"] > 0.2
    short = saturation(np.array([0.0, 0.3]), np.array([0.1, 0.4]), np.ones(2))
    assert short["saturated_up"] is None and short["up_at"] == pytest.approx(0.27)
    assert saturation(at, np.full(9, np.nan), one) == {}


def test_one_row_a_behaviour_and_measure() -> None:
    generations = table(experiment(controls=1, control_tasks=4), tasks=20, samples=4)
    found = curves(generations)
    assert list(found.columns) == COLUMNS and len(found) == 8
    row = found.set_index(["behavior", "measure"]).loc[("backtracking", "spans")]
    assert (row.steps, row.tasks, row.layer) == (8, 20, 4)  # tasks of the curve, not of controls
    assert row.low < row.slope < row.high and row.low > 0
    assert row.floor < 0.06 and row.ceiling > 0.2
    assert row.saturated_down and row.saturated_up
    silent = (generations.coefficient == 0.4) & (generations.kind == "steered")
    counts = [name for name in generations if ":" in name] + ["sentences", "thinking_tokens"]
    generations.loc[silent, counts] = 0  # nothing is written there any more
    again = curves(generations).set_index(["behavior", "measure"]).loc[("backtracking", "spans")]
    assert again.slope == row.slope and again.ceiling == pytest.approx(row.ceiling, abs=0.05)
