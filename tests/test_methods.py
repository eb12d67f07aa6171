"""Methods on planted directions, and where each of them should fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS

from steerkit.directions import CONTRASTS, contrast
from steerkit.errors import ExtractionError
from steerkit.evidence import Evidence
from steerkit.methods import (
    METHODS,
    check_method,
    fitted_direction,
    fitted_split_half,
    lda_direction,
    pca_direction,
    probe_direction,
)
from steerkit.reading import HALF, Chain, column_weights
from steerkit.span_means import SpanMeans
from tests.synthetic import (
    LABELS,
    Synthetic,
    collected,
    cosine,
    reference_contrast,
    span_means,
    synthetic_chains,
)

WIDTH = 24


def evidence(chains, path) -> Evidence:
    spans = sum(len(c.chain.windows) for c in chains)
    layers, _, width = chains[0].hidden.shape
    means = SpanMeans(path / "means.npy", tuple(range(layers)), spans, width)
    return Evidence(collected(chains, covariance=True, samples=means), means)


def label_means(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A mean of length 1 for every label."""
    drawn = {label: rng.normal(size=WIDTH) for label in LABELS}
    return {label: v / np.linalg.norm(v) for label, v in drawn.items()}


def with_shuffled_labels(chains: list[Synthetic], seed: int = 0) -> list[Synthetic]:
    """The same activations, labels exchanged within each chain."""
    rng, found = np.random.default_rng(seed), []
    for c in chains:
        labels = rng.permutation([label for _, _, label in c.chain.windows]).tolist()
        windows = tuple((a, b, n) for (a, b, _), n in zip(c.chain.windows, labels, strict=True))
        found.append(Synthetic(replace(c.chain, windows=windows), c.hidden))
    return found


def planted(n: int = 120, *, noise: float = 0.3, nuisance: float = 0.0, seed: int = 0):
    """Chains with a direction of their own for every label, and noise that is long one way.

    ``nuisance`` is the standard deviation of that noise along one direction which overlaps
    with backtracking's: the difference of means of finite samples is pulled toward it.
    """
    rng = np.random.default_rng(seed)
    truth = label_means(rng)
    long = rng.normal(size=WIDTH)
    long = long / np.linalg.norm(long) + 0.7 * truth["backtracking"]
    chains = []
    for i in range(n):
        windows, hidden = [], np.zeros((1, 61, WIDTH))
        for s, label in zip(range(1, 61, 10), rng.permutation(LABELS * 2).tolist(), strict=True):
            windows.append((s, s + 5, label))
            spread = rng.normal(size=WIDTH) * noise + rng.normal() * nuisance * long
            hidden[0, s : s + 5] = truth[label] + spread
        chains.append(Synthetic(Chain(f"c{i}", f"t{i}", (1, 61), tuple(windows)), hidden))
    others = [truth[label] for label in LABELS if label != "backtracking"]
    return chains, truth["backtracking"] - np.mean(others, axis=0)


@pytest.mark.parametrize(
    ("method", "contrast_", "noise"),
    [
        *((method, name, 0.3) for method in ("mean-difference", "mass-mean") for name in CONTRASTS),
        *((method, "backtracking:deduction", 0.3) for method in METHODS if method != "probe"),
        # a probe finds it where the classes overlap: spans that it tells apart without error
        # leave many separating directions
        ("probe", "backtracking:deduction", 1.0),
    ],
)
def test_a_planted_direction_is_recovered(method, contrast_, noise, tmp_path) -> None:
    """Spans scatter by ``noise`` in each of 24 dimensions about means of length 1."""
    n = 1500 if method == "probe" else 240
    chains, against_others = planted(n, noise=noise)
    means = label_means(np.random.default_rng(0))
    truth = against_others
    if ":" in contrast_:
        truth = means["backtracking"] - means["deduction"]
    elif contrast_ == "overall":  # the start of spans, which all share, is left
        truth = means["backtracking"] - 0.5 * np.mean(list(means.values()), axis=0)
    found = evidence(chains, tmp_path).directions(method, contrast_)["backtracking"][0]
    assert cosine(found.numpy(), truth) >= 0.99
    if method == "pca":  # the way in which spans vary most: labels give its sign alone
        return
    # positive control: once labels are shuffled within chains there is nothing to recover
    mixed = evidence(with_shuffled_labels(chains), tmp_path)
    other = mixed.directions(method, contrast_)["backtracking"][0].numpy()
    if contrast_ == "overall":  # but for what all starts of spans share
        shared = np.mean(list(means.values()), axis=0)
        truth, other = (v - (v @ shared) / (shared @ shared) * shared for v in (truth, other))
    assert abs(cosine(other, truth)) < 0.7


@pytest.mark.parametrize("method", ["lda", "probe", "pca"])
def test_what_is_fitted_against_all_others_takes_how_these_differ_for_noise(method, tmp_path):
    """Against three or more behaviours at once such a method aims at something else."""
    chains, truth = planted(240)
    found = evidence(chains, tmp_path).directions(method, "rest")["backtracking"][0]
    assert 0.9 < cosine(found.numpy(), truth) < 0.98


