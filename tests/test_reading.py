"""Reading one batch: means by window, weights by chain, and no dependence on layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.reading import HALF, SPLITS, Batch, Chain, Reading, column_weights
from tests.synthetic import LABELS, Synthetic, padded, span_means, synthetic_chains


def read(chains: list[Synthetic], *, layout=lambda hidden: hidden) -> tuple[Batch, Reading]:
    hidden = padded(chains)[0]
    batch = Batch([c.chain for c in chains], LABELS, hidden.shape[1])
    return batch, batch.read(layout(hidden))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_every_window_is_averaged_once_and_weighs_for_its_own_label(seed: int, n: int) -> None:
    chains = synthetic_chains(n, seed=seed, layers=1)
    batch, reading = read(chains)
    own = batch.on(torch.device("cpu"))["own"].view(n, 2, len(LABELS), -1)
    assert set(own[:, 0].unique().tolist()) <= {0.0, 1.0}
    total = sum(len(c.chain.windows) for c in chains)
    assert reading.span_means.shape[0] == total == float(own[:, 0].sum())
    for row, c in enumerate(chains):
        assert own[row, 0].sum(dim=1).tolist() == batch.counts[row].tolist()
        for k, label in enumerate(LABELS):
            expected = np.sum(
                [mean[0] for found, mean in span_means(c) if found == label] or [np.zeros(8)],
                axis=0,
            )
            found = own[row, 0, k] @ reading.span_means
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)


def test_the_layout_in_memory_changes_no_bit() -> None:
    chains = synthetic_chains(6, seed=2, layers=1)
    _, plain = read(chains)
    _, strided = read(chains, layout=lambda h: h.transpose(0, 1).contiguous().transpose(0, 1))
    _, reversed_ = read(chains, layout=lambda h: h.flip(2).contiguous().flip(2))
    for other in (strided, reversed_):
        assert torch.equal(other.span_means, plain.span_means)
        assert torch.equal(other.thinking_sums, plain.thinking_sums)
    # positive control: another order of rows is another reading
    _, moved = read(chains, layout=lambda h: h.flip(0).nan_to_num())
    assert not torch.equal(moved.span_means, plain.span_means)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_readings_are_float64_whatever_the_model_computes_in(dtype: torch.dtype) -> None:
    _, reading = read(synthetic_chains(4, seed=1, layers=1), layout=lambda h: h.to(dtype))
    for value in (reading.span_means, reading.thinking_sums, reading.norm_sum):
        assert value.dtype == torch.float64 and bool(value.isfinite().all())


def test_halves_part_the_tasks_and_shuffles_stay_within_their_half() -> None:
    chains = synthetic_chains(9, seed=4, layers=1, tasks=3)
    batch, _ = read(chains)
    shuffled = batch.on(torch.device("cpu"))["shuffled"]
    shuffled = shuffled.view(SPLITS, 2, 2, len(LABELS), -1)
    place = 0
    for row, c in enumerate(chains):
        half = column_weights(c.chain.task)[HALF]
        for i, _ in enumerate(c.chain.windows):
            place = batch._places[row, i]
            drawn = shuffled[:, :, 0, :, place].sum(dim=2)
            # one label for every window and split, in the half its task belongs to
            assert drawn[:, 0].tolist() == half.tolist()
            assert drawn[:, 1].tolist() == (1 - half).tolist()
    kept = shuffled[:, :, 0].sum(dim=(1, 3))
    assert torch.equal(kept, batch.counts.sum(dim=0).double().expand(SPLITS, -1))


def test_a_chain_shuffles_alike_in_every_batch() -> None:
    chains = synthetic_chains(5, seed=6, layers=1)
    whole, _ = read(chains)
    for row, c in enumerate(chains):
        alone = Batch([c.chain], LABELS, 50)
        for i in range(len(c.chain.windows)):
            a = whole.on(torch.device("cpu"))["shuffled"][:, whole._places[row, i]]
            b = alone.on(torch.device("cpu"))["shuffled"][:, alone._places[0, i]]
            assert torch.equal(a, b)


def test_windows_may_overlap_and_reach_into_the_prompt() -> None:
    hidden = torch.randn(1, 10, 4, dtype=torch.float64)
    windows = ((0, 4, LABELS[0]), (3, 4, LABELS[1]), (3, 9, LABELS[0]))
    batch = Batch([Chain("a", "t", (3, 9), windows)], LABELS, 10)
    means = batch.read(hidden).span_means
    for i, (start, end, _) in enumerate(windows):
        torch.testing.assert_close(means[batch._places[0, i]], hidden[0, start:end].mean(dim=0))
