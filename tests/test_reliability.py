"""Reliability against slow references, planted truths, and its own predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from steerkit.directions import CONTRASTS, contrast
from steerkit.errors import ExtractionError
from steerkit.reading import (
    HALF,
    PART,
    PARTS,
    REPLICATES,
    SPLITS,
    Chain,
    column_weights,
    shuffled_orders,
)
from steerkit.reliability import (
    cone,
    learning_curve,
    replicates_used,
    spans_needed,
    split_half,
    split_half_shuffled,
    weakness,
)
from tests.synthetic import (
    LABELS,
    Synthetic,
    collected,
    cosine,
    reference_contrast,
    synthetic_chains,
)
from tests.test_directions import NAMES, planted
from tests.test_steering import direction


def test_overall_keeps_the_start_of_span_component_that_rest_removes() -> None:
    moments = collected(planted()[0])
    assert float(split_half_shuffled(moments, "overall")["backtracking"][0]) > 0.8
    assert abs(float(split_half_shuffled(moments, "rest")["backtracking"][0])) < 0.4


@pytest.mark.parametrize("name", NAMES)
def test_split_half_equals_the_reference(name: str) -> None:
    chains = synthetic_chains(18, seed=4, tasks=6)
    moments = collected(chains)
    weights = {c.chain.task: column_weights(c.chain.task)[HALF] for c in chains}
    found, null = split_half(moments, name), split_half_shuffled(moments, name)
    assert set(found) == set(null)
    for label in LABELS:
        honest, shuffled = [], []
        for split in range(SPLITS):
            half = {task: int(w[split]) for task, w in weights.items()}
            other = {task: 1 - w for task, w in half.items()}
            drawn = {
                c.chain.key: [
                    c.chain.windows[i][2]
                    for i in shuffled_orders(c.chain.key, len(c.chain.windows))[split]
                ]
                for c in chains
            }
            for cosines, labels in ((honest, None), (shuffled, drawn)):
                a = reference_contrast(chains, name, label, half, labels)
                b = reference_contrast(chains, name, label, other, labels)
                if a is not None and b is not None:
                    cosines.append([cosine(x, y) for x, y in zip(a, b, strict=True)])
        assert (label in found) == bool(honest)
        if honest:
            np.testing.assert_allclose(found[label], np.mean(honest, axis=0), atol=1e-10)
            np.testing.assert_allclose(null[label], np.mean(shuffled, axis=0), atol=1e-10)


def test_cone_holds_the_share_of_replicates_and_narrows_with_evidence() -> None:
    chains, _ = planted(40, strength=0.3)
    moments = collected(chains)
    for name in ("rest", "within"):
        angles = cone(moments, name)["backtracking"]
        weights = {c.chain.task: column_weights(c.chain.task) for c in chains}
        full = reference_contrast(chains, name, "backtracking")
        drawn = []
        for r in range(1, 1 + REPLICATES):
            weight = {task: int(w[r]) for task, w in weights.items()}
            replicate = reference_contrast(chains, name, "backtracking", weight)
            if replicate is not None:
                drawn.append(np.degrees(np.arccos(cosine(replicate[0], full[0]))))
        drawn = np.sort(drawn)
        inside = (drawn <= float(angles[0]) + 1e-9).mean()
        assert inside >= 0.95 and (drawn < float(angles[0]) - 1e-9).mean() < 0.95
    wide = float(cone(collected(planted(10, strength=0.3)[0]))["backtracking"])
    narrow = float(cone(collected(planted(160, strength=0.3)[0]))["backtracking"])
    assert narrow < 0.5 * wide


def test_labels_without_evidence_are_left_out_never_nan() -> None:
    rng = np.random.default_rng(0)
    # the only backtracking span sits in one task: half of each split, a third of replicates lack it
    chains = [
        Synthetic(
            Chain(
                f"c{i}", f"t{i}", (1, 20), ((1, 5, LABELS[0]), (5, 9, LABELS[2 if i == 0 else 1]))
            ),
            rng.normal(size=(1, 20, 6)),
        )
        for i in range(12)
    ]
    moments = collected(chains)
    for name in (*CONTRASTS, "deduction:backtracking"):
        assert bool(torch.isfinite(contrast(moments, name)).all())
        for curves in (split_half(moments, name), split_half_shuffled(moments, name)):
            assert "backtracking" not in curves
            assert all(bool(torch.isfinite(c).all()) for c in curves.values())
        for label, curve in cone(moments, name).items():
            assert bool(torch.isfinite(curve).all()), label
    lacking = sum(int(column_weights("t0")[r]) == 0 for r in range(1, 1 + REPLICATES))
    assert lacking > 5
    assert replicates_used(moments, "rest")["backtracking"] == REPLICATES - lacking


def noisy(n: int, *, length: float, noise: float, width: int, seed: int):
    """One layer, one span of each of two labels a chain; the truth is ``length`` long."""
    rng = np.random.default_rng(seed)
    chains = []
    for i in range(n):
        hidden = rng.normal(size=(1, 9, width)) * noise
        hidden[0, 1:5, 0] += length
        windows = ((1, 2, LABELS[2]), (5, 6, LABELS[1]))
        chains.append(Synthetic(Chain(f"c{i}", f"t{i}", (1, 9), windows), hidden))
    return collected(chains)


def test_learning_curves_rise_and_predict_themselves() -> None:
    chains, _ = planted(160, strength=0.05, width=64)
    moments = collected(chains)
    table = learning_curve(moments, 0, "rest").set_index(["behavior", "share"])
    curve = table.loc["backtracking"]
    assert curve.index.tolist() == [1 / 8, 1 / 4, 1 / 2]
    assert curve.cosine.is_monotonic_increasing and 0.02 < curve.cosine.iloc[0] < 0.9
    np.testing.assert_allclose(curve.cosine, curve.predicted, atol=0.1)
    assert curve.pairs.tolist()[0] == PARTS * (PARTS - 1) // 2
    # the eighths are disjoint sets of tasks: their spans add up
    total = int(moments.counts[0, LABELS.index("backtracking")])
    assert curve.spans.iloc[0] == pytest.approx(total / PARTS)
    with pytest.raises(ExtractionError, match="layer 7 was not read"):
        learning_curve(moments, 7)


def test_learning_curves_equal_the_reference() -> None:
    chains = synthetic_chains(40, seed=8, tasks=20)
    moments = collected(chains)
    table = learning_curve(moments, 0, "rest")
    parts = {c.chain.task: column_weights(c.chain.task)[PART] for c in chains}
    expected = []
    for a in range(PARTS):
        for b in range(a):
            pair = [
                reference_contrast(
                    chains, "rest", "backtracking", {t: int(w[p]) for t, w in parts.items()}
                )
                for p in (a, b)
            ]
            if all(found is not None for found in pair):
                expected.append(cosine(pair[0][0], pair[1][0]))
    row = table[(table.behavior == "backtracking") & (table.share == 1 / PARTS)].iloc[0]
    assert row.pairs == len(expected) > 3
    assert row.cosine == pytest.approx(np.mean(expected))


def test_more_noise_asks_for_more_spans() -> None:
    needed = [
        spans_needed(noisy(40, length=1.0, noise=noise, width=24, seed=1), 0)["backtracking"]
        for noise in (0.2, 0.8)
    ]
    assert 0 < needed[0] < needed[1] < math.inf
    # v = noise variance of the difference over its squared length; cos 0.9 asks for 4.26 v
    expected = 24 * 2 * 0.8**2 * 0.81 / 0.19
    assert needed[1] == pytest.approx(expected, rel=0.4)


def test_what_should_not_be_trusted_is_marked() -> None:
    from dataclasses import replace

    good = replace(
        direction(),
        spans=200,
        tasks=50,
        split_half=torch.full((3,), 0.9),
        split_half_shuffled=torch.full((3,), 0.1),
    )
    assert weakness(good) == "" == good.weakness
    assert "19 spans" in weakness(replace(good, spans=19))
    assert "4 tasks" in weakness(replace(good, tasks=4))
    assert "0.40" in weakness(replace(good, split_half=torch.full((3,), 0.4)))
    assert "shuffled" in weakness(replace(good, split_half_shuffled=torch.full((3,), 0.95)))
    assert weakness(good.random(1)) == ""


def test_what_was_not_measured_is_said() -> None:
    """Methods that are fitted measure halves at the suggested layer alone."""
    from dataclasses import replace

    curve = torch.tensor([math.nan, 0.9, math.nan])
    known = replace(direction(), spans=200, tasks=50, split_half=curve, split_half_shuffled=None)
    assert weakness(known) == ""
    assert weakness(replace(known, layer=2)) == "reliability not measured"
    bare = replace(known, layer=None, split_half=torch.full((3,), math.nan))
    assert weakness(bare) == "reliability not measured"
    assert weakness(replace(known, layer=None)) == ""  # the best one that there is
    assert weakness(replace(bare, split_half=None)) == ""
