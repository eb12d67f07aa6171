"""The policy gradient of one step: its loss, and its sum over micro-batches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.models import ThinkingModel
from steerkit.training.batches import IGNORED, Example, collate
from steerkit.training.model import quick_backward
from steerkit.training.rollouts import Rollouts

MICRO_BATCH = 4096
"""Tokens, padding included, of which the gradient is computed at once."""


def policy_loss(
    model: ThinkingModel,
    batch: list[Example],
    advantages: Float[Tensor, " row"],
    tokens: int,
    *,
    bf16: bool = False,
) -> Float[Tensor, ""]:
    """-sum_i A_i sum_t log pi(token_it | before) / ``tokens``, over the rows of ``batch``.

    REINFORCE's estimate of the reward's gradient (Williams 1992), with its sign turned, over
    whole chains: no token is weighed by the length of its chain. ``tokens`` is the same
    constant for all batches of a step, its rows times their mean length, so that
    gradients of the batches add up to the step's.
    """
    ids, labels = collate(batch, model.pad_id)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        # padding stands on the right of a causal model: no attention mask is needed
        logits = model.hf(input_ids=ids.to(model.device), use_cache=False).logits[:, :-1]
    # rows of the embedding that are no token have no part in what chains are drawn from
    logits = logits[..., : len(model.tokenizer)].float()
    surprise = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        labels[:, 1:].flatten().to(model.device),
        ignore_index=IGNORED,
        reduction="none",
    )
    by_row = surprise.view(len(batch), -1).sum(dim=1)
    return (advantages.to(model.device) * by_row).sum() / tokens


def add_gradients(
    model: ThinkingModel, rollouts: Rollouts, *, bf16: bool = False, size: int = MICRO_BATCH
) -> float:
    """Add the gradient of a step's loss to the parameters' and return the loss.

    It is the gradient of all rows at once, whatever ``size`` the micro-batches have, but for
    rounding.
    """
    loss = 0.0
    with quick_backward(model.hf):
        for rows in micro_batches(rollouts, size):
            part = policy_loss(
                model,
                [rollouts.examples[row] for row in rows],
                rollouts.advantages[rows],
                rollouts.tokens,
                bf16=bf16,
            )
            part.backward()
            loss += part.item()
    return loss


def micro_batches(rollouts: Rollouts, size: int) -> list[list[int]]:
    """Rows with an advantage, by length, in batches of at most ``size`` tokens with padding.

    The others are left out: their term of the loss is zero, and so is its gradient. A row
    longer than ``size`` has a batch to itself.
    """
    used = rollouts.advantages.nonzero().flatten().tolist()
    lengths = [len(ids) for ids, _ in rollouts.examples]
    batches: list[list[int]] = []
    for row in sorted(used, key=lambda row: lengths[row]):
        # sorted by length: the newest row is the longest of its batch
        if not batches or (len(batches[-1]) + 1) * lengths[row] > size:
            batches.append([])
        batches[-1].append(row)
    return batches
