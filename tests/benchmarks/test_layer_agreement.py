"""Agreement of cheap scores with the sweep: planted truths, counted hits, intervals that cover."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from layer_agreement import _means, _with_interval, agreement, correlations, differences
from scipy.stats import spearmanr

NAMES = ("backtracking", "deduction", "uncertainty-estimation")


def rows_of(score: str, behavior: str, values, **columns) -> list[dict]:
    kept = {"closed": 1.0, "parsed": 1.0, "up": 0.2, "down": 0.0, "base": 0.1} | columns
    facts = {"behavior": behavior, "score": score}
    return [
        {**facts, "layer": layer, "value": value, "low": value - 0.02, "high": value + 0.02, **kept}
        for layer, value in enumerate(values)
    ]


def table() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for behavior in NAMES:
        truth = rng.permutation(8) / 10
        noise = rng.permutation(8) / 10
        rows += rows_of("sweep", behavior, truth)
        rows += rows_of("gain", behavior, 3 * truth + 0.01 * noise)
        rows += rows_of("auroc", behavior, noise)
        rows += rows_of("gradient", behavior, -truth)
    return pd.DataFrame(rows)


def found(*args, **options) -> pd.DataFrame:
    return pd.DataFrame(agreement(*args, **options)).set_index("score")


def shares_around(scores: pd.DataFrame, tasks: int, shared: float, own: float, seed: int = 0):
    """Shares of tasks with a part that all layers have in common, around the sweep's values."""
    rng = np.random.default_rng(seed)
    sweep, rows = scores[scores.score == "sweep"], []
    for behavior, part in sweep.groupby("behavior", sort=False):
        common = shared * rng.standard_normal(tasks)
        for row in part.itertuples():
            values = row.value + common + own * rng.standard_normal(tasks)
            tasks_of = {f"t{i}": value for i, value in enumerate(values)}
            rows.append({"behavior": behavior, "layer": row.layer, **tasks_of})
    return pd.DataFrame(rows)


def judged_by(scores: pd.DataFrame, shares: pd.DataFrame) -> pd.DataFrame:
    """The table whose sweep is the mean of these shares, with each layer's own interval."""
    scores = scores.copy()
    values = shares.drop(columns=["behavior", "layer"]).to_numpy()
    mean, half = values.mean(axis=1), 1.96 * values.std(axis=1) / values.shape[1] ** 0.5
    sweep = scores.score == "sweep"
    scores.loc[sweep, ["value", "low", "high"]] = np.stack([mean, mean - half, mean + half], 1)
    return scores


def layer_by_layer(scores: pd.DataFrame, score: str, draws: int = 150) -> np.ndarray:
    """What was done once: fresh noise for every layer by itself, and the draws' quantiles."""
    rng, means = np.random.default_rng(0), []
    for name in NAMES:
        mine = scores[scores.behavior == name]
        sweep, cheap = (mine[mine.score == what] for what in ("sweep", score))
        drawn = rng.normal(sweep.value, (sweep.high - sweep.low) / 3.92, size=(draws, len(sweep)))
        means.append([spearmanr(row, cheap.value).statistic for row in drawn])
    return np.quantile(np.mean(means, axis=0), [0.025, 0.975])


def test_agreement_is_found_where_it_is_planted() -> None:
    result = found(table())
    assert result.correlation["gain"] == pytest.approx(1.0)
    assert result.best_two["gain"] == 3 == result.behaviors["gain"] and result.lost["gain"] == 0.0
    assert result.correlation["gradient"] == pytest.approx(-1.0)
    assert result.best_two["gradient"] == 0 and result.lost["gradient"] == 1.0
    assert abs(result.correlation["auroc"]) < 0.6


def test_layers_that_the_sweep_does_not_tell_apart_share_a_rank() -> None:
    """Short sweeps on few tasks have many equal shares; their order must not count."""
    scores = table()
    sweep = scores.score == "sweep"
    scores.loc[sweep, "value"] = scores.value.round(0)
    expected = []
    for name in NAMES:
        mine = scores[scores.behavior == name].pivot(index="layer", columns="score", values="value")
        expected.append(spearmanr(mine["sweep"], mine["gain"]).statistic)
    result = found(scores)
    assert result.correlation["gain"] == pytest.approx(np.mean(expected))
    assert 0.5 < result.correlation["gain"] < 0.95
    # a behaviour that the sweep does not move at all says nothing, rather than zero
    scores.loc[sweep & (scores.behavior == NAMES[0]), "value"] = 0.0
    result = found(scores)
    assert result.correlation["gain"] == pytest.approx(np.mean(expected[1:]))
    assert result.correlated["gain"] == 2 == result.behaviors["gain"]


def test_what_knows_no_model_stands_beside_the_scores() -> None:
    scores = table()
    result = found(scores)
    sweep = scores[scores.score == "sweep"]
    by_hand = [spearmanr(p.layer, p.value).statistic for _, p in sweep.groupby("behavior")]
    assert result.correlation["layer number"] == pytest.approx(np.mean(by_hand))
    for score, layer in (("last layer", 7), ("middle layer", 4)):
        values = sweep[sweep.layer == layer].value.to_numpy()
        assert result.best_two[score] == (values > 0.55).sum()
        assert result.lost[score] == pytest.approx((1 - values / 0.7).mean())
    assert result.best_two["random layer"] == pytest.approx(3 * 2 / 8)
    assert result.lost["random layer"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("sweep", "chosen", "hit"),
    [
        ([0.4, 0.1, 0.3, 0.3], 3, True),  # ties with the second
        ([0.4, 0.1, 0.3, 0.3], 1, False),
        ([0.4, 0.0, 0.0, 0.0], 3, False),  # ties with the second, but moves nothing
        ([0.4, 0.0, 0.0, 0.0], 0, True),
        ([0.4, -0.1, -0.2, -0.2], 1, False),
    ],
)
def test_ties_are_hits_and_layers_without_effect_are_none(sweep, chosen, hit) -> None:
    rows = rows_of("sweep", "deduction", sweep)
    rows += rows_of("gain", "deduction", [float(layer == chosen) for layer in range(4)])
    for order in (1, -1):
        result = found(pd.DataFrame(rows[::order]))
        assert bool(result.best_two["gain"]) == hit


