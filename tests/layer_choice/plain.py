"""What teacher forcing is checked against: plain forward passes and plain hooks."""

from __future__ import annotations

import torch

from steerkit.models import ThinkingModel
from steerkit.positions import THINK
from steerkit.terms import Term

LABEL = "backtracking"


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
