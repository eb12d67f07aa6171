"""Comparison: cosines are those of numpy, bounds hold the truth, and controls can fail."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

import steerkit as sk
from steerkit.comparison import chance_cosine, compare_directions
from steerkit.direction import Direction
from steerkit.errors import BehaviorError, VectorsError
from steerkit.traces import Traces
from steerkit.vectors import SteeringVectors
from tests.test_vectors import CURVES, direction
from tests.tiny import tiny_model, tiny_traces

NAMES = ("backtracking", "deduction")
COLUMNS = [
    *("behavior_a", "behavior_b", "layer", "cosine", "low", "high", "chance", "matched"),
    *("corrected", "uncertain", "reliability_a", "reliability_b", "note"),
]


def made(seed: int = 0, names: tuple[str, ...] = NAMES, **changes) -> SteeringVectors:
    return SteeringVectors(
        {name: direction(name, seed + i, **changes) for i, name in enumerate(names)},
        {"model": f"m{seed}", "contrast": "rest"},
    )


def many(tensor: np.ndarray, cone: np.ndarray | None = None, half: np.ndarray | None = None):
    """Vectors with one row of ``tensor`` a layer, as many layers as there are rows."""
    n = len(tensor)

    def curve(values):
        return None if values is None else torch.from_numpy(values).float()

    made = Direction(
        behavior="backtracking",
        tensor=torch.from_numpy(tensor).float(),
        layers=tuple(range(n)),
        mean_norm=torch.ones(n),
        norm_of_mean=torch.ones(n),
        layer=None,
        spans=1,
        tasks=1,
        n_layers=n,
        cone=curve(cone),
        split_half=curve(half),
    )
    return SteeringVectors({"backtracking": made}, {})


# -- cosines


def test_every_pair_and_layer_has_the_cosine_of_numpy() -> None:
    a, b = made(0), made(10, ("deduction", "uncertainty-estimation", "backtracking"))
    table = compare_directions(a, b)
    assert list(table) == COLUMNS and len(table) == 2 * 3 * 3
    assert table["matched"].sum() == 2 * 3
    for row in table.to_dict("records"):
        x, y = (
            d.tensor[d.row(row["layer"])].double().numpy()
            for d in (a[row["behavior_a"]], b[row["behavior_b"]])
        )
        expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert row["cosine"] == pytest.approx(expected, abs=1e-12)
        assert row["matched"] == (row["behavior_a"] == row["behavior_b"])
        other = y[::-1]  # the check can fail
        assert abs(row["cosine"] - x @ other / np.linalg.norm(x) / np.linalg.norm(y)) > 1e-6
    assert table.attrs["a"] == {"model": "m0", "contrast": "rest"}
    assert table.attrs["b"]["model"] == "m10" and table.attrs["d_model"] == 8


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_sides_can_be_exchanged_and_lengths_do_not_matter(seed: int, factor: float) -> None:
    a, b = made(seed), made(seed + 50)
    longer = SteeringVectors(
        {name: replace(d, tensor=factor * d.tensor) for name, d in a.items()}, a.provenance
    )
    table, swapped = compare_directions(a, b), compare_directions(b, longer)
    keys = ["behavior_a", "behavior_b", "layer"]
    back = swapped.rename(columns={"behavior_a": "behavior_b", "behavior_b": "behavior_a"})
    both = table.set_index(keys).sort_index(), back.set_index(keys).sort_index()
    for column in ("cosine", "low", "high", "corrected"):
        np.testing.assert_allclose(both[0][column], both[1][column], rtol=1e-5, atol=1e-6)
    assert (table["low"] <= table["cosine"]).all() and (table["cosine"] <= table["high"]).all()
    assert table[["low", "high"]].abs().max().max() <= 1


def test_a_direction_of_no_length_has_no_cosine() -> None:
    a = made()
    tensor = a["deduction"].tensor.clone()
    tensor[1] = 0
    b = SteeringVectors({"deduction": replace(a["deduction"], tensor=tensor)}, {})
    table = compare_directions(a, b).set_index(["behavior_a", "layer"])
    missing = table.loc[("deduction", 2), ["cosine", "low", "high", "corrected"]]
    assert missing.isna().all()
    assert table.loc[("deduction", 4), "cosine"] == pytest.approx(1.0)


def test_behaviours_and_layers_can_be_chosen() -> None:
    a = made(names=("backtracking", "deduction", "uncertainty-estimation"))
    b = made(5, names=("uncertainty-estimation", "deduction"))
    few = compare_directions(a, b, behaviors=["uncertainty", "deduction"], layers=[4, 1])
    assert set(few["behavior_a"]) == set(few["behavior_b"]) == set(b)
    assert few["layer"].tolist() == [1, 4] * 4
    one = compare_directions(a, b, behaviors="uncertainty", layers=2)
    assert len(one) == 1 and bool(one["matched"].all())
    part = {
        name: replace(
            d,
            tensor=d.tensor[1:],
            layers=(2, 4),
            mean_norm=None,
            norm_of_mean=d.norm_of_mean[1:],
            **dict.fromkeys(CURVES),
        )
        for name, d in b.items()
    }
    assert set(compare_directions(a, SteeringVectors(part, {}))["layer"]) == {2, 4}


def test_what_cannot_be_compared_is_refused(caplog) -> None:
    a = made()
    wide = made(tensor=torch.randn(3, 9))
    with pytest.raises(VectorsError, match=r"different widths.*width 8, of m0.*width 9"):
        compare_directions(a, wide)
    apart = SteeringVectors(
        {n: replace(d, layers=(0, 3, 5)) for n, d in a.items()}, {"contrast": "rest"}
    )
    with pytest.raises(VectorsError, match=r"no layer in common.*1, 2, 4.*0, 3, 5"):
        compare_directions(a, apart)
    other = SteeringVectors(dict(made(3)), {"contrast": "overall"})
    with pytest.raises(VectorsError, match=r"'rest' and 'overall'.*--force"):
        compare_directions(a, other)
    assert len(compare_directions(a, other, force=True)) == 12
    unknown = SteeringVectors(dict(made(3)), {})  # nothing says that they differ
    assert compare_directions(a, unknown).attrs["b"] == {"model": None, "contrast": None}
    with pytest.raises(VectorsError, match="no direction of 'initializing' in the first"):
        compare_directions(a, a, behaviors="initializing")
    fewer = SteeringVectors({"deduction": a["deduction"]}, {})
    with pytest.raises(VectorsError, match="no direction of 'backtracking' in the second"):
        compare_directions(a, fewer, behaviors="backtracking")
    with pytest.raises(BehaviorError, match="daydreaming"):
        compare_directions(a, a, behaviors="daydreaming")
    with pytest.raises(VectorsError, match=r"layer 3 is not in both.*1, 2, 4"):
        compare_directions(a, a, layers=3)
    for empty in ((SteeringVectors({}, {}), a), (a, SteeringVectors({}, {}))):
        with pytest.raises(VectorsError, match="no direction to compare"):
            compare_directions(*empty)
    with pytest.raises(VectorsError, match="no behaviour was named"):
        compare_directions(a, a, behaviors=[])
    deep = SteeringVectors({n: replace(d, n_layers=9) for n, d in a.items()}, {})
    caplog.clear()
    with caplog.at_level(logging.WARNING, "steerkit"):
        compare_directions(a, made(4))
        assert not caplog.records
        compare_directions(a, deep)
    assert "models of 6 and 9 layers" in caplog.text


# -- chance


@pytest.mark.parametrize("width", [2, 3, 4, 5, 10, 64, 192, 1536, 8192])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_chance_is_the_beta_distributions(width: int, level: float) -> None:
    expected = math.sqrt(beta.ppf(level, 0.5, (width - 1) / 2))
    assert chance_cosine(width, level) == pytest.approx(expected, abs=1e-8)
    assert abs(expected - math.sqrt(beta.ppf(level, 0.5, width / 2))) > 1e-7


def test_chance_in_known_cases() -> None:
    assert chance_cosine(1) == 1.0
    assert chance_cosine(2) == pytest.approx(math.sin(0.95 * math.pi / 2), abs=1e-6)
    assert chance_cosine(3) == pytest.approx(0.95, abs=1e-6)  # uniform on the sphere's axis
    assert chance_cosine(1536) == pytest.approx(1.96 / math.sqrt(1536), rel=1e-3)
    for width, level in ((0, 0.95), (8, 0.0), (8, 1.0)):
        with pytest.raises(VectorsError, match="no chance level"):
            chance_cosine(width, level)


def test_random_directions_are_within_chance_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    fixed = np.broadcast_to(rng.normal(size=24), (2000, 24)).copy()
    table = compare_directions(many(rng.normal(size=(2000, 24))), many(fixed))
    within = (table["cosine"].abs() <= table["chance"]).mean()
    assert within == pytest.approx(0.95, abs=0.02)  # four standard deviations
    related = compare_directions(many(fixed + rng.normal(size=fixed.shape)), many(fixed))
    assert (related["cosine"].abs() <= related["chance"]).mean() < 0.3


# -- intervals


def drawn(truth: np.ndarray, noise: np.ndarray, rng: np.random.Generator):
    """Directions, cones and split halves as extraction finds them, from tasks with noise.

    ``noise`` [simulation, task, d] is what each task adds to the truth [d].
    """
    tasks = truth + noise
    n = tasks.shape[1]
    mean = tasks.mean(axis=1)
    weights = rng.poisson(1.0, size=(64, n)).astype(float)
    replicates = np.einsum("rt,std->srd", weights / weights.sum(axis=1, keepdims=True), tasks)
    cosines = np.einsum("srd,sd->sr", replicates, mean) / (
        np.linalg.norm(replicates, axis=2) * np.linalg.norm(mean, axis=1)[:, None]
    )
    angles = np.sort(np.rad2deg(np.arccos(np.clip(cosines, -1, 1))), axis=1)
    half = rng.random((20, n)).argsort(axis=1) < n // 2
    left = np.einsum("ht,std->shd", half / half.sum(axis=1, keepdims=True), tasks)
    right = np.einsum("ht,std->shd", ~half / (~half).sum(axis=1, keepdims=True), tasks)
    split = (left * right).sum(axis=2) / (
        np.linalg.norm(left, axis=2) * np.linalg.norm(right, axis=2)
    )
    return mean, angles[:, math.ceil(0.95 * 64) - 1], split.mean(axis=1)


def truths(width: int, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.zeros(width), np.zeros(width)
    a[0], b[0], b[1] = 1.0, cosine, math.sqrt(1 - cosine**2)
    return a, b


def covered(table, cosine: float) -> float:
    return float(((table["low"] <= cosine) & (cosine <= table["high"])).mean())


def test_bounds_are_sharp_where_errors_lie_along_one_axis() -> None:
    """The worst case: all of the error turns one direction toward or away from the other."""
    rng, n = np.random.default_rng(1), 1500
    a, b = truths(6, 0.6)
    noise = np.zeros((n, 40, 6))
    noise[..., 1] = rng.normal(size=(n, 40)) * 1.2
    mean, cone, _ = drawn(a, noise, rng)
    fixed = np.broadcast_to(b, (n, 6)).copy()
    table = compare_directions(many(mean, cone), many(fixed))
    assert set(table["uncertain"]) == {"a"}
    assert 0.92 <= covered(table, 0.6) <= 0.98
    narrow = compare_directions(many(mean, cone / 2), many(fixed))
    assert covered(narrow, 0.6) < 0.85  # the check can fail
    swapped = compare_directions(many(fixed), many(mean, cone))
    assert set(swapped["uncertain"]) == {"b"}
    np.testing.assert_allclose(swapped[["low", "high"]], table[["low", "high"]], atol=1e-6)


def test_bounds_hold_wherever_errors_point() -> None:
    rng, n = np.random.default_rng(2), 300
    a, b = truths(32, 0.6)
    sides = [
        drawn(truth, rng.normal(size=(n, 30, 32)) * scale, rng)
        for truth, scale in ((a, 0.7), (b, 0.5))
    ]
    both = compare_directions(*(many(mean, cone) for mean, cone, _ in sides))
    assert set(both["uncertain"]) == {"both"} and covered(both, 0.6) >= 0.98
    none = compare_directions(*(many(mean) for mean, _, _ in sides))
    assert set(none["uncertain"]) == {"none"} and none[["low", "high"]].isna().all().all()


def test_the_truth_is_outside_the_cone_but_within_its_bound() -> None:
    """Replicates err about a direction that is too long; the bound puts that right."""
    rng, n, width = np.random.default_rng(3), 200, 200
    a, _ = truths(width, 0.0)
    mean, cone, _ = drawn(a, rng.normal(size=(n, 30, width)) * 0.8 * math.sqrt(30 / width), rng)
    off = np.rad2deg(np.arccos(mean[:, 0] / np.linalg.norm(mean, axis=1)))
    assert (off <= cone).mean() < 0.9
    table = compare_directions(many(mean, cone), many(np.broadcast_to(a, (n, width)).copy()))
    assert (table["high"] == 1.0).mean() >= 0.95  # the truth is the other side, cosine 1
    useless = compare_directions(
        many(mean, np.full(n, 46.0)), many(np.broadcast_to(a, (n, width)).copy())
    )
    assert (useless["high"] == 1.0).all() and (useless["low"] < 0.0).all()


def test_corrected_cosines_are_those_without_noise() -> None:
    rng, n, width = np.random.default_rng(4), 150, 256
    a, b = truths(width, 0.6)
    sides = [
        drawn(truth, rng.normal(size=(n, 40, width)) * math.sqrt(40 * share / width), rng)
        for truth, share in ((a, 0.5), (b, 0.25))
    ]
    table = compare_directions(*(many(mean, half=half) for mean, _, half in sides))
    attenuated = 0.6 / math.sqrt(1.5 * 1.25)
    assert table["cosine"].mean() == pytest.approx(attenuated, abs=0.015)
    assert table["corrected"].mean() == pytest.approx(0.6, abs=0.015)
    assert abs(attenuated - 0.6) > 0.1
    assert table["reliability_a"].mean() == pytest.approx(1 / 1.5, abs=0.02)
    half_known = compare_directions(many(sides[0][0], half=sides[0][2]), many(sides[1][0]))
    assert half_known["corrected"].isna().all() and half_known["reliability_a"].notna().all()
    unreliable = compare_directions(
        many(sides[0][0], half=np.full(n, -0.1)), many(sides[1][0], half=sides[1][2])
    )
    assert unreliable["corrected"].isna().all()


# -- the control


def test_shuffled_labels_lose_what_two_sets_of_chains_share() -> None:
    model, traces = tiny_model(), tiny_traces(80)
    halves = traces[:40], traces[40:]
    first, second, twin = (
        sk.extract(model, chains, contrast="within", window=sk.Window(1, 10), select=Traces())
        for chains in (*halves, sk.shuffle_labels(halves[0]))
    )
    assert twin.provenance["annotators"] == ["planted, labels shuffled within chains, seed 0"]
    shared, control = compare_directions(first, second), compare_directions(twin, second)
    matched = shared[shared["matched"]]["cosine"]
    assert matched.min() > 0.4 and matched.mean() > 0.8
    assert control[control["matched"]]["cosine"].abs().mean() < 0.4
    assert shared[~shared["matched"]]["cosine"].mean() < 0.2
