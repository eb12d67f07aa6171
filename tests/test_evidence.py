"""Evidence: what one pass leaves, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from steerkit.collection import collect
from steerkit.covariance import precision
from steerkit.directions import contrast
from steerkit.errors import ExtractionError
from steerkit.evidence import Evidence, described, gathered, plain
from steerkit.layer_choice.suggestion import by_areas
from steerkit.lengths import norm_interval
from steerkit.reliability import cone, split_half, split_half_shuffled
from tests.synthetic import LABELS, collected, synthetic_chains
from tests.tiny import LAYERS, tiny_model, tiny_traces


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(collected(synthetic_chains(30), covariance=True))


def test_the_difference_of_means_is_the_contrast(evidence: Evidence) -> None:
    expected = contrast(evidence.moments, "balanced")
    found = evidence.directions("mean-difference", "balanced")
    assert list(found) == list(LABELS)
    for k, label in enumerate(LABELS):
        assert torch.equal(found[label], expected[k])
    few = evidence.directions("mean-difference", "rest", ["backtracking", "backtracking"])
    assert list(few) == ["backtracking"]


def test_whitening_is_computed_once(evidence: Evidence) -> None:
    assert evidence.precision is evidence.precision
    for mine, theirs in zip(evidence.precision, precision(evidence.moments), strict=True):
        torch.testing.assert_close(mine, theirs)
    white = contrast(evidence.moments, "rest", whitening=evidence.precision)
    found = evidence.directions("mass-mean", "rest")["deduction"]
    cosines = torch.cosine_similarity(found, white[LABELS.index("deduction")], dim=1)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_means_of_spans_that_were_not_kept_are_not_made_up(evidence: Evidence) -> None:
    with pytest.raises(ExtractionError, match=r"single spans were not kept.*Name every method"):
        evidence.directions("probe", "rest")
    with pytest.raises(ExtractionError, match="unknown method 'mean'"):
        evidence.directions("mean", "rest")
    message = r"'rest' .initializing: no span of it could be read.*deduction \d+.*were empty"
    with pytest.raises(ExtractionError, match=message):
        evidence.directions("mean-difference", "rest", ["initializing"])


def test_plain_directions_know_their_layers_and_no_more(evidence: Evidence) -> None:
    moments = evidence.moments
    raw = {n: d.float() for n, d in evidence.directions("mean-difference", "rest").items()}
    found = plain(evidence, raw, 9)
    for k, (name, direction) in enumerate(found.items()):
        assert torch.equal(direction.tensor, raw[name]) and direction.n_layers == 9
        assert (direction.layers, direction.layer, direction.chosen_by) == (
            moments.layers,
            None,
            "",
        )
        assert direction.spans == int(moments.counts[0, k])
        assert direction.tasks == len(moments.tasks[name])
        torch.testing.assert_close(direction.mean_norm, moments.mean_norm.float())
        torch.testing.assert_close(direction.norm_of_mean, moments.norm_of_mean.float())
        unit = raw[name].double() / raw[name].double().norm(dim=1, keepdim=True)
        along = np.einsum("ld,ld->l", moments.mean.numpy(), unit.numpy())
        np.testing.assert_allclose(direction.mean_projection, along, rtol=1e-5)
        for curve in ("split_half", "split_half_shuffled", "auroc", "cone", "norm_low"):
            assert getattr(direction, curve) is None


def test_described_ones_have_what_is_known_of_them(evidence: Evidence) -> None:
    moments = evidence.moments
    raw = {n: d.float() for n, d in evidence.directions("mean-difference", "rest").items()}
    areas = {"deduction": torch.tensor([0.4, 0.8], dtype=torch.float64)}
    suggestion = by_areas(list(raw), areas, moments.layers)
    found = described(
        evidence, "mean-difference", "rest", plain(evidence, raw, 2), areas, suggestion
    )
    halves, mixed = split_half(moments, "rest"), split_half_shuffled(moments, "rest")
    cones, lengths = cone(moments, "rest"), norm_interval(moments, "rest")
    for name, direction in found.items():
        assert torch.equal(direction.split_half, halves[name].float())
        assert torch.equal(direction.split_half_shuffled, mixed[name].float())
        assert torch.equal(direction.cone, cones[name].float())
        assert torch.equal(direction.norm_low, lengths[name][:, 1].float())
        assert torch.equal(direction.norm_high, lengths[name][:, 2].float())
    assert (found["deduction"].layer, found["deduction"].chosen_by) == (1, "auroc")
    assert (found["backtracking"].layer, found["backtracking"].chosen_by) == (None, "")
    torch.testing.assert_close(found["deduction"].auroc, areas["deduction"].float())
    assert found["backtracking"].auroc is None


@pytest.mark.parametrize(("methods", "kept"), [(["mean-difference"], 0), (["pca", "mass-mean"], 1)])
def test_gathering_keeps_what_the_methods_need_and_no_longer(
    methods: list[str], kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    model, traces = tiny_model(), tiny_traces(20)
    with gathered(model, traces, methods, layers=[0, 2]) as found:
        assert len(list(tmp_path.rglob("span_means.npy"))) == kept
        assert (found.samples is not None) == bool(kept)
        assert found.moments.covariance == ("mass-mean" in methods)
        expected = collect(model, traces, layers=[0, 2])
        assert torch.equal(contrast(found.moments), contrast(expected))
        for method in methods:
            assert found.directions(method, "rest")["deduction"].shape == (2, model.d_model)
    assert list(tmp_path.iterdir()) == []  # the file goes with the block
    with pytest.raises(RuntimeError, match="stop"):
        with gathered(model, traces, methods, layers=[LAYERS - 1]):
            raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
