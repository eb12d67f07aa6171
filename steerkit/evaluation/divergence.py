"""Divergence: how far steering moves the model's predictions, and how likely its text is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.layer_choice.forcing import (
    AT_ONCE,
    Forced,
    divergences,
    forced_batches,
    last_states,
    log_probabilities,
)
from steerkit.models import ThinkingModel
from steerkit.terms import as_terms
from steerkit.traces import Trace

_BATCH = {"cpu": 2048}


def kl_on_unsteered(
    model: ThinkingModel,
    traces: Sequence[Trace],
    term: object,
    *,
    batch_tokens: int | None = None,
) -> pd.DataFrame:
    """KL(p0 || pc), nats a token, on unsteered chains by teacher forcing.

    How far steering moves what the model foretells where it would have been without steering;
    p0 is unsteered, pc steered, both over the whole vocabulary at temperature 1. The mean is
    over all tokens of a response that are there, the answer's too; what ended it is not among
    them. Two forward passes over every chain.

    Parameters
    ----------
    model:
        The model that wrote the chains.
    traces:
        Chains that were written without steering; what is beyond the context is left out.
    term:
        A direction, a term or several, as for :func:`steerkit.generation.generate`.
    batch_tokens:
        Positions in a batch, padding included; by default 2,048 on a CPU and 8,192 elsewhere.

    Returns
    -------
    One row a chain, in their order: ``trace``, ``task``, ``tokens`` (generated tokens that
    were scored; 0 where a chain has none), ``kl`` (missing then).

    Raises :class:`SteeringError` and :class:`VectorsError` for terms that cannot be applied.
    """
    return _divergence(model, traces, term, batch_tokens, onto_steered=False)


def kl_on_steered(
    model: ThinkingModel,
    traces: Sequence[Trace],
    term: object,
    *,
    batch_tokens: int | None = None,
) -> pd.DataFrame:
    """KL(pc || p0), nats a token, on chains that were written under ``term``.

    The mean over their tokens estimates, without bias at temperature 1, how much likelier in
    nats a token the steered model finds its own text than the unsteered one does. It grows
    with every step of a chain that has left the unsteered model's ground: it is not
    :func:`kl_on_unsteered` seen from the other side. Parameters, result and errors are those
    of :func:`kl_on_unsteered`.
    """
    return _divergence(model, traces, term, batch_tokens, onto_steered=True)


def perplexity(
    model: ThinkingModel, traces: Sequence[Trace], *, batch_tokens: int | None = None
) -> pd.DataFrame:
    """Perplexity of generated text under the unsteered model: exp of nats a token.

    Over all tokens of a response that are there, each given the prompt and all before it. Text
    that goes round in circles has a low one: read it beside the measures of repetition.

    Returns
    -------
    One row a chain, in their order: ``trace``, ``task``, ``tokens``, ``perplexity`` (1 or more;
    missing for a chain without tokens).
    """

    def surprise(forced: Forced) -> Float[Tensor, " position"]:
        states = last_states(model, forced)
        mask = forced.written.to(states.device)
        nexts = torch.cat([forced.ids[:, 1:], forced.ids[:, :1]], dim=1).to(states.device)[mask]
        states = states[mask]
        found = [torch.zeros(0, device=states.device)]
        for first in range(0, len(states), AT_ONCE):
            here = slice(first, first + AT_ONCE)
            logs = log_probabilities(model, states[here])
            found.append(-logs.gather(1, nexts[here, None])[:, 0])
        return torch.cat(found)

    table = _by_chain(model, traces, batch_tokens, surprise, "perplexity")
    table["perplexity"] = np.exp(table["perplexity"])
    return table


def _divergence(
    model: ThinkingModel,
    traces: Sequence[Trace],
    term: object,
    batch_tokens: int | None,
    *,
    onto_steered: bool,
) -> pd.DataFrame:
    terms = as_terms(term)

    def moved(forced: Forced) -> Float[Tensor, " position"]:
        plain, steered = last_states(model, forced), last_states(model, forced, terms)
        mask = forced.written.to(plain.device)
        pair = (steered[mask], plain[mask]) if onto_steered else (plain[mask], steered[mask])
        return divergences(model, *pair)

    return _by_chain(model, traces, batch_tokens, moved, "kl")


def _by_chain(
    model: ThinkingModel,
    traces: Sequence[Trace],
    batch_tokens: int | None,
    score: Callable[[Forced], Tensor],
    name: str,
) -> pd.DataFrame:
    """Means over every chain's tokens of a score that is given for the written positions."""
    size = batch_tokens or _BATCH.get(model.device.type, 8192)
    sums, tokens = np.zeros(len(traces)), np.zeros(len(traces), dtype=np.int64)
    with model.inference():
        for forced in forced_batches(
            model, traces, tokens=None, batch_tokens=size, thoughtless=True
        ):
            rows = forced.written.nonzero()[:, 0]
            total = torch.zeros(len(forced.ids), dtype=torch.float64)
            total.index_add_(0, rows, score(forced).cpu().double())
            sums[list(forced.numbers)] = total.numpy()
            tokens[list(forced.numbers)] = forced.written.sum(dim=1).numpy()
    means = np.divide(sums, tokens, out=np.full(len(traces), np.nan), where=tokens > 0)
    return pd.DataFrame(
        {
            "trace": [trace.id for trace in traces],
            "task": [trace.task_id for trace in traces],
            "tokens": tokens,
            name: means,
        }
    )