@pytest.mark.parametrize("name", [*CONTRASTS, "backtracking:deduction"])
def test_mass_mean_equals_numpy_and_scikit_learn(name: str, tmp_path) -> None:
    chains = synthetic_chains(60, seed=6, tasks=20)
    found = evidence(chains, tmp_path).directions("mass-mean", name)["backtracking"]
    for layer in range(2):
        spans = [(label, mean[layer]) for c in chains for label, mean in span_means(c)]
        labels = np.array([label for label, _ in spans])
        samples = np.array([mean for _, mean in spans])
        for label in LABELS:
            samples[labels == label] -= samples[labels == label].mean(axis=0)
        covariance = OAS(assume_centered=True).fit(samples).covariance_
        plain = reference_contrast(chains, name, "backtracking")[layer]
        expected = np.linalg.solve(covariance, plain)
        expected *= np.linalg.norm(plain) / np.linalg.norm(expected)
        np.testing.assert_allclose(found[layer].numpy(), expected, rtol=1e-8, atol=1e-10)
        assert cosine(expected, plain) < 0.999  # whitening changes something


@pytest.mark.parametrize("method", METHODS)
def test_all_are_as_long_as_the_difference_of_means(method: str, tmp_path) -> None:
    chains, _ = planted(40)
    found = evidence(chains, tmp_path)
    plain = contrast(found.moments, "rest")
    for k, label in enumerate(LABELS):
        length = found.directions(method, "rest")[label].norm(dim=1)
        torch.testing.assert_close(length, plain[k].norm(dim=1))


def test_mass_mean_is_the_whitened_difference(tmp_path) -> None:
    chains, _ = planted(40, nuisance=1.0)
    found = evidence(chains, tmp_path)
    expected = found.precision[0] @ contrast(found.moments, "rest")[LABELS.index("backtracking"), 0]
    mine = found.directions("mass-mean", "rest")["backtracking"][0]
    assert cosine(mine.numpy(), expected.numpy()) == pytest.approx(1.0)


def test_whitening_tells_better_where_noise_is_long_one_way(tmp_path) -> None:
    """Why rivals exist: along a nuisance the difference of means separates worse."""
    from sklearn.metrics import roc_auc_score

    chains, _ = planted(80, noise=0.5, nuisance=6.0)
    found = evidence(chains, tmp_path)
    samples, spans = found.samples.layer(0), found.samples.spans
    own = np.array([span.label == "backtracking" for span in spans])
    areas = {
        method: roc_auc_score(
            own, samples @ found.directions(method, "rest")["backtracking"][0].numpy()
        )
        for method in METHODS
    }
    for method in ("mass-mean", "lda", "probe"):
        assert areas[method] > areas["mean-difference"] + 0.02, areas


def test_lda_is_the_discriminant_of_two_gaussians() -> None:
    rng = np.random.default_rng(4)
    root = rng.normal(size=(6, 6))
    covariance = root @ root.T + np.eye(6)
    mean = rng.normal(size=6)
    own = np.tile([True, False], 20_000)
    samples = rng.multivariate_normal(np.zeros(6), covariance, size=len(own)) + own[:, None] * mean
    expected = np.linalg.solve(covariance, mean)
    assert cosine(lda_direction(samples, own, []), expected) > 0.995
    assert cosine(probe_direction(samples, own, []), expected) > 0.99
    assert cosine(samples[own].mean(0) - samples[~own].mean(0), expected) < 0.9


def test_pca_finds_the_paired_difference_and_points_its_way(tmp_path) -> None:
    chains, truth = planted(60)
    found = evidence(chains, tmp_path)
    spans, samples = found.samples.spans, found.samples.layer(0).astype(float)
    own = np.array([span.label == "backtracking" for span in spans])
    component = pca_direction(samples, own, spans)
    # the same by hand: right singular vector of uncentred differences
    rows = []
    for place in np.flatnonzero(own):
        mates = [j for j, s in enumerate(spans) if s.chain == spans[place].chain and not own[j]]
        before = [j for j in mates if j < place]
        rows.append(samples[place] - samples[max(before) if before else min(mates)])
    singular = np.linalg.svd(np.array(rows))[2][0]
    assert abs(cosine(component, singular)) == pytest.approx(1.0)
    assert cosine(component, truth) > 0.9
    alone = np.ones(len(spans), dtype=bool)
    with pytest.raises(ExtractionError, match="paired"):
        pca_direction(samples, alone, spans)


