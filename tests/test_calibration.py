"""Calibration: norms are those of a plain forward pass, and what has moved is said."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import steerkit as sk
from steerkit.calibration import calibrate
from steerkit.errors import ExtractionError, VectorsError
from steerkit.published import read_published
from steerkit.traces import Traces
from steerkit.vectors import SteeringVectors
from steerkit.vectors_file import read_vectors
from tests.test_published import means, written
from tests.test_residual import hooks_in
from tests.tiny import LAYERS, tiny_model, tiny_traces


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def vectors(tmp_path) -> SteeringVectors:
    return read_published(written(means(), tmp_path / "means.pt"), layers=1)


def plain_states(model, traces) -> np.ndarray:
    """Every thinking position's hidden state, float64 [layer, position, d_model]."""
    found = []
    for trace in traces:
        chain = model.align(trace)
        with torch.no_grad():
            states = model.hf(input_ids=torch.tensor([chain.ids]), output_hidden_states=True)
            # Hugging Face's last entry is after the final norm; the layer's own output is read
            last = []
            with model.residual.hooked(LAYERS - 1, lambda h, hook, last=last: last.append(h)):
                model.residual(input_ids=torch.tensor([chain.ids]), use_cache=False)
        layers = [*states.hidden_states[1:LAYERS], last[0]]
        start, end = chain.thinking
        found.append(torch.stack([h[0, start:end] for h in layers]).double().numpy())
    return np.concatenate(found, axis=1)


def bare(traces) -> Traces:
    return Traces(replace(trace, spans=()) for trace in traces)


def test_norms_are_those_of_a_plain_pass_and_need_no_annotation(model, vectors) -> None:
    traces = bare(tiny_traces(9))
    found = vectors.calibrate(model, traces, batch_tokens=150)
    states = plain_states(model, traces)
    norms = np.linalg.norm(states, axis=2)
    mean = states.mean(axis=1)
    for name, direction in found.items():
        np.testing.assert_allclose(direction.mean_norm, norms.mean(axis=1), rtol=1e-5)
        np.testing.assert_allclose(direction.norm_of_mean, np.linalg.norm(mean, axis=1), rtol=1e-5)
        raw = vectors[name].tensor.double().numpy()
        along = (mean * raw).sum(axis=1) / np.linalg.norm(raw, axis=1)
        np.testing.assert_allclose(direction.mean_projection, along, rtol=1e-3, atol=1e-4)
        # positive control: it is not what the file said
        assert not torch.allclose(direction.norm_of_mean, vectors[name].norm_of_mean)
        assert torch.equal(direction.tensor, vectors[name].tensor)
        assert direction.layer == 1 and direction.spans == vectors[name].spans
    assert hooks_in(model.residual) == 0


def test_norms_are_those_that_extraction_measures(model, vectors) -> None:
    traces = tiny_traces(12)
    own = sk.extract(model, traces, select=Traces())["backtracking"]
    found = calibrate(vectors, model, traces)["backtracking"]
    torch.testing.assert_close(found.mean_norm, own.mean_norm)
    torch.testing.assert_close(found.norm_of_mean, own.norm_of_mean)


def test_the_unit_is_norm_from_then_on(model, vectors) -> None:
    found = vectors.calibrate(model, tiny_traces(3))
    direction = found["backtracking"]
    assert direction.calibrated and (0.3 * direction).unit == "norm"
    assert direction.mean_norm is not None
    torch.testing.assert_close(direction.vector(1).norm(), direction.mean_norm[1])
    # a term made before keeps its unit, and the vectors that were calibrated are as before
    assert (0.3 * vectors["backtracking"]).unit == "paper"
    assert not vectors["backtracking"].calibrated and "calibration" not in vectors.provenance


