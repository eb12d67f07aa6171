"""Covariance within labels and its shrinkage against numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS

from steerkit.covariance import oas_shrinkage, precision, within_covariance
from steerkit.errors import ExtractionError
from steerkit.reading import Chain
from tests.synthetic import LABELS, Synthetic, collected, span_means, synthetic_chains


def centered(chains, layer: int) -> np.ndarray:
    """Every span mean minus the mean of its label, from the definition."""
    spans = [(label, mean[layer]) for c in chains for label, mean in span_means(c)]
    rows = []
    for label in LABELS:
        own = np.array([mean for found, mean in spans if found == label])
        if len(own):
            rows.append(own - own.mean(axis=0))
    return np.concatenate(rows)


def test_the_covariance_is_that_of_spans_around_the_mean_of_their_label() -> None:
    chains = synthetic_chains(30, seed=2)
    moments = collected(chains, covariance=True)
    for layer in range(2):
        rows = centered(chains, layer)
        expected = rows.T @ rows / (len(rows) - len(LABELS))
        found = within_covariance(moments, layer)
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
        # positive control: around one common mean it is another
        spans = np.array([mean[layer] for c in chains for _, mean in span_means(c)])
        assert not np.allclose(found, np.cov(spans.T), rtol=1e-3)


def test_covariances_of_parts_add_up() -> None:
    chains = synthetic_chains(30, seed=2)
    whole = collected(chains, covariance=True)
    parts = collected(chains[:11], covariance=True) + collected(chains[11:], covariance=True)
    torch.testing.assert_close(within_covariance(parts, 1), within_covariance(whole, 1))
    with pytest.raises(ExtractionError, match="different covariance"):
        collected(chains[:5]) + collected(chains[5:], covariance=True)


@pytest.mark.parametrize("n", [6, 30, 400])
def test_shrinkage_is_that_of_scikit_learn(n: int) -> None:
    rng = np.random.default_rng(n)
    samples = rng.normal(size=(n, 12)) * np.linspace(0.2, 3, 12)
    samples -= samples.mean(axis=0)
    fitted = OAS(assume_centered=True).fit(samples)
    covariance = torch.from_numpy(samples.T @ samples / n)
    assert oas_shrinkage(covariance, n) == pytest.approx(fitted.shrinkage_)


def test_precision_inverts_the_shrunk_covariance() -> None:
    chains = synthetic_chains(30, seed=2)
    moments = collected(chains, covariance=True)
    for layer, matrix in enumerate(precision(moments)):
        covariance = within_covariance(moments, layer)
        share = oas_shrinkage(covariance, int(moments.counts[0].sum()))
        assert 0 < share < 1
        shrunk = (1 - share) * covariance
        shrunk += share * covariance.trace() / 8 * torch.eye(8, dtype=torch.float64)
        torch.testing.assert_close(matrix @ shrunk, torch.eye(8, dtype=torch.float64))


def two_spans() -> Synthetic:
    windows = ((1, 3, LABELS[0]), (3, 6, LABELS[1]))
    return Synthetic(Chain("c", "t", (1, 9), windows), np.ones((1, 9, 4)))


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ExtractionError, match="no covariance"):
        precision(collected(synthetic_chains(5)))
    with pytest.raises(ExtractionError, match="more spans than labels"):
        within_covariance(collected([two_spans()], covariance=True), 0)
