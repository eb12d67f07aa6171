"""Openers: how a direction moves the log-probability of a behaviour's own first tokens.

At the boundary before a span the model chooses how to go on. A direction that carries a
behaviour raises the log-probability of the first token of its spans where they begin, and not
that of other spans where those begin. Its slope at the unsteered point is had for all layers by
one backward pass a label; what a real step does is measured in :mod:`.steps`. The two differ in
where they push: slopes are taken at thinking positions only, so that no prompt decides, while a
step, like generation by default, pushes at every position, those of the prompt among them.
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
    *,
    published: bool = False,
) -> Sums:
    """d/dc of openers' log-probabilities for h + c d at every thinking position, at c = 0.

    Positions of the prompt are left alone, unlike in a step (:mod:`.steps`).

    By behaviour, ``[row, layer]`` sums over the row's boundaries in nats per unit of c: ``own``
    (those of the behaviour), ``other`` (the rest), with their numbers ``n_own`` and
    ``n_other`` (``[row, 1]``); and, where asked for, ``published``.

    There is one backward pass for every behaviour of ``directions`` that has a boundary here,
    and one for all other boundaries together.

    ``published`` is the score of Venhoff et al. 2025 (arXiv 2506.18167) as their code computes
    it. It means to be the gradient of KL(p, p) along the direction, which is zero, for no
    distribution differs from itself to first order. PyTorch's ``kl_div`` was given
    log-probabilities for a target without being told so, and the gradient that is left is that
    of sum_v -log p_v(fixed) log p_v over the vocabulary: how far the direction lifts the
    log-probabilities of unlikely tokens, weighted by how unlikely they are. It is here for
    comparison, as an absolute value, per thinking position.

    Raises PyTorch's ``RuntimeError`` where the model cannot be differentiated.
    """
    # a caller may be in inference mode, in which enable_grad alone does nothing
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
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
        # of every group of boundaries, what all directions do to it
        slopes: dict[str | None, dict[str, Tensor]] = {}
        if forced.boundaries:
            chosen = opener_log_probabilities(model, forced, states)
            groups = [label if label in directions else None for *_, label in forced.boundaries]
            for group in dict.fromkeys(groups):
                mine = torch.tensor([g == group for g in groups], device=chosen.device)
                slopes[group] = _slopes(chosen[mine].sum(), inputs, mask, vectors)
        if published:
            thinking = states[mask]
            loss = torch.zeros((), device=thinking.device)
            for part in thinking.split(256):
                logs = log_probabilities(model, part)
                loss = loss - (logs.detach() * logs).sum()
            lifted = _slopes(loss, inputs, mask, vectors)
    found: Sums = {}
    for name in directions:
        nothing = torch.zeros(len(forced.ids), len(layers))
        others = [found_by[name] for group, found_by in slopes.items() if group != name]
        found[name] = {
            "own": slopes[name][name] if name in slopes else nothing,
            "other": torch.stack(others).sum(dim=0) if others else nothing,
            **boundary_counts(forced, name),
        }
        if published:
            found[name]["published"] = lifted[name]
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
    # a model that is spread over devices keeps each layer's states on its own
    sums = [
        (g.float() * mask.to(g.device)[..., None]).sum(dim=1).to(mask.device) for g in gradients
    ]
    return {
        name: torch.stack([total @ vector[i] for i, total in enumerate(sums)], dim=1).cpu()
        for name, vector in vectors.items()
    }