def test_layers_that_break_the_text_are_neither_best_nor_lost_by() -> None:
    scores = pd.DataFrame(
        rows_of("sweep", "deduction", [0.1, 0.2, 0.3, 0.9])
        + rows_of("gain", "deduction", [0.0, 0.0, 0.1, 0.2])
        + rows_of("auroc", "deduction", [0.0, 1.0, 0.1, 0.2])
    )
    scores.loc[(scores.score == "sweep") & (scores.layer == 3), "closed"] = 0.4
    result = found(scores)
    assert result.best_two["gain"] == 0 == result.whole["gain"] and np.isnan(result.lost["gain"])
    assert result.best_two["auroc"] == 1 == result.whole["auroc"]
    assert result.lost["auroc"] == pytest.approx(1 / 3)
    assert result.whole["random layer"] == 0.75 and result.best_two["random layer"] == 0.5
    assert result.lost["random layer"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)


def test_noise_that_all_layers_share_does_not_blur_their_order() -> None:
    """Hard tasks are hard at every layer; drawing layers by themselves takes that for doubt."""
    scores = table()
    shares = shares_around(scores, 40, shared=1.0, own=0.01)
    scores = judged_by(scores, shares)
    result = found(scores, shares)
    assert result.correlation["gain"] > 0.99 and result.low["gain"] > 0.97
    assert layer_by_layer(scores, "gain")[1] < result.low["gain"], "it left out what is certain"


def test_intervals_cover_what_sweeps_of_as_many_tasks_give_on_average() -> None:
    truth, values, ends, old = table(), [], [], []
    truth = truth[truth.score.isin(["sweep", "gain"])]
    for seed in range(40):
        shares = shares_around(truth, 40, shared=1.0, own=0.1, seed=seed)
        scores = judged_by(truth, shares)
        curves = correlations(scores, shares, 100, 0)["gain"]
        row = _with_interval(_means(list(curves.values())), 40)
        values.append(row["correlation"])
        ends.append((row["low"], row["high"]))
        if seed < 8:
            old.append(layer_by_layer(scores, "gain", draws=40))
    expected = np.mean(values)
    # cautious where scores agree almost fully, for drawn sweeps are noisier than the measured one
    assert np.mean([low <= expected <= high for low, high in ends]) >= 0.9
    assert np.mean([low <= expected <= high for low, high in old]) < 0.5
    assert np.mean([high - low for low, high in ends]) < 0.3


def test_two_scores_are_compared_under_the_same_draws() -> None:
    scores = table()
    twin = scores[scores.score == "gain"].assign(score="gradient")
    scores = pd.concat([scores[scores.score != "gradient"], twin], ignore_index=True)
    shares = shares_around(scores, 40, shared=0.2, own=0.5)
    scores = judged_by(scores, shares)
    rows = {(r["score"], r["other"]): r for r in differences(scores, shares)}
    same = rows["gain", "gradient"]
    assert same["difference"] == same["low"] == same["high"] == 0.0 and same["equal"] == 3
    assert found(scores, shares).eval("high - low")["gain"] > 0.05
    result = found(scores)
    for score in ("gain", "auroc"):
        row = rows[score, "layer number"]
        expected = result.correlation[score] - result.correlation["layer number"]
        assert row["difference"] == pytest.approx(expected)
        assert row["low"] < row["difference"] < row["high"]
        assert row["higher"] + row["lower"] + row["equal"] == 3


def test_draws_resample_the_same_tasks_for_every_behavior_and_layer() -> None:
    scores = table()
    one = shares_around(scores, 30, shared=0.3, own=0.3)
    columns = [name for name in one if name.startswith("t")]
    # behaviours with the same tasks' shares must go up and down together
    part = one[one.behavior == NAMES[0]]
    shares = pd.concat([part.assign(behavior=name) for name in NAMES], ignore_index=True)
    assert list(shares.columns[2:]) == columns
    first = scores[scores.behavior == NAMES[0]]
    scores = pd.concat([first.assign(behavior=name) for name in NAMES], ignore_index=True)
    curves = correlations(judged_by(scores, shares), shares, 100, 0)["gain"]
    np.testing.assert_array_equal(curves[NAMES[0]], curves[NAMES[2]])
    assert curves[NAMES[0]].std() > 0


@pytest.mark.parametrize(("tasks", "known"), [(19, False), (20, True), (None, False)])
def test_few_tasks_have_no_interval(tasks, known) -> None:
    scores = table()
    shares = tasks and shares_around(scores, tasks, shared=0.1, own=0.1)
    rows = [r for r in agreement(scores, shares) if r["score"] == "gain"]
    rows += differences(scores, shares)
    assert all((r["low"] is not None) == (r["high"] is not None) == known for r in rows)
