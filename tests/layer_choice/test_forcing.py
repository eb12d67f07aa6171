"""Teacher forcing against a plain forward pass."""

from __future__ import annotations

import torch

from steerkit.layer_choice.forcing import forced_batches, last_states, log_probabilities
from steerkit.positions import THINK
from steerkit.terms import as_terms
from tests.layer_choice.plain import plain_logs, pushed_logs
from tests.test_steering import direction
from tests.tiny import tiny_traces


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


def test_terms_act_where_they_say(model, forced) -> None:
    term = 0.3 * direction(1).at(layer=1, where="think")
    states = last_states(model, forced, as_terms(term))
    found = log_probabilities(model, states[forced.thinking])
    expected = pushed_logs(model, forced, term)[forced.thinking][:, : found.shape[1]]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_terms_are_those_given_whatever_is_in_force(model, forced) -> None:
    plain = last_states(model, forced)
    with model.steer(2.0 * direction(1).at(layer=1)):
        model.hf(input_ids=forced.ids)  # leaves its edits attached
        assert torch.equal(last_states(model, forced), plain)


def test_halves_are_the_rows_with_their_boundaries(model, forced) -> None:
    first, second = forced.halves()
    assert torch.equal(torch.cat([first.ids, second.ids]), forced.ids)
    assert torch.equal(torch.cat([first.thinking, second.thinking]), forced.thinking)
    assert first.tasks + second.tasks == forced.tasks
    shifted = [(row + len(first.ids), *rest) for row, *rest in second.boundaries]
    assert sorted([*first.boundaries, *shifted]) == sorted(forced.boundaries)
    assert first.boundaries and second.boundaries
