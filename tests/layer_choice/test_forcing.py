"""Teacher forcing against a plain forward pass."""

from __future__ import annotations

import pytest
import torch

from steerkit.layer_choice.forcing import forced_batches, last_states, log_probabilities
from steerkit.layer_choice.openers import opener_slopes
from steerkit.layer_choice.steps import step_effects
from steerkit.models import ThinkingModel
from steerkit.positions import THINK
from steerkit.terms import Term, as_terms
from steerkit.vectors import Direction
from tests.test_decoding import hooks
from tests.test_steering import direction
from tests.tiny import LAYERS, tiny_model, tiny_traces

LABEL = "backtracking"


@pytest.fixture(scope="module")
def model() -> ThinkingModel:
    return tiny_model()


@pytest.fixture(scope="module")
def forced(model):
    (batch,) = forced_batches(model, tiny_traces(4), tokens=400, batch_tokens=4000)
    return batch


def plain_logs(model: ThinkingModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(input_ids=ids, use_cache=False).logits.double().log_softmax(dim=-1)


def pushed_logs(model: ThinkingModel, forced, term: Term) -> torch.Tensor:
    """Log-probabilities with h + c d at thinking positions, by a plain PyTorch hook."""
    (layer,) = term.resolved_layers()
    edit = term.coefficient * term.direction.vector(layer, term.unit)
    mask = (
        (forced.positions.phase == THINK) if term.where == "think" else forced.positions.index >= 0
    )

    def push(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden + mask[..., None] * edit
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = model.hf.get_decoder().layers[layer].register_forward_hook(push)
    try:
        return plain_logs(model, forced.ids)
    finally:
        handle.remove()


def openers(forced, logs: torch.Tensor, label: str) -> tuple[list[float], list[float]]:
    """Log-probabilities of first tokens of spans of a label, and of the others', one by one."""
    own, other = [], []
    for row, at, token, found in forced.boundaries:
        (own if found == label else other).append(float(logs[row, at, token]))
    return own, other


def test_batches_hold_every_chain_and_its_boundaries(model) -> None:
    traces = tiny_traces(7)
    batches = list(forced_batches(model, traces, tokens=400, batch_tokens=150))
    assert len(batches) > 1
    assert sorted(t for b in batches for t in b.tasks) == sorted(t.task_key for t in traces)
    aligned = {model.align(t).task_key: model.align(t) for t in traces}
    for batch in batches:
        assert batch.ids.numel() <= 150 or len(batch.ids) == 1
        for row, task in enumerate(batch.tasks):
            chain = aligned[task]
            assert batch.ids[row, : len(chain.ids)].tolist() == list(chain.ids)
            mine = [(at, token, label) for r, at, token, label in batch.boundaries if r == row]
            assert mine == [(s - 1, chain.ids[s], label) for s, _, label in chain.spans if s > 0]
            assert int(batch.thinking[row].sum()) == int((chain.phases == THINK).sum())


def test_chains_are_cut(model) -> None:
    (whole,) = forced_batches(model, tiny_traces(2), tokens=400, batch_tokens=4000)
    (part,) = forced_batches(model, tiny_traces(2), tokens=50, batch_tokens=4000)
    assert part.ids.shape[1] == 50 < whole.ids.shape[1]
    assert 0 < len(part.boundaries) < len(whole.boundaries)
    assert list(forced_batches(model, tiny_traces(2), tokens=2, batch_tokens=4000)) == []


def test_log_probabilities_are_those_of_the_whole_model(model, forced) -> None:
    states = last_states(model, forced)
    found = log_probabilities(model, states.reshape(-1, states.shape[-1]))
    expected = plain_logs(model, forced.ids).reshape(len(found), -1)[:, : found.shape[1]]
    torch.testing.assert_close(
        found[forced.thinking.flatten()].double(),
        expected[forced.thinking.flatten()],
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_step_does_what_a_plain_hook_does(model, forced) -> None:
    directions = {LABEL: direction(1), "deduction": direction(2, name="deduction")}
    before = hooks(model)
    found = step_effects(model, forced, directions, [0, 2], 0.3)
    assert hooks(model) == before
    base = plain_logs(model, forced.ids)
    for name, d in directions.items():
        for i, layer in enumerate((0, 2)):
            logs = pushed_logs(model, forced, 0.3 * d.at(layer=layer))
            divergence = (base.exp() * (base - logs)).sum(dim=-1) * forced.thinking
            mine = found[name]["divergence"][:, i].double()
            torch.testing.assert_close(mine, divergence.sum(dim=1), rtol=1e-3, atol=1e-4)
            for part, k in (("own", 0), ("other", 1)):
                rise = sum(openers(forced, logs, name)[k]) - sum(openers(forced, base, name)[k])
                assert float(found[name][part][:, i].sum()) == pytest.approx(rise, abs=1e-3)
        own, other = openers(forced, base, name)
        assert float(found[name]["n_own"].sum()) == len(own) > 0
        assert float(found[name]["n_other"].sum()) == len(other)
    randoms = [pushed_logs(model, forced, 0.3 * direction(1).random(s).at(layer=2)) for s in (0, 1)]
    mean = sum((base.exp() * (base - logs)).sum(dim=-1) for logs in randoms) / 2
    mine, theirs = found[LABEL]["random"][:, 1].double(), (mean * forced.thinking).sum(dim=1)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_no_step_has_no_effect(model, forced) -> None:
    found = step_effects(model, forced, {LABEL: direction(1)}, [1], 0.0)[LABEL]
    for part in ("divergence", "own", "other", "random"):
        assert not bool(found[part].any())


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
    found = opener_slopes(model, forced, {n: d.tensor for n, d in directions.items()}, layers)
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


def test_terms_act_where_they_say(model, forced) -> None:
    term = 0.3 * direction(1).at(layer=1, where="think")
    states = last_states(model, forced, as_terms(term))
    found = log_probabilities(model, states[forced.thinking])
    expected = pushed_logs(model, forced, term)[forced.thinking][:, : found.shape[1]]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
