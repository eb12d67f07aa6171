"""Span means on disk: the same rows whatever the batches, and no more than is allowed."""

from __future__ import annotations

import numpy as np
import pytest

from steerkit.errors import ExtractionError
from steerkit.span_means import SpanMeans
from tests.synthetic import collected, span_means, synthetic_chains


def stored(chains, path, batch: int = 7) -> SpanMeans:
    spans = sum(len(c.chain.windows) for c in chains)
    means = SpanMeans(path, (0, 1), spans, 8)
    collected(chains, batch=batch, samples=means)
    return means


def test_rows_are_the_means_of_the_spans_in_order(tmp_path) -> None:
    chains = synthetic_chains(20, seed=5)
    means = stored(chains, tmp_path / "m.npy")
    expected = [
        (c.chain.key, window[0], label, mean)
        for c in chains
        for window, (label, mean) in zip(c.chain.windows, span_means(c), strict=True)
    ]
    expected.sort(key=lambda row: row[:2])
    assert [(s.chain, s.start, s.label) for s in means.spans] == [row[:3] for row in expected]
    assert {s.task for s in means.spans} <= {c.chain.task for c in chains}
    for layer in range(2):
        rows = np.array([mean[layer] for *_, mean in expected])
        np.testing.assert_allclose(means.layer(layer), rows, rtol=1e-5, atol=1e-6)


def test_batches_do_not_change_the_rows(tmp_path) -> None:
    chains = synthetic_chains(20, seed=5)
    one, other = stored(chains, tmp_path / "a.npy"), stored(chains, tmp_path / "b.npy", batch=3)
    assert one.spans == other.spans
    np.testing.assert_array_equal(one.layer(1), other.layer(1))


def test_a_file_that_would_be_too_large_is_refused_before_it_is_made(tmp_path) -> None:
    path = tmp_path / "m.npy"
    with pytest.raises(ExtractionError, match=r"10,000,000 spans need .* GiB"):
        SpanMeans(path, tuple(range(28)), 10_000_000, 1536)
    assert not path.exists()
    size = SpanMeans(path, (0, 1), 100, 8, most=6400).size
    assert size == 6400 and path.stat().st_size == pytest.approx(6400, abs=200)
    with pytest.raises(ExtractionError):
        SpanMeans(tmp_path / "n.npy", (0, 1), 100, 8, most=6399)
