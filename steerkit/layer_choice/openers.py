"""Openers: how a direction moves the log-probability of a behaviour's own first tokens.

At the boundary before a span the model chooses how to go on. A direction that carries a
behaviour raises the log-probability of the first token of its spans where they begin, and not
that of other spans where those begin. Its slope at the unsteered point is had for all layers by
one backward pass a label; what a real step does is measured in :mod:`.steps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.layer_choice.forcing import Forced, last_states, log_probabilities
from steerkit.models import ThinkingModel

Sums = dict[str, dict[str, Float[Tensor, "row layer"]]]


def opener_slopes(
    model: ThinkingModel,
    forced: Forced,
    directions: Mapping[str, Float[Tensor, "layer d_model"]],
    layers: Sequence[int],
) -> Sums:
    """d/dc of openers' log-probabilities for h + c d at every thinking position, at c = 0.

    By behaviour, ``[row, layer]`` sums over the row's boundaries in nats per unit of c: ``own``
    (those of the behaviour), ``other`` (the rest), with their numbers ``n_own`` and
    ``n_other`` (``[row, 1]``); and ``published``.

    ``published`` is the score of Venhoff et al. 2025 (arXiv 2506.18167) as their code computes
    it. It means to be the gradient of KL(p, p) along the direction, which is zero, for no
    distribution differs from itself to first order. PyTorch's ``kl_div`` was given
    log-probabilities for a target without being told so, and the gradient that is left is that
    of sum_v -log p_v(fixed) log p_v over the vocabulary: how far the direction lifts the
    log-probabilities of unlikely tokens, weighted by how unlikely they are. It is here for
    comparison, as an absolute value, per thinking position.
    """
    with torch.enable_grad(), ExitStack() as stack:
        kept: dict[int, Tensor] = {}

        def keep(layer: int, hidden: Tensor) -> Tensor | None:
            # the graph begins at the lowest layer that is asked about
            first = not kept
            kept[layer] = hidden.detach().requires_grad_(True) if first else hidden
            return kept[layer] if first else None

        for layer in layers:
            stack.enter_context(
                model.residual.hooked(layer, lambda hidden, hook, at=layer: keep(at, hidden))
            )
        states = last_states(model, forced)
        inputs = [kept[layer] for layer in layers]
        mask = forced.thinking.to(states.device)
        vectors = {n: d.to(states.device).float() for n, d in directions.items()}
        found: Sums = {name: {} for name in directions}
        if forced.boundaries:
            chosen = opener_log_probabilities(model, forced, states)
            every = _slopes(chosen.sum(), inputs, mask, vectors)
            for name in directions:
                own = torch.tensor([label == name for *_, label in forced.boundaries])
                mine = _slopes((chosen * own.to(chosen.device)).sum(), inputs, mask, vectors)
                found[name]["own"] = mine[name]
                found[name]["other"] = every[name] - mine[name]
        thinking = states[mask]
        loss = torch.zeros((), device=thinking.device)
        for part in thinking.split(256):
            logs = log_probabilities(model, part)
            loss = loss - (logs.detach() * logs).sum()
        published = _slopes(loss, inputs, mask, vectors)
    for name in directions:
        found[name]["published"] = published[name]
        found[name].setdefault("own", torch.zeros(len(forced.ids), len(layers)))
        found[name].setdefault("other", torch.zeros(len(forced.ids), len(layers)))
        found[name] |= boundary_counts(forced, name)
    return found


def boundary_counts(forced: Forced, name: str) -> dict[str, Float[Tensor, "row 1"]]:
    """Boundaries of a behaviour and of others in every row: ``n_own``, ``n_other``."""
    counts = torch.zeros(len(forced.ids), 2)
    for row, *_, label in forced.boundaries:
        counts[row, int(label != name)] += 1
    return {"n_own": counts[:, :1], "n_other": counts[:, 1:]}


def opener_log_probabilities(
    model: ThinkingModel, forced: Forced, states: Tensor
) -> Float[Tensor, " boundary"]:
    """Of every span's first token at the position before it."""
    rows, at, ids, _ = zip(*forced.boundaries, strict=True)
    before = states[list(rows), list(at)]
    logs = log_probabilities(model, before)
    return logs.gather(1, torch.tensor(ids, device=logs.device)[:, None])[:, 0]


def _slopes(
    value: Tensor, inputs: Sequence[Tensor], mask: Tensor, vectors: Mapping[str, Tensor]
) -> dict[str, Float[Tensor, "row layer"]]:
    """Derivative of ``value`` along every direction at the masked positions, by row and layer."""
    gradients = torch.autograd.grad(value, inputs, retain_graph=True)
    sums = [(g.float() * mask[..., None]).sum(dim=1) for g in gradients]  # [row, d_model]
    return {
        name: torch.stack([total @ vector[i] for i, total in enumerate(sums)], dim=1).cpu()
        for name, vector in vectors.items()
    }
