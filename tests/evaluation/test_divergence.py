"""Divergences and perplexities against plain forward passes, chain by chain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from steerkit.errors import VectorsError
from steerkit.evaluation.divergence import kl_on_steered, kl_on_unsteered, perplexity
from steerkit.layer_choice.forcing import forced_batches
from steerkit.models import ThinkingModel
from steerkit.traces import Trace
from tests.layer_choice.test_forcing import plain_logs, pushed_logs
from tests.test_decoding import hooks
from tests.test_steering import direction
from tests.tiny import tiny_model, tiny_traces

TERM = 3.0 * direction(1).at(layer=1, where="think")


@pytest.fixture(scope="module")
def model() -> ThinkingModel:
    return tiny_model()


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return list(tiny_traces(6))


def alone(model: ThinkingModel, trace: Trace):
    """A chain by itself, and the first and last position that foretell its response."""
    (forced,) = forced_batches(model, [trace], tokens=None, batch_tokens=1, thoughtless=True)
    chain = model.align(trace)
    return forced, chain.prompt_length - 1, len(chain.ids) - 1


def test_divergences_are_those_of_plain_passes(model, traces) -> None:
    before = hooks(model)
    found = kl_on_unsteered(model, traces, TERM, batch_tokens=120)
    reverse = kl_on_steered(model, traces, TERM, batch_tokens=120)
    assert hooks(model) == before
    assert list(found.trace) == [t.id for t in traces] and list(found.task) == [
        t.task_id for t in traces
    ]
    for i, trace in enumerate(traces):
        forced, first, last = alone(model, trace)
        p = plain_logs(model, forced.ids)[0, first:last, : model.vocabulary]
        q = pushed_logs(model, forced, TERM)[0, first:last, : model.vocabulary]
        assert found.tokens[i] == reverse.tokens[i] == last - first
        expected = (p.exp() * (p - q)).sum(-1).mean()
        backwards = (q.exp() * (q - p)).sum(-1).mean()
        assert found.kl[i] == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
        assert reverse.kl[i] == pytest.approx(float(backwards), rel=1e-4, abs=1e-6)
    # positive control: the two are not the same, and neither is nothing
    assert (np.abs(found.kl - reverse.kl) > 1e-3).any() and (found.kl > 1e-3).all()


def test_no_steering_is_no_divergence(model, traces) -> None:
    assert (kl_on_unsteered(model, traces, None).kl == 0).all()
    assert (kl_on_steered(model, traces, 0.0 * direction(1)).kl == 0).all()


def test_perplexity_is_that_of_the_loss(model, traces) -> None:
    found = perplexity(model, traces, batch_tokens=120)
    for i, trace in enumerate(traces):
        forced, first, last = alone(model, trace)
        labels = forced.ids.clone()
        labels[:, : first + 1] = -100  # the prompt is given
        with torch.no_grad():
            loss = model.hf(input_ids=forced.ids, labels=labels, use_cache=False).loss
        assert found.perplexity[i] == pytest.approx(float(loss.exp()), rel=1e-4)
        assert found.tokens[i] == last - first
    assert (found.perplexity > 1).all() and found.perplexity.nunique() > 1


def test_batches_change_nothing_and_order_is_kept(model, traces) -> None:
    one = kl_on_unsteered(model, traces, TERM, batch_tokens=1)
    many = kl_on_unsteered(model, traces[::-1], TERM, batch_tokens=100_000)
    pd.testing.assert_frame_equal(one, many[::-1].reset_index(drop=True), rtol=1e-4)


def test_chains_without_tokens_or_thinking_are_there(model, traces) -> None:
    empty = replace(traces[0], id="empty", response="", spans=())
    quick = replace(traces[1], id="quick", response="</think>\n3.", spans=())
    found = kl_on_unsteered(model, [empty, traces[2], quick], TERM)
    assert list(found.trace) == ["empty", traces[2].id, "quick"]
    assert found.tokens[0] == 0 and np.isnan(found.kl[0])
    assert found.tokens[2] > 0 and found.kl[2] > 0
    assert np.isnan(perplexity(model, [empty]).perplexity[0])


def test_sentences_begin_where_they_do_while_a_chain_is_written(model, traces) -> None:
    """A term at sentence starts needs no annotation: the same as a steered plain call."""
    term = 0.8 * direction(2).at(layer=1, where="sentences")
    bare = [replace(trace, spans=()) for trace in traces]
    found = kl_on_unsteered(model, bare, term)
    for i, trace in enumerate(bare):
        forced, first, last = alone(model, trace)
        p = plain_logs(model, forced.ids)[0, first:last, : model.vocabulary]
        with model.steer(term):
            q = plain_logs(model, forced.ids)[0, first:last, : model.vocabulary]
        expected = (p.exp() * (p - q)).sum(-1).mean()
        assert found.kl[i] == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
    everywhere = kl_on_unsteered(model, bare, 0.8 * direction(2).at(layer=1, where="generated"))
    assert (found.kl > 1e-3).all() and (everywhere.kl > 2 * found.kl).any()


def test_terms_that_do_not_fit_are_refused(model, traces) -> None:
    wrong = replace(direction(1), n_layers=7)
    with pytest.raises(VectorsError, match="does not fit"):
        kl_on_unsteered(model, traces, 0.3 * wrong.at(layer=1))
