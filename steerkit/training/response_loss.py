"""The loss of responses: cross entropy in nats per token, prompts not counted."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import TrainingError
from steerkit.memory import MEMORY_ERRORS, out_of_memory
from steerkit.models import ThinkingModel
from steerkit.training.batches import IGNORED, Example, collate
from steerkit.training.chat_examples import micro_batches


def backward(model: ThinkingModel, examples: Sequence[Example], batch_tokens: int) -> float:
    """Add the gradient of the mean loss over all response tokens; the loss in nats per token.

    The examples run in parts of at most ``batch_tokens`` positions, whose gradients add up to
    that of the whole. Raises :class:`TrainingError` where a part does not fit in memory.
    """
    total = _response_tokens(examples)
    summed = 0.0
    for part in micro_batches(examples, batch_tokens):
        try:
            loss = summed_loss(model, part)
            (loss / total).backward()
        except MEMORY_ERRORS as problem:
            if not out_of_memory(problem):
                raise
            width = max(len(ids) for ids, _ in part)
            raise TrainingError(
                "out of memory",
                found=f"{len(part)} chains of up to {width} tokens in one pass",
                fix="lower --batch-tokens, or --longest where it was one chain alone",
            ) from None
        summed += loss.item()
    return summed / total


def mean_loss(model: ThinkingModel, examples: Sequence[Example], batch_tokens: int) -> float | None:
    """The loss without gradients and dropout, in nats per token; ``None`` without examples."""
    if not examples:
        return None
    with model.inference():
        parts = micro_batches(examples, batch_tokens)
        summed = sum(summed_loss(model, part).item() for part in parts)
    return summed / _response_tokens(examples)


def summed_loss(model: ThinkingModel, batch: Sequence[Example]) -> Float[Tensor, ""]:
    """Summed cross entropy of the response tokens of some examples, in nats."""
    ids, labels = (part.to(model.device) for part in collate(list(batch), model.pad_id))
    targets = labels[:, 1:]
    # the LM head is as much work as many layers: it only runs where something is predicted
    kept = (targets != IGNORED).any(dim=0).nonzero().flatten()
    # padding stands on the right of a causal model: no attention mask is needed
    if "logits_to_keep" in inspect.signature(model.hf.forward).parameters:
        logits = model.hf(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
    else:
        logits = model.hf(input_ids=ids, use_cache=False).logits[:, kept]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(),
        targets[:, kept].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )


def _response_tokens(examples: Sequence[Example]) -> int:
    return sum(len(ids) - max(start, 1) for ids, start in examples)
