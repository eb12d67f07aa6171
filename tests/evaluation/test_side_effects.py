"""Side effects are means over chains, paired with the baseline, with honest ends."""

from __future__ import annotations

import numpy as np
import pytest

from steerkit.evaluation.side_effects import COLUMNS, SIDES, _numbers, side_effects
from steerkit.statistics import share_interval
from tests.evaluation.planted import experiment, table


@pytest.fixture(scope="module")
def generations():
    found = table(experiment(controls=2, control_tasks=6), tasks=12, truncated=0.1)
    draw = np.random.default_rng(0)
    found["kl"] = np.where(found.kind == "baseline", np.nan, draw.uniform(0, 1, len(found)))
    found["perplexity"] = np.exp(draw.uniform(0.5, 2, len(found)))
    return found


def test_values_are_means_over_chains(generations) -> None:
    found = side_effects(generations)
    assert list(found.columns) == COLUMNS
    assert set(found.measure) == set(SIDES)
    for condition, rows in generations.groupby("condition"):
        part = found[found.condition == condition].set_index("measure")
        for measure, column in SIDES.items():
            if measure == "parsed":
                weights = rows.sentences / rows.sentences.sum()
                expected = (rows.parsed * weights).sum()
            elif measure == "perplexity":
                expected = np.exp(np.log(rows.perplexity).mean())
            else:
                expected = rows[column].dropna().astype(float).mean()
            row = part.loc[measure]
            assert row["value"] == pytest.approx(expected, nan_ok=True), measure
            if measure != "parsed":
                assert row.chains == rows[column].notna().sum()
            if row.chains:
                assert row.low <= row["value"] <= row.high
        if condition == "baseline":
            assert part[["change", "change_low", "change_high"]].isna().all(axis=None)
    accuracy = found[(found.measure == "accuracy") & (found.kind == "steered")]
    assert (accuracy.tasks == 10).all()  # two of twelve tasks cannot be checked


def test_changes_are_on_the_same_tasks(generations) -> None:
    found = side_effects(generations).set_index(["condition", "measure"])
    few = generations[generations.task.isin(sorted(set(generations.task))[:6])]
    mean = few.groupby("condition").thinking_tokens.mean()
    row = found.loc[("random-01+0.3@4", "thinking_tokens")]
    assert row.change == pytest.approx(mean["random-01+0.3@4"] - mean["baseline"])
    assert row.change_low < row.change < row.change_high and row.tasks == 6
    whole = found["value"]["baseline", "thinking_tokens"]
    assert row.change != pytest.approx(row["value"] - whole)  # other tasks, other change
    kl = found.loc[("backtracking+0.3@4", "kl")]
    assert np.isnan(kl.change) and kl["value"] > 0  # the baseline has none


def test_all_alike_has_the_width_of_its_tasks(generations) -> None:
    found = side_effects(generations.assign(closed=True, correct=False))
    closed = found[found.measure == "closed"].set_index("condition").loc["baseline"]
    assert (closed["value"], closed.low, closed.high) == tuple(share_interval(12, 12))
    accuracy = found[found.measure == "accuracy"].set_index("condition").loc["baseline"]
    assert (accuracy["value"], accuracy.low, accuracy.high) == tuple(share_interval(0, 12))


def test_what_nobody_measured_is_left_out(generations) -> None:
    found = side_effects(generations.drop(columns=["kl"]).assign(perplexity=np.nan))
    assert set(found.measure) == set(SIDES) - {"kl", "perplexity"}


def test_intervals_cover_the_planted_change_of_accuracy(unchecked) -> None:
    """Accuracies of 60 and 40 %, that of a task from 30 points below to 30 above both."""
    draw, changes = np.random.default_rng(1), []
    for _ in range(500):
        ability = draw.uniform(-0.3, 0.3, size=30)
        known = np.full((2, 30), 2.0)
        right = draw.binomial(2, np.array([[0.6], [0.4]]) + ability).astype(float)
        *_, low, high = _numbers("accuracy", right, known, 0)[:, 1]
        changes.append((low <= -0.2 <= high, low <= 0 <= high))
    covered, missed = np.mean(changes, axis=0)
    assert 0.92 < covered < 0.98
    assert missed < 0.6  # positive control
