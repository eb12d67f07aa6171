"""Contrasts against a slow numpy reference; reliability against planted truths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerkit.directions import (
    CONTRASTS,
    cone,
    contrast,
    defined,
    parse_contrast,
    replicates_used,
    split_half,
    split_half_shuffled,
)
from steerkit.errors import ExtractionError
from steerkit.reading import REPLICATES, SPLITS, Chain, column_weights, shuffled_orders
from tests.synthetic import (
    LABELS,
    Synthetic,
    collected,
    cosine,
    reference_contrast,
    synthetic_chains,
)

NAMES = (*CONTRASTS, "backtracking:deduction")


def planted(n: int = 80, *, strength: float = 1.0, width: int = 256, seed: int = 0):
    """Chains whose label spans, and nothing else, carry a direction of their own.

    Every span also carries a component common to all starts of spans. All labels are
    equally frequent in every chain, so that a shuffle within chains leaves nothing of them.
    """
    rng = np.random.default_rng(seed)
    truth = {label: rng.normal(size=width) for label in LABELS}
    truth = {label: v / np.linalg.norm(v) for label, v in truth.items()}
    common = rng.normal(size=width)
    chains = []
    for i in range(n):
        hidden = rng.normal(size=(1, 101, width)) * 0.6 + rng.normal(size=width) * 0.1
        windows = []
        for s, label in zip(range(1, 91, 10), rng.permutation(LABELS * 3).tolist(), strict=True):
            windows.append((s, s + 5, label))
            hidden[0, s : s + 5] += 3 * strength * truth[label] + common
        chains.append(Synthetic(Chain(f"c{i}", f"t{i}", (1, 101), tuple(windows)), hidden))
    return chains, truth


@pytest.mark.parametrize("name", NAMES)
def test_contrasts_equal_the_reference(name: str) -> None:
    chains = synthetic_chains(25, seed=1, tasks=9)
    moments = collected(chains)
    for column in (0, 1, 40, 1 + REPLICATES, REPLICATES + SPLITS):
        weight = {c.chain.task: int(column_weights(c.chain.task)[column]) for c in chains}
        found = contrast(moments, name, column)
        there = defined(moments, name)[column]
        for k, label in enumerate(LABELS):
            expected = reference_contrast(chains, name, label, weight)
            assert bool(there[k]) == (expected is not None)
            if expected is None:
                assert not found[k].any()
            else:
                torch.testing.assert_close(
                    found[k], torch.from_numpy(expected), rtol=1e-11, atol=1e-12
                )


def test_the_contrasts_are_not_one_another() -> None:
    moments = collected(synthetic_chains(25, seed=1))
    found = [contrast(moments, name)[LABELS.index("backtracking")] for name in NAMES]
    for i, a in enumerate(found):
        for b in found[:i]:
            assert float((a - b).abs().max()) > 1e-3


@pytest.mark.parametrize("name", [n for n in NAMES if n != "overall"])
def test_planted_directions_are_recovered(name: str) -> None:
    chains, truth = planted()
    moments = collected(chains)
    for k, label in enumerate(LABELS):
        if not defined(moments, name)[0, k]:
            continue
        others = [truth[other] for other in LABELS if other != label]
        expected = truth[label] - np.mean(others, axis=0)
        if ":" in name:
            expected = truth["backtracking"] - truth["deduction"]
        assert cosine(contrast(moments, name)[k, 0].numpy(), expected) > 0.99
        assert float(split_half(moments, name)[label][0]) > 0.95
        assert abs(float(split_half_shuffled(moments, name)[label][0])) < 0.4


@pytest.mark.parametrize("name", [n for n in NAMES if n != "overall"])
def test_shuffled_labels_recover_nothing(name: str) -> None:
    chains, truth = planted()
    shuffled = []
    for c in chains:
        order = shuffled_orders(c.chain.key, len(c.chain.windows), seed=9)[0]
        labels = [c.chain.windows[i][2] for i in order]
        windows = tuple((a, b, new) for (a, b, _), new in zip(c.chain.windows, labels, strict=True))
        shuffled.append(Synthetic(Chain(c.chain.key, c.chain.task, (1, 101), windows), c.hidden))
    moments = collected(shuffled)
    direction = contrast(moments, name)[LABELS.index("backtracking"), 0].numpy()
    honest = contrast(collected(chains), name)[LABELS.index("backtracking"), 0].numpy()
    expected = truth["backtracking"] - 0.5 * (truth["deduction"] + truth["example-testing"])
    assert abs(cosine(direction, expected)) < 0.7
    assert np.linalg.norm(direction) < 0.35 * np.linalg.norm(honest)
    assert float(split_half(moments, name)["backtracking"][0]) < 0.5


def test_overall_keeps_the_start_of_span_component_that_rest_removes() -> None:
    moments = collected(planted()[0])
    assert float(split_half_shuffled(moments, "overall")["backtracking"][0]) > 0.8
    assert abs(float(split_half_shuffled(moments, "rest")["backtracking"][0])) < 0.4


@pytest.mark.parametrize("name", NAMES)
def test_split_half_equals_the_reference(name: str) -> None:
    chains = synthetic_chains(18, seed=4, tasks=6)
    moments = collected(chains)
    weights = {c.chain.task: column_weights(c.chain.task)[-SPLITS:] for c in chains}
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


def test_contrast_names() -> None:
    assert parse_contrast("rest", LABELS) == "rest"
    assert parse_contrast("backtracking:deduction", LABELS) == ("backtracking", "deduction")
    for bad, message in (
        ("remainder", "unknown contrast"),
        ("a:b:c", "unknown contrast"),
        ("backtracking:wishing", "wishing"),
        ("backtracking:uncertainty", "needs spans of 'uncertainty-estimation'"),
        ("deduction:deduction", "against itself"),
    ):
        with pytest.raises(ExtractionError, match=message):
            parse_contrast(bad, LABELS)
