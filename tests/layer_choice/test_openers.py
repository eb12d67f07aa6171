"""Slopes of openers: the limit of steps, one backward pass a label."""

from __future__ import annotations

import pytest
import torch

from steerkit.direction import Direction
from steerkit.layer_choice import openers as module
from steerkit.layer_choice.forcing import forced_batches
from steerkit.layer_choice.openers import opener_slopes
from steerkit.models import ThinkingModel
from steerkit.terms import Term
from tests.layer_choice.plain import LABEL, openers, plain_logs, pushed_logs
from tests.test_decoding import hooks
from tests.test_steering import direction
from tests.tiny import LAYERS, tiny_model, tiny_traces


def double_model() -> ThinkingModel:
    """In float64, so that finite differences are exact enough to judge slopes by."""
    model = tiny_model()
    model.hf.double()
    return model


def unit_push(d: Direction, layer: int, size: float) -> Term:
    return size * d.at(layer=layer, where="think", unit="raw")


def test_slopes_are_the_limit_of_steps() -> None:
    model = double_model()
    (forced,) = forced_batches(model, tiny_traces(4), tokens=400, batch_tokens=4000)
    directions = {LABEL: direction(1), "deduction": direction(2, name="deduction")}
    layers = list(range(LAYERS))
    before = hooks(model)
    tensors = {n: d.tensor for n, d in directions.items()}
    found = opener_slopes(model, forced, tensors, layers, published=True)
    assert hooks(model) == before
    base = plain_logs(model, forced.ids)
    size = 4e-3  # the norms compute in float32 whatever the model is in
    for name, d in directions.items():
        for layer in layers:
            up = pushed_logs(model, forced, unit_push(d, layer, size))
            down = pushed_logs(model, forced, unit_push(d, layer, -size))
            for part, k in (("own", 0), ("other", 1)):
                rise = sum(openers(forced, up, name)[k]) - sum(openers(forced, down, name)[k])
                slope = float(found[name][part][:, layer].sum())
                assert slope == pytest.approx(rise / (2 * size), rel=3e-2, abs=2e-2)
            fixed = -base[forced.thinking]
            moved = (fixed * (up - down)[forced.thinking]).sum() / (2 * size)
            published = float(found[name]["published"][:, layer].sum())
            assert published == pytest.approx(float(moved), rel=5e-2, abs=2.0)
            # what it was meant to be is nothing: KL(p, p) has no slope
            meant = (base.exp() * (up - down))[forced.thinking].sum() / (2 * size)
            assert abs(float(meant)) < 0.02 * abs(published)


def test_published_is_there_only_where_it_is_asked_for(model, forced) -> None:
    tensors = {LABEL: direction(1).tensor}
    bare = opener_slopes(model, forced, tensors, range(LAYERS))[LABEL]
    whole = opener_slopes(model, forced, tensors, range(LAYERS), published=True)[LABEL]
    assert set(whole) - set(bare) == {"published"}
    for part in bare:
        torch.testing.assert_close(bare[part], whole[part])


def test_a_pass_for_every_label_asked_about_and_one_for_all_others(
    model, forced, monkeypatch
) -> None:
    passes = []
    plain = module._slopes
    monkeypatch.setattr(module, "_slopes", lambda *parts: passes.append(parts[0]) or plain(*parts))
    labels = {label for *_, label in forced.boundaries}
    assert len(labels) == 5
    asked = {"deduction": direction(1).tensor, LABEL: direction(2).tensor}
    found = opener_slopes(model, forced, asked, range(LAYERS))
    assert len(passes) == 3
    every = opener_slopes(model, forced, dict.fromkeys(labels, asked["deduction"]), range(LAYERS))
    assert len(passes) == 3 + 5
    # one direction, whatever else is asked about: the same slopes
    for part in ("own", "other"):
        torch.testing.assert_close(found["deduction"][part], every["deduction"][part])


def test_rows_without_a_label_give_it_nothing(model) -> None:
    (batch,) = forced_batches(model, tiny_traces(4), tokens=400, batch_tokens=4000)
    absent = "adding-knowledge"
    found = opener_slopes(model, batch, {absent: direction(1).tensor[:2]}, [0, 1])[absent]
    assert not bool(found["own"].any()) and not bool(found["n_own"].any())
    assert bool(found["other"].any())


def test_within_inference_mode_slopes_are_the_same(model, forced) -> None:
    tensors = {LABEL: direction(1).tensor[:2]}
    expected = opener_slopes(model, forced, tensors, [0, 1])[LABEL]
    with torch.inference_mode():
        found = opener_slopes(model, forced, tensors, [0, 1])[LABEL]
    torch.testing.assert_close(found["own"], expected["own"])