def test_provenance_says_by_what_and_comes_back(model, vectors, tmp_path: Path) -> None:
    traces = tiny_traces(5)
    found = vectors.calibrate(model, traces)
    facts = found.provenance["calibration"]
    assert facts["model"] == model.name and len(facts["traces"]) == len(facts["tasks"]) == 5
    assert facts["tokens"] == plain_states(model, traces).shape[1]
    assert facts["counts"] == {"chains": 5}
    assert {k: v for k, v in found.provenance.items() if k != "calibration"} == vectors.provenance
    path = found.save(tmp_path / "v")
    assert read_vectors(path).save(tmp_path / "w").read_bytes() == path.read_bytes()
    again = vectors.calibrate(model, traces).save(tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()
    assert read_vectors(path)["backtracking"].calibrated


@pytest.mark.parametrize(
    ("factors", "warns"),
    [((1, 1, 1), False), ((1.15, 0.9, 5.0), False), ((1.5, 1.5, 1.0), True), ((0.5,) * 3, True)],
)
def test_a_norm_that_has_moved_at_the_median_layer_is_said(
    model, vectors, caplog, factors, warns
) -> None:
    traces = tiny_traces(4)
    true = vectors.calibrate(model, traces)
    moved = {
        name: replace(d, norm_of_mean=d.norm_of_mean / torch.tensor(factors))
        for name, d in true.items()
    }
    caplog.clear()
    with caplog.at_level(logging.WARNING, "steerkit"):
        SteeringVectors(moved, {}).calibrate(model, traces)
    said = [record for record in caplog.records if "norm of the mean" in record.message]
    assert len(said) == warns
    if warns:
        assert f"{factors[0]:.2f} times" in said[0].message and model.name in said[0].message


def test_directions_of_some_layers_are_calibrated_at_those(model, vectors) -> None:
    whole = vectors["backtracking"]
    part = replace(
        whole,
        tensor=whole.tensor[[2, 0]],
        layers=(2, 0),
        layer=None,
        norm_of_mean=whole.norm_of_mean[[2, 0]],
        mean_projection=None,
    )
    traces = tiny_traces(4)
    both = SteeringVectors({"backtracking": part, "deduction": vectors["deduction"]}, {})
    found, full = both.calibrate(model, traces), vectors.calibrate(model, traces)
    for layer in (2, 0):
        torch.testing.assert_close(
            found["backtracking"].vector(layer), full["backtracking"].vector(layer)
        )
    assert found["deduction"].mean_norm is not None and len(found["deduction"].mean_norm) == 3


def test_what_cannot_calibrate_is_refused(model, vectors) -> None:
    with pytest.raises(VectorsError, match="do not fit"):
        vectors.calibrate(tiny_model(num_hidden_layers=2), tiny_traces(2))
    with pytest.raises(ExtractionError, match="no thinking position"):
        vectors.calibrate(model, Traces())


def ranged(vectors: SteeringVectors, on: str | None) -> SteeringVectors:
    """The vectors with a range of each, found on a model of that name."""
    directions = {n: replace(d, fluent=(-2.0, 1.0), free=(-1.0, 0.5)) for n, d in vectors.items()}
    facts = {"tasks": 3, "annotator": None, **({} if on is None else {"model": on})}
    return SteeringVectors(directions, {**vectors.provenance, "ranges": facts})


def test_ranges_push_as_far_after_calibration_and_generation_warns_beyond_them(
    model, vectors, caplog
) -> None:
    before = ranged(vectors, model.name)
    found = before.calibrate(model, tiny_traces(4))
    old, new = before["backtracking"], found["backtracking"]
    assert old.default_unit == "paper" and new.default_unit == "norm"
    assert old.fluent and new.fluent and new.free
    for c, limit in zip(old.fluent, new.fluent, strict=True):
        assert limit != pytest.approx(c, rel=0.05)  # positive control: the unit is another
        torch.testing.assert_close(limit * new.vector(1), c * old.vector(1))
    assert new.free == pytest.approx([limit / 2 for limit in new.fluent])
    assert found.provenance["ranges"] == before.provenance["ranges"]
    # once more changes nothing, for the norms are those that it has
    again = found.calibrate(model, tiny_traces(4))["backtracking"]
    assert again.fluent == pytest.approx(new.fluent)
    for direction in (old, new):  # either is warned of in its own unit, and only beyond its range
        high = direction.fluent[1]
        for share, warned in ((0.9, 0), (1.1, 1)):
            caplog.clear()
            model.generate("Use 3 to make 3.", steer=share * high * direction, max_new_tokens=2)
            assert caplog.text.count("outside the range") == warned
    caplog.clear()
    model.generate("Use 3 to make 3.", steer=(9.0 * new).at(unit="one"), max_new_tokens=2)
    assert "outside the range" not in caplog.text  # nothing is known of another unit


@pytest.mark.parametrize("on", ["another model", None])
def test_ranges_of_another_model_are_cleared_and_said(model, vectors, caplog, on) -> None:
    before = ranged(vectors, on)
    with caplog.at_level(logging.WARNING, "steerkit"):
        found = before.calibrate(model, tiny_traces(3))
    assert all(d.fluent is None and d.free is None for d in found.values())
    assert "ranges" not in found.provenance and "ranges" in before.provenance
    assert f"found on {on or 'an unknown model'} and are cleared" in caplog.text
