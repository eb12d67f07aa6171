"""Verdicts find what was planted, and hold their level under every null that matters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steerkit.evaluation.effects import CONTROLS, effects
from steerkit.evaluation.pooled import pool
from steerkit.evaluation.verdicts import controls, judged, verdicts
from steerkit.statistics import holm
from tests.evaluation.planted import (
    BASE,
    BASELINE,
    SETTINGS,
    Sums,
    controls_of,
    experiment,
    steered,
    table,
)

RANGES = {name: found["fluent"] for name, found in SETTINGS["ranges"].items()}
KEYS = ["behavior", "sign"]


@pytest.fixture(scope="module")
def generations() -> pd.DataFrame:
    plan = experiment(controls=10, control_tasks=15, spread=0.005)
    return table(plan, tasks=24, samples=4, seed=1)


@pytest.fixture(scope="module")
def found(generations) -> pd.DataFrame:
    return verdicts(generations, SETTINGS).set_index(KEYS)


def test_a_verdict_says_how_its_annotator_stands_to_the_directions(generations, found) -> None:
    assert found.relation.isna().all(), "the settings do not tell"
    names = sorted(set(generations["annotator"]))
    said = {**SETTINGS, "annotators": [{"name": name, "relation": "related"} for name in names]}
    told = verdicts(generations, said).set_index(KEYS)
    assert set(told.relation) == {"related"}
    pd.testing.assert_frame_equal(told.drop(columns="relation"), found.drop(columns="relation"))


def test_what_was_planted_holds_and_nothing_else(found) -> None:
    assert found.holds.to_dict() == {
        ("backtracking", "amplify"): True,
        ("backtracking", "suppress"): True,
        ("uncertainty-estimation", "amplify"): False,
        ("uncertainty-estimation", "suppress"): False,
    }
    assert (found.reason == "").tolist() == found.holds.tolist()
    up, down = found.loc[("backtracking", "amplify")], found.loc[("backtracking", "suppress")]
    assert (up.coefficient, down.coefficient) == (0.3, -0.2)
    assert up.ratio > 2 and up.meets_target and down.ratio < 0.4 and down.meets_target
    assert up.low < up.change < up.high and up.rate - up.base == pytest.approx(up.change)
    assert not found.meets_target["uncertainty-estimation", "amplify"]


def test_numbers_are_those_of_effects(generations, found) -> None:
    plain = effects(generations)
    plain = plain[(plain.measure == "spans") & plain.headline & (plain.label == plain.behavior)]
    plain = plain.set_index("condition")
    for _, row in found.iterrows():
        for name in ("change", "low", "high", "ratio", "ratio_low", "ratio_high", "p", "tasks"):
            assert row[name] == plain.loc[row.condition, name], name
    np.testing.assert_allclose(found.p_holm, holm(found.p))
    assert (found.p_holm > found.p).any()


def test_controls_are_compared_on_the_same_tasks(generations, found) -> None:
    """By hand: rates on the control tasks alone, condition by condition."""
    few = generations[generations.task.isin(sorted(set(generations.task))[:15])]
    sums = few.groupby("condition")[["spans:backtracking", "sentences"]].sum()
    rate = sums["spans:backtracking"] / sums["sentences"]
    change = rate - rate["baseline"]
    every = controls(generations)
    for sign, c in (("amplify", 0.3), ("suppress", -0.2)):
        row = found.loc[("backtracking", sign)]
        steered_change = change[f"backtracking{c:+g}@4"]
        assert row.control_tasks == 15 and row.tasks == 24
        assert row.control_change == pytest.approx(steered_change)
        assert row.control_change != pytest.approx(row.change)
        for kind in CONTROLS:
            name = "random" if kind == "random" else "shuffled-backtracking"
            size = abs(c) if kind == "random" else c
            mine = change[[f"{name}-{i:02}{size:+g}@4" for i in range(10)]]
            assert row[kind] == 10 == row[f"{kind}_beaten"]
            assert row[f"{kind}_p"] == pytest.approx(1 / 11)
            assert row[f"{kind}_mean"] == pytest.approx(mine.abs().mean())
            most = mine.max() if c > 0 else mine.min()
            assert row[f"{kind}_most"] == pytest.approx(most)
            part = every[(every.behavior == "backtracking") & (every.sign == sign)]
            part = part[part.kind == kind].set_index("condition")
            np.testing.assert_allclose(part.change[mine.index], mine)
            assert ((part.low <= part.change) & (part.change <= part.high)).all()
            assert part.exceeded.all() and (part.tasks == 15).all()
            np.testing.assert_allclose(part.steered, steered_change)
    # a random direction controls for every behaviour, in the units of each
    assert len(every) == 2 * 2 * 2 * 10
    random = every[every.kind == "random"].groupby("condition").size()
    assert (random == 2).all() and len(random) == 20


def changed(generations: pd.DataFrame, settings: dict | None = None) -> pd.Series:
    """The verdict on amplified backtracking."""
    found = verdicts(generations, SETTINGS if settings is None else settings)
    return found.set_index(KEYS).loc[("backtracking", "amplify")]


def test_every_condition_is_needed(generations) -> None:
    assert changed(generations).holds
    narrow = {"ranges": {"backtracking": {"fluent": [-0.25, 0.2]}}}
    outside = changed(generations, narrow)
    assert not outside.holds and outside.reason == "outside the range in which text stays fluent"
    unknown = changed(generations, {})
    assert not unknown.holds and unknown.reason == "no range of fluent text is known"
    assert unknown.fluent is None or pd.isna(unknown.fluent)

    without = changed(generations[generations.kind != "random"])
    assert not without.holds and without.reason == "no random directions were run"
    few = changed(generations[~(generations.control >= 9)])
    assert not few.holds and "18 control directions are too few" in few.reason

    one = generations.copy()
    strong = one.condition == "random-03+0.3@4"
    one.loc[strong, "spans:backtracking"] = (0.36 * one.sentences[strong]).round().astype(int)
    beaten = changed(one)
    assert not beaten.holds and beaten.reason == "1 of 10 random directions do as much"
    assert beaten.random_beaten == 9 and beaten.random_p == pytest.approx(2 / 11)


def test_controls_that_move_it_a_third_as_far_speak_against_it() -> None:
    """None of them exceeds the claim: a different rule than the one before."""
    up = steered("backtracking", 0.3, 0.40, headline=True)
    for size, holds in ((0.01, True), (0.12, False)):
        plan = [BASELINE, up, *controls_of("backtracking", 0.3, [size] * 10)]
        row = changed(table(plan, tasks=16, samples=4))
        assert row.exceeds and row.significant and row.holds == holds
        assert row.specific == holds and ("% as far" in row.reason) != holds


def test_the_wrong_way_is_no_amplification() -> None:
    plan = [BASELINE, steered("backtracking", 0.3, 0.02, headline=True)]
    plan += controls_of("backtracking", 0.3, [0.0] * 10)
    row = changed(table(plan, tasks=16))
    assert row.p < 0.05 and not row.significant and not row.holds
    assert "did not move in the claimed direction" in row.reason


def test_a_label_that_the_annotator_cannot_give_makes_no_claim(generations) -> None:
    lost = [name for name in generations if name.endswith(":uncertainty-estimation")]
    found = verdicts(generations.drop(columns=lost), SETTINGS)
    assert set(found.behavior) == {"backtracking"}
    # Holm's family is smaller then
    assert found.p_holm.max() <= 2 * found.p.max()


def test_nothing_claimed_gives_an_empty_table(generations) -> None:
    quiet = generations.assign(headline=False)
    assert len(verdicts(quiet, SETTINGS)) == 0 == len(controls(quiet))
    assert "holds" in verdicts(quiet, SETTINGS)


CLAIMED = ("backtracking", "uncertainty-estimation")


def full_plan(tasks: int = 24, control_tasks: int = 12, samples: int = 2) -> Sums:
    """Four claims with 39 random and 39 shuffled directions each, all without effect."""
    plan = [BASELINE]
    for behavior in CLAIMED:
        plan += [steered(behavior, c, BASE[behavior], headline=True) for c in (-0.2, 0.3)]
        for c in (-0.2, 0.3):
            kinds = CONTROLS if behavior == CLAIMED[0] else CONTROLS[1:]
            plan += controls_of(behavior, c, [0.0] * 39, kinds=kinds, tasks=control_tasks)
    return Sums(plan, tasks=tasks, samples=samples)


def share_of_false_claims(runs: int, move, *, spoil=None) -> tuple[float, float]:
    """How often any of four claims holds, and how often any is significant, in ``runs``."""
    made = full_plan()
    pushed = (made.conditions.kind != "baseline").to_numpy()
    draw, wide = np.random.default_rng(0), dict.fromkeys(CLAIMED, (-1.0, 1.0))
    holds = significant = 0
    for _ in range(runs):
        rates = {b: np.where(pushed, move(draw, BASE[b], len(pushed)), BASE[b]) for b in CLAIMED}
        pooled = made.draw(draw, rates)
        if spoil is not None:
            spoil(pooled)
        found = judged(pooled, wide)
        holds += any(row["holds"] for row in found)
        significant += any(row["significant"] for row in found)
    return holds / runs, significant / runs


def still_controls(pooled) -> None:
    """Controls that change nothing at all: the least that they can say against a claim."""
    kind = pooled.conditions.kind.to_numpy()
    for name in ("sentences", *(f"spans:{b}" for b in CLAIMED)):
        rows = np.isin(kind, CONTROLS)
        pooled.sums[name][rows] = pooled.sums[name][0] * (pooled.sums["chains"][rows] > 0)


@pytest.mark.slow
def test_false_positives_of_the_whole_verdict_where_controls_say_nothing(unchecked) -> None:
    """2,000 experiments without any effect, and controls that never object: the worst null.

    Then the sign-flip test stands alone; two-sided, in the claimed direction, over all claims.
    """
    holds, significant = share_of_false_claims(
        2_000, lambda draw, base, n: np.full(n, base), spoil=still_controls
    )
    assert holds <= 0.065
    assert significant == pytest.approx(holds, abs=0.01)
    assert holds > 0.005  # positive control: false positives can be seen at all


@pytest.mark.slow
def test_false_positives_of_the_whole_verdict_where_any_push_has_an_effect(unchecked) -> None:
    """2,000 experiments in which directions move rates at random, the steered ones too.

    The sign-flip test calls most of them significant, rightly: something was moved. The
    verdict is about more.
    """
    holds, significant = share_of_false_claims(
        2_000, lambda draw, base, n: base * draw.uniform(0.3, 1.7, size=n)
    )
    assert holds <= 0.065
    assert significant > 0.4  # positive control: the test alone would be taken in


def test_a_planted_effect_is_found(unchecked) -> None:
    """Twice or less than half the rate, with controls that scatter by a tenth of it."""
    made = full_plan(tasks=40, control_tasks=30, samples=4)
    draw, wide = np.random.default_rng(1), dict.fromkeys(CLAIMED, (-1.0, 1.0))
    coefficient = made.conditions.coefficient.to_numpy()
    kind = made.conditions.kind.to_numpy()
    held = []
    for _ in range(60):
        rates = {}
        for b in CLAIMED:
            scatter = BASE[b] * draw.normal(1, 0.1, size=len(kind))
            mine = (kind == "steered") & (made.conditions.behavior == b).to_numpy()
            moved = np.where(coefficient > 0, 3.0, 0.2) * BASE[b]
            rates[b] = np.where(mine, moved, np.where(kind == "baseline", BASE[b], scatter))
        held += judged(made.draw(draw, rates), wide)
    power = pd.DataFrame(held).groupby(KEYS).holds.mean()
    assert (power.xs("amplify", level="sign") > 0.9).all(), power
    assert (power.xs("suppress", level="sign") > 0.5).all(), power


def test_ten_thousand_generations_are_judged_in_seconds() -> None:
    """Sums of one table equal those of many: the cost is that of the pooling."""
    from time import perf_counter

    generations = table(experiment(controls=39, control_tasks=12), tasks=20, samples=2)
    assert generations.condition.nunique() > 39 * 6
    start = perf_counter()
    (pooled,) = pool(generations)
    judged(pooled, RANGES)
    controls(generations)
    assert perf_counter() - start < 10
