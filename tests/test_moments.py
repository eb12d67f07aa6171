"""Moments equal a plain float64 computation, under any split, order or merge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.errors import ExtractionError
from steerkit.moments import Moments
from steerkit.positions import Window
from steerkit.reading import (
    COLUMNS,
    HALF,
    OUTLIER,
    PART,
    PARTS,
    REPLICATE,
    REPLICATES,
    SPLITS,
    Batch,
    Chain,
    column_weights,
    shuffled_orders,
)
from steerkit.tasks import task_hash
from tests.synthetic import LABELS, Synthetic, collected, padded, span_means, synthetic_chains

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def plain_sums(chains: list[Synthetic], column: int, seed: int = 0) -> np.ndarray:
    """The features of one column by loops over chains and spans: [layer, feature, d_model]."""
    layers, _, width = chains[0].hidden.shape
    sums = np.zeros((layers, 2 * len(LABELS) + 1, width))
    for c in chains:
        weight = int(column_weights(c.chain.task, seed)[column])
        means = span_means(c)
        for k, label in enumerate(LABELS):
            own = [m for found, m in means if found == label]
            others = [m for found, m in means if found != label]
            for m in own:
                sums[:, k] += weight * m
            if own and others:
                difference = np.mean(own, axis=0) - np.mean(others, axis=0)
                sums[:, len(LABELS) + k] += weight * difference
        thinking = c.hidden[:, slice(*c.chain.thinking)]
        if thinking.shape[1]:
            sums[:, -1] += weight * thinking.mean(axis=1)
    return sums


def all_sums(moments: Moments) -> torch.Tensor:
    return torch.stack([moments.layer_sums(i) for i in range(len(moments.layers))], dim=1)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_split_order_and_merge_equals_plain_float64(seed: int, n: int, data) -> None:
    chains = synthetic_chains(n, seed=seed, tasks=data.draw(st.integers(1, n)))
    order = data.draw(st.permutations(chains))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    total = Moments(LABELS, (0, 1), 8)
    for a, b in zip([0, *cuts], [*cuts, n], strict=True):
        if order[a:b]:
            part = collected(order[a:b], batch=data.draw(st.integers(1, n)))
            total = total + part if data.draw(st.booleans()) else part + total
    found = all_sums(total)
    for column in (0, 1, REPLICATES, REPLICATES + 1, COLUMNS - 1):
        expected = torch.from_numpy(plain_sums(chains, column))
        scale = max(float(expected.abs().max()), 1.0)
        torch.testing.assert_close(found[column] / scale, expected / scale, **CLOSE)
    whole = collected(chains, batch=n)
    for i in range(2):
        torch.testing.assert_close(
            total.layer_shuffled(i), whole.layer_shuffled(i), rtol=1e-11, atol=1e-10
        )
    assert torch.equal(total.counts, whole.counts)
    assert torch.equal(total.within_counts, whole.within_counts)
    assert total.tasks == whole.tasks and total.counters == whole.counters


def test_the_comparison_sees_a_dropped_span() -> None:
    chains = synthetic_chains(6, seed=3)
    least = Chain(*(getattr(chains[0].chain, f) for f in ("key", "task", "thinking")), ())
    assert chains[0].chain.windows
    fewer = [Synthetic(least, chains[0].hidden), *chains[1:]]
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            all_sums(collected(fewer))[0], torch.from_numpy(plain_sums(chains, 0)), **CLOSE
        )


def test_counts_norms_and_outliers_are_those_of_loops() -> None:
    chains = synthetic_chains(20, seed=5)
    chains[0].hidden[0, chains[0].chain.thinking[0]] *= 1e4
    assert chains[0].chain.thinking[1] > chains[0].chain.thinking[0] + 3
    moments = collected(chains)
    for k, label in enumerate(LABELS):
        expected = sum(w[2] == label for c in chains for w in c.chain.windows)
        assert int(moments.counts[0, k]) == expected
        tasks = {c.chain.task for c in chains if any(w[2] == label for w in c.chain.windows)}
        assert moments.tasks[label] == tasks
    thinking = [c.hidden[:, slice(*c.chain.thinking)] for c in chains]
    tokens = np.concatenate(thinking, axis=1)
    norms = np.linalg.norm(tokens, axis=2)
    assert moments.tokens == tokens.shape[1]
    np.testing.assert_allclose(moments.mean_norm, norms.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        moments.norm_of_mean, np.linalg.norm(tokens.mean(axis=1), axis=1), rtol=1e-11
    )
    expected_outliers = np.zeros(2, dtype=int)
    for t in thinking:
        if t.shape[1]:
            n = np.linalg.norm(t, axis=2)
            middle = np.sort(n, axis=1)[:, (n.shape[1] - 1) // 2]
            expected_outliers += (n > OUTLIER * middle[:, None]).sum(axis=1)
    assert expected_outliers[0] >= 1
    assert moments.outliers.tolist() == expected_outliers.tolist()
    without = [c.chain.thinking[1] <= c.chain.thinking[0] for c in chains]
    assert any(without) and int(moments.chains[0]) == len(chains) - sum(without)


def test_half_precision_is_widened_before_it_is_added() -> None:
    chains = synthetic_chains(8, seed=7)
    for c in chains:
        c.hidden[:] = torch.from_numpy(c.hidden).bfloat16().double().numpy()
    moments = Moments(LABELS, (0, 1), 8)
    moments.update([c.chain for c in chains], padded(chains, torch.bfloat16))
    expected = torch.from_numpy(plain_sums(chains, 0))
    torch.testing.assert_close(all_sums(moments)[0], expected, rtol=1e-12, atol=1e-10)


def test_long_windows_and_long_thinking_cross_the_block_size() -> None:
    rng = np.random.default_rng(0)
    chains = [
        Synthetic(
            Chain(f"c{i}", f"t{i}", (1, n), ((0, n - 5, LABELS[0]), (n - 5, n, LABELS[1]))),
            rng.normal(size=(1, n, 4)),
        )
        for i, n in enumerate((1500, 900, 40))
    ]
    found = all_sums(collected(chains, batch=3))[0]
    torch.testing.assert_close(found, torch.from_numpy(plain_sums(chains, 0)), **CLOSE)


def test_column_weights_are_poisson_halves_and_the_same_everywhere() -> None:
    weights = torch.stack([column_weights(f"task-{i}") for i in range(3000)]).double()
    assert weights.shape[1] == COLUMNS and bool((weights[:, 0] == 1).all())
    poisson, halves, parts = weights[:, REPLICATE], weights[:, HALF], weights[:, PART]
    n = poisson.numel()
    for k, p in enumerate((np.exp(-1), np.exp(-1), np.exp(-1) / 2, np.exp(-1) / 6)):
        share = float((poisson == k).double().mean())
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / n)
    assert halves.shape[1] == SPLITS and set(halves.unique().tolist()) == {0.0, 1.0}
    assert bool(((halves.mean(dim=0) - 0.5).abs() < 4 * 0.5 / 3000**0.5).all())
    assert parts.shape[1] == PARTS and bool((parts.sum(dim=1) == 1).all())
    assert bool(((parts.mean(dim=0) - 1 / PARTS).abs() < 4 * (7 / 64 / 3000) ** 0.5).all())
    # columns are independent of each other: no pair correlates beyond chance
    independent = weights[:, 1 : HALF.stop]
    correlation = torch.corrcoef(independent.T) - torch.eye(REPLICATES + SPLITS)
    assert float(correlation.abs().max()) < 5.5 / 3000**0.5
    assert torch.equal(column_weights("a"), column_weights("a"))
    assert not torch.equal(column_weights("a"), column_weights("a", seed=1))


def test_column_weights_never_change_between_versions() -> None:
    """Moments stored by one version add to those of another: the hash is part of the format."""
    assert column_weights("0123456789abcdef")[:12].tolist() == [1, 0, 1, 1, 0, 0, 1, 2, 0, 0, 0, 3]


def test_shuffles_keep_the_counts_and_draw_every_order() -> None:
    orders = [tuple(shuffled_orders(f"chain-{i}", 3)[0]) for i in range(600)]
    found = {order: orders.count(order) for order in set(orders)}
    assert len(found) == 6
    assert sum((n - 100) ** 2 / 100 for n in found.values()) < 20.5  # chi-square, 5 df, 0.1 %
    first, second, *_ = shuffled_orders("a", 9).tolist()
    assert first != second


def test_unlike_moments_do_not_add_up() -> None:
    base = Moments(LABELS, (0, 1), 8)
    for other, name in (
        (Moments(LABELS[:2], (0, 1), 8), "labels"),
        (Moments(LABELS, (0,), 8), "layers"),
        (Moments(LABELS, (0, 1), 4), "d_model"),
        (Moments(LABELS, (0, 1), 8, window=Window(0, 3)), "window"),
        (Moments(LABELS, (0, 1), 8, seed=1), "seed"),
    ):
        with pytest.raises(ExtractionError, match=name):
            base + other


def test_only_the_hashes_of_tasks_grow_with_the_number_of_chains() -> None:
    def size(moments: Moments) -> int:
        return sum(
            tensor.nbytes
            for i in range(len(moments.layers))
            for tensor in (moments.layer_sums(i), moments.layer_shuffled(i))
        )

    def named(n: int) -> list[Synthetic]:
        chains = synthetic_chains(n)
        return [replace(c, chain=replace(c.chain, task=task_hash(c.chain.task))) for c in chains]

    few, many = collected(named(5)), collected(named(60))
    assert size(few) == size(many)
    for moments, chains in ((few, named(5)), (many, named(60))):
        pairs = {(c.chain.task, label) for c in chains for _, _, label in c.chain.windows}
        kept = sum(len(task.encode()) for tasks in moments.tasks.values() for task in tasks)
        assert kept == 16 * len(pairs)
    assert sum(map(len, many.tasks.values())) > sum(map(len, few.tasks.values()))


def test_a_batch_without_spans_or_thinking_adds_nothing() -> None:
    chain = Chain("a", "t", (3, 3), ())
    moments = Moments(LABELS, (0, 1), 8)
    moments.update([chain], {layer: torch.randn(1, 5, 8) for layer in (0, 1)})
    assert not all_sums(moments).any() and moments.tokens == 0
    assert not moments.mean_norm.any() and not moments.norm_of_mean.any()
    assert Batch([chain], LABELS, 5).counts.sum() == 0
