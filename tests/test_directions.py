"""Contrasts against a slow numpy reference, and planted truths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerkit.directions import (
    CONTRASTS,
    contrast,
    defined,
    full_contrast,
    parse_contrast,
    shuffled_contrasts,
)
from steerkit.errors import ExtractionError
from steerkit.reading import COLUMNS, REPLICATES, Chain, column_weights, shuffled_orders
from steerkit.reliability import split_half, split_half_shuffled
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
    for column in (0, 1, 40, 1 + REPLICATES, COLUMNS - 1):
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


def test_a_whitening_multiplies_the_difference() -> None:
    moments = collected(synthetic_chains(25, seed=1))
    d_model, layers = moments.d_model, len(moments.layers)
    matrices = [torch.randn(d_model, d_model, dtype=torch.float64) for _ in range(layers)]
    matrices = [m + m.T for m in matrices]
    plain, white = contrast(moments, "rest"), contrast(moments, "rest", whitening=matrices)
    for i, matrix in enumerate(matrices):
        torch.testing.assert_close(white[:, i], plain[:, i] @ matrix)
    assert not torch.allclose(white, plain)


def test_contrast_names() -> None:
    assert full_contrast("backtracking:deduction", LABELS) == "backtracking:deduction"
    assert full_contrast("rest", LABELS) == "rest"
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


@pytest.mark.parametrize("name", ["rest", "balanced", "within", "overall"])
def test_shuffled_contrasts_are_those_of_chains_with_shuffled_labels(name: str) -> None:
    chains = synthetic_chains(25)
    found = shuffled_contrasts(collected(chains), name).numpy()
    assert found.shape[:2] == (20, len(LABELS))
    for split in (0, 7):
        labels = {}
        for c in chains:
            mine = [label for _, _, label in c.chain.windows]
            order = shuffled_orders(c.chain.key, len(mine))[split]
            labels[c.chain.key] = [mine[i] for i in order]
        for k, label in enumerate(LABELS):
            expected = reference_contrast(chains, name, label, labels=labels)
            np.testing.assert_allclose(found[split, k], expected, rtol=1e-9, atol=1e-9)
            plain = reference_contrast(chains, name, label)
            assert not np.allclose(found[split, k], plain, rtol=1e-3)  # shuffled it is
