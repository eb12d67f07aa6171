"""Suggestion: the layer of the largest score, and AUROC's where there is no gradient."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

import steerkit as sk
from steerkit.cli.extract import CHOICES as SHOWN
from steerkit.errors import ExtractionError
from steerkit.layer_choice import suggestion as module
from steerkit.layer_choice.curves import forced_curves
from steerkit.layer_choice.suggestion import (
    CHAINS,
    CHOICES,
    DEFAULT_SCORE,
    by_areas,
    chains_to_score,
    check_choice,
    suggest_layers,
    without_gradient,
)
from steerkit.traces import Traces
from tests.test_steering import direction
from tests.tiny import LAYERS, tiny_hf, tiny_model, tiny_traces

AREAS = {
    "backtracking": torch.tensor([0.5, 0.6, 0.9], dtype=torch.float64),
    "deduction": torch.tensor([0.9, 0.6, 0.5], dtype=torch.float64),
}


def directions(*names: str):
    return {n: direction(i, name=n) for i, n in enumerate(names or AREAS)}


def test_the_layer_is_where_the_slope_is_largest(model) -> None:
    traces, found = tiny_traces(8), directions()
    suggested = suggest_layers(model, found, traces, range(LAYERS), AREAS)
    curves = forced_curves(model, found, traces, range(LAYERS), ["gradient"])["gradient"]
    assert suggested.layers == {n: int(curves[n][:, 0].argmax()) for n in found}
    assert set(suggested.chosen_by.values()) == {"gradient"}
    assert suggested.facts == {"score": "gradient", "chains": 8, "tokens": 384}
    # positive control: reversed directions have their largest slope where it was least
    back = {n: replace(d, tensor=-d.tensor) for n, d in found.items()}
    reverse = suggest_layers(model, back, traces, range(LAYERS), AREAS)
    assert reverse.layers == {n: int(curves[n][:, 0].argmin()) for n in found}


def test_auroc_needs_no_model(model) -> None:
    suggested = suggest_layers(model, directions(), (), range(LAYERS), AREAS, score="auroc")
    assert suggested == by_areas(list(AREAS), AREAS, range(LAYERS))
    assert suggested.layers == {"backtracking": 2, "deduction": 0}
    assert suggested.facts == {"score": "auroc"}


def test_what_the_chains_do_not_tell_from_others_has_no_layer(model) -> None:
    found = directions("backtracking", "deduction", "initializing")
    suggested = suggest_layers(model, found, tiny_traces(8), range(LAYERS), AREAS)
    assert suggested.layers["initializing"] is None and suggested.chosen_by["initializing"] == ""
    none = suggest_layers(model, found, tiny_traces(8), range(LAYERS), {})
    assert set(none.layers.values()) == {None} and set(none.chosen_by.values()) == {""}


def test_a_behaviour_that_the_scored_chains_lack_is_left_to_auroc(model, caplog) -> None:
    bare = Traces(
        t.with_spans([s for s in t.spans if s.label != "backtracking"], None)
        for t in tiny_traces(8)
    )
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        suggested = suggest_layers(model, directions(), bare, range(LAYERS), AREAS)
    assert suggested.chosen_by == {"backtracking": "auroc", "deduction": "gradient"}
    assert suggested.layers["backtracking"] == 2
    assert "the layer of backtracking is chosen by auroc" in caplog.text


def no_backward(model):
    """A model with a kernel that PyTorch cannot differentiate."""
    plain = model.hf.model.layers[1].forward

    def forward(*args, **kwargs):
        with torch.no_grad():
            return plain(*args, **kwargs)

    model.hf.model.layers[1].forward = forward
    return model


@pytest.mark.parametrize("kind", ["inference", "kernel", "offloaded", "memory"])
def test_a_model_without_a_backward_pass_is_left_to_auroc(kind, caplog, monkeypatch) -> None:
    model = tiny_model()
    if kind == "inference":
        with torch.inference_mode():
            model.hf.model.norm.weight = torch.nn.Parameter(
                model.hf.model.norm.weight.clone(), requires_grad=False
            )
        reason = "its weights are inference tensors"
    elif kind == "kernel":
        model = no_backward(model)
        reason = "it could not be differentiated"
    elif kind == "offloaded":
        model.hf.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
        reason = "its weights are offloaded"
    else:
        monkeypatch.setattr(
            module,
            "forced_curves",
            lambda *a, **k: (_ for _ in ()).throw(ExtractionError("one chain alone is too long")),
        )
        reason = "one chain alone is too long"
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        suggested = suggest_layers(model, directions(), tiny_traces(8), range(LAYERS), AREAS)
    assert suggested.layers == {"backtracking": 2, "deduction": 0}
    assert set(suggested.chosen_by.values()) == {"auroc"}
    assert suggested.facts == {"score": "auroc", "instead_of": "gradient", "reason": reason}
    assert f"chosen by auroc, not by gradient: tiny-qwen2, {reason}" in caplog.text


def test_what_speaks_against_a_backward_pass() -> None:
    model = tiny_model()
    assert without_gradient(model) == ""
    for places, bad in (
        ({"": "cpu"}, False),
        ({"a": 0, "b": 1}, False),
        ({"a": 0, "b": "cpu"}, True),
        ({"a": "cpu", "b": "disk"}, True),
    ):
        model.hf.hf_device_map = places
        assert bool(without_gradient(model)) == bad


def test_extraction_goes_on_without_a_gradient(caplog) -> None:
    model = no_backward(tiny_model())
    traces = tiny_traces(40)
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        vectors = sk.extract(model, traces)
    plain = sk.extract(tiny_model(), traces, choose_by="auroc")
    assert {n: (d.layer, d.chosen_by) for n, d in vectors.items()} == {
        n: (d.layer, "auroc") for n, d in plain.items()
    }
    assert "not by gradient" in caplog.text
    assert vectors.provenance["layer_choice"]["instead_of"] == "gradient"


def test_weights_that_want_gradients_get_none() -> None:
    """A model in memory may be in training: extraction leaves no gradient behind."""
    from steerkit.training.tokenizer import build_tokenizer

    hf = tiny_hf().train().requires_grad_(True)
    model = sk.load(hf, tokenizer=build_tokenizer())
    vectors = sk.extract(model, tiny_traces(30))
    assert all(weight.grad is None for weight in hf.parameters()) and hf.training
    plain = sk.extract(tiny_model(), tiny_traces(30))
    assert {n: d.layer for n, d in vectors.items()} == {n: d.layer for n, d in plain.items()}


def test_how_many_chains_are_scored() -> None:
    assert chains_to_score(10**9, 6) == CHAINS == 24
    assert chains_to_score(0, 6) == 12
    assert chains_to_score(7 * 384 * 20, 6) == 20


def test_what_layers_can_be_chosen_by() -> None:
    assert set(SHOWN) == set(CHOICES) and SHOWN[0] == DEFAULT_SCORE == "gradient"
    with pytest.raises(ExtractionError, match=r"suggested by 'kl'.*auroc, gradient"):
        check_choice("kl")
    with pytest.raises(ExtractionError, match="steerkit layers"):
        check_choice("sweep")
