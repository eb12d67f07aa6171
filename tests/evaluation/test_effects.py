"""Changes against the baseline: paired by task, on the same tasks, true to what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from steerkit.evaluation.effects import COLUMNS, effect_numbers, effect_sizes, effects
from steerkit.statistics import resampled_counts, sign_flip_test
from tests.evaluation.planted import BASE, BASELINE, Sums, experiment, steered, table


@pytest.fixture(scope="module")
def generations():
    return table(experiment(controls=1, control_tasks=6), tasks=12, samples=3, silent=0.05)


def test_numbers_are_those_of_paired_tasks(generations) -> None:
    found = effects(generations)
    assert list(found.columns) == COLUMNS
    assert "baseline" not in set(found.condition)
    assert not found.duplicated(["annotator", "condition", "label", "measure"]).any()
    base = generations[generations.kind == "baseline"]
    for (condition, label), row in found[found.measure == "spans"].groupby(["condition", "label"]):
        mine = generations[generations.condition == condition]
        sums = [
            part[part.task.isin(mine.task)].groupby("task")[[f"spans:{label}", "sentences"]].sum()
            for part in (base, mine)
        ]
        whole = [part.sum() for part in sums]
        shares = [part.iloc[:, 0] / part.iloc[:, 1] for part in sums]
        rate = [part.iloc[0] / part.iloc[1] for part in whole]
        differences = (shares[1] - shares[0]).to_numpy()
        assert row.change.item() == pytest.approx(rate[1] - rate[0])
        assert row.ratio.item() == pytest.approx(rate[1] / rate[0], nan_ok=True)
        assert row.tasks.item() == mine.task.nunique()
        size = differences.mean() / differences.std(ddof=1)
        assert row.effect_size.item() == pytest.approx(size)
        if row.kind.item() in ("random", "shuffled"):
            assert np.isnan(row.p.item())
        else:
            assert row.p.item() == pytest.approx(sign_flip_test(differences), abs=0.03)
        weights = resampled_counts(len(differences), 1999, 0)
        drawn = [weights @ part.to_numpy(float) for part in sums]
        change = drawn[1][:, 0] / drawn[1][:, 1] - drawn[0][:, 0] / drawn[0][:, 1]
        assert row.low.item() <= np.quantile(change, 0.025) and row.low.item() >= change.min()
        assert row.high.item() >= np.quantile(change, 0.975) and row.high.item() <= change.max()


def test_intervals_cover_what_was_planted(unchecked) -> None:
    plan = [BASELINE, steered("backtracking", 0.2, 0.25), steered("backtracking", -0.2, 0.03)]
    made, draw = Sums(plan, tasks=24), np.random.default_rng(0)
    change, ratio = np.array([0.15, -0.07]), np.array([2.5, 0.3])
    covered, of_ratio, nothing = [], [], []
    for _ in range(500):
        pooled = made.draw(draw)
        found = effect_numbers(pooled, "backtracking", "spans", [1, 2])
        covered.append((found["low"] <= change) & (change <= found["high"]))
        of_ratio.append((found["ratio_low"] <= ratio) & (ratio <= found["ratio_high"]))
        nothing.append((found["low"] <= 0) & (found["high"] >= 0))
    for share in (*np.mean(covered, axis=0), *np.mean(of_ratio, axis=0)):
        assert 0.92 < share < 0.98
    assert np.mean(nothing) < 0.2  # positive control: no change is not covered


def test_pairing_narrows_the_interval() -> None:
    """Tasks differ more than conditions do: with tasks shuffled the same change is less sure."""
    plan = [BASELINE, steered("backtracking", 0.1, 0.14)]
    pooled = Sums(plan, tasks=60, samples=8, spread=0.9, noise=0.1).draw(np.random.default_rng(3))
    paired = effect_numbers(pooled, "backtracking", "spans", [1])
    order = np.random.default_rng(4).permutation(60)
    for sums in pooled.sums.values():
        sums[1] = sums[1, order]
    shuffled = effect_numbers(pooled, "backtracking", "spans", [1])
    assert paired["change"] == pytest.approx(shuffled["change"])
    assert (paired["high"] - paired["low"]) < 0.75 * (shuffled["high"] - shuffled["low"])


def test_without_a_base_rate_the_ratio_is_infinite_or_missing() -> None:
    plan = [BASELINE, steered("backtracking", 0.2, 0.3)]
    generations = table(plan, tasks=6)
    quiet = [name for name in generations if name.endswith(":backtracking")]
    generations.loc[generations.kind == "baseline", quiet] = 0
    row = effects(generations).set_index(["label", "measure"]).loc[("backtracking", "spans")]
    assert row.ratio == row.ratio_low == row.ratio_high == np.inf and row.change > 0
    generations[quiet] = 0
    row = effects(generations).set_index(["label", "measure"]).loc[("backtracking", "spans")]
    assert row.change == row.low == row.high == 0 and row.p == 1
    assert np.isnan([row.ratio, row.ratio_low, row.ratio_high, row.effect_size]).all()


def test_tasks_without_sentences_are_counted_and_not_tested() -> None:
    generations = table([BASELINE, steered("backtracking", 0.2, 0.3)], tasks=8)
    counts = [name for name in generations if ":" in name] + ["sentences"]
    silent = (generations.kind == "steered") & generations.task.isin(["task-01", "task-05"])
    generations.loc[silent, counts] = 0
    row = effects(generations).set_index(["label", "measure"]).loc[("backtracking", "spans")]
    assert (row.tasks, row.unpaired) == (8, 2)
    without = generations[~generations.task.isin(["task-01", "task-05"])]
    again = effects(without).set_index(["label", "measure"]).loc[("backtracking", "spans")]
    assert row.p == again.p and row.effect_size == pytest.approx(again.effect_size)


def test_effect_sizes_of_what_does_not_vary_are_missing() -> None:
    found = effect_sizes(np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, np.nan, 3.0]]))
    np.testing.assert_allclose(found, [np.nan, np.nan, 2 / np.sqrt(2)])


def test_a_planted_change_is_found_and_none_is_not(unchecked) -> None:
    draw = np.random.default_rng(5)
    made = Sums([BASELINE, steered("backtracking", 0.2, 0.2)], tasks=24)
    same = {b: np.full(2, BASE[b]) for b in made.behaviors}
    found = [
        effect_numbers(made.draw(draw), "backtracking", "spans", [1])["p"][0] for _ in range(100)
    ]
    null = [
        effect_numbers(made.draw(draw, same), "backtracking", "spans", [1])["p"][0]
        for _ in range(400)
    ]
    assert np.mean(np.array(found) < 0.05) > 0.95
    assert 0.02 < np.mean(np.array(null) < 0.05) < 0.08