@pytest.mark.parametrize("method", ["lda", "probe", "pca"])
def test_reliability_beside_that_of_shuffled_labels(method: str, tmp_path) -> None:
    chains, _ = planted(80, noise=0.6)
    found = evidence(chains, tmp_path)
    honest = fitted_split_half(method, "rest", found.samples, "backtracking", 0)
    shuffled = fitted_split_half(method, "rest", found.samples, "backtracking", 0, shuffled=True)
    assert honest > 0.6 and abs(shuffled) < honest - 0.3
    both = found.reliability(method, "rest", {"backtracking": 0, "deduction": None})
    assert float(both["backtracking"].split_half[0]) == pytest.approx(honest)
    assert bool(both["deduction"].split_half.isnan().all())


def lonely(chains):
    """The chains, and five of backtracking alone beside them instead of its spans in others."""
    kept = []
    for c in chains:
        windows = tuple(w for w in c.chain.windows if w[2] != "backtracking")
        kept.append(Synthetic(replace(c.chain, windows=windows), c.hidden))
    for i, c in enumerate(chains[:5]):
        windows = tuple(w for w in c.chain.windows if w[2] == "backtracking")
        chain = Chain(f"alone-{i}", f"alone-{i}", c.chain.thinking, windows)
        kept.append(Synthetic(chain, c.hidden))
    return kept


def test_a_behaviour_that_fails_spoils_no_other(tmp_path) -> None:
    found = evidence(lonely(planted(40)[0]), tmp_path)
    fitted = found.fitted("pca", "rest")
    assert set(fitted.directions) == set(LABELS) - {"backtracking"}
    assert "paired with at layer 0" in fitted.left_out["backtracking"]
    left_out: dict[str, str] = {}
    directions = found.directions("pca", "rest", left_out=left_out)
    assert set(directions) == set(fitted.directions) and left_out == fitted.left_out
    with pytest.raises(ExtractionError, match=r"backtracking: no span has .* at layer 0"):
        found.directions("pca", "rest", ["deduction", "backtracking"])
    # positive control: a method that needs no pairs has all
    assert found.fitted("lda", "rest").left_out == {}


def test_a_probe_that_does_not_converge_leaves_one_behaviour_out(tmp_path, monkeypatch) -> None:
    from steerkit import methods

    def fails(samples, own, spans):
        if any(mine and span.label == "deduction" for mine, span in zip(own, spans, strict=True)):
            raise ExtractionError("the logistic probe did not converge in 1,000 iterations")
        return probe_direction(samples, own, spans)

    monkeypatch.setitem(methods._FITS, "probe", fails)
    found = evidence(planted(40)[0], tmp_path)
    fitted = found.fitted("probe", "rest")
    assert set(fitted.directions) == set(LABELS) - {"deduction"}
    assert "did not converge in 1,000 iterations at layer 0" in fitted.left_out["deduction"]
    assert np.isnan(fitted_split_half("probe", "rest", found.samples, "deduction", 0))
    assert fitted_split_half("probe", "rest", found.samples, "backtracking", 0) > 0.6


def test_a_half_that_fails_counts_as_missing(tmp_path) -> None:
    """Backtracking has partners in two tasks only: of some splits one half has none."""
    chains = planted(40)[0]
    found = evidence([*lonely(chains[2:]), *chains[:2]], tmp_path)
    halves = [column_weights(f"t{i}", 0)[HALF].tolist()[:4] for i in (0, 1)]
    apart = [a != b for a, b in zip(*halves, strict=True)]
    assert not all(apart)  # some split has both on one side
    value = fitted_split_half("pca", "rest", found.samples, "backtracking", 0)
    assert np.isfinite(value) == any(apart)


def test_a_single_span_is_left_out_with_the_reason(tmp_path) -> None:
    chains = [
        c for c in lonely(planted(20)[0]) if "alone" not in c.chain.key or c.chain.key == "alone-0"
    ]
    last = chains.pop()
    chains.append(Synthetic(replace(last.chain, windows=last.chain.windows[:1]), last.hidden))
    found = evidence(chains, tmp_path).fitted("lda", "rest")
    assert set(found.directions) == set(LABELS) - {"backtracking"}
    assert found.left_out["backtracking"].startswith("fewer than two spans")


def test_one_behaviour_against_another(tmp_path) -> None:
    chains, _ = planted(60)
    found = evidence(chains, tmp_path)
    name = "backtracking:deduction"
    plain = found.directions("mean-difference", name)["backtracking"][0]
    for method in METHODS:
        mine = found.directions(method, name)
        assert list(mine) == ["backtracking"]
        assert cosine(mine["backtracking"][0].numpy(), plain.numpy()) > 0.9
    spans = found.samples.spans
    assert fitted_direction("lda", name, "deduction", found.samples.layer(0), spans) is None


def test_methods_and_contrasts_that_do_not_go_together_are_refused() -> None:
    for method in METHODS:
        check_method(method, "rest")
    for contrast_ in ("overall", "balanced", "within"):
        check_method("mass-mean", contrast_)
        with pytest.raises(ExtractionError, match="knows no contrast"):
            check_method("probe", contrast_)
    with pytest.raises(ExtractionError, match="unknown method 'means'"):
        check_method("means", "rest")
