"""AdapterConfig: what decides the adapter that is fitted, besides the base and the chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steerkit.training.config import in_range

PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"),
    *("qkv_proj", "gate_up_proj"),  # where an architecture has them in one piece
)
"""Linear layers that are adapted by default, those of them that the model has.

The MLP's way back, ``down_proj``, is left out: with it the adapter of a model in the shape of
Qwen2.5-1.5B is 18.5 MB at rank 8 in half precision, without it 13.8 MB.
"""


@dataclass(frozen=True)
class AdapterConfig:
    """What decides the result of a run, besides the base model and the chains.

    Attributes
    ----------
    rank, alpha, dropout:
        Of the LoRA matrices (arXiv 2106.09685): W x + alpha / rank * B A x, A ``[rank, in]``
        random, B ``[out, rank]`` zero at first; dropout of x before A.
    targets:
        Names of the linear layers that get them, such as ``q_proj``; empty for those of
        :data:`PROJECTIONS` that the model has.
    passes, steps:
        The budget: passes over the chains; or optimizer steps, where these are not 0.
    chains:
        Chains in an optimizer step. The loss is the mean over all of their response tokens.
    longest:
        Chains of more tokens than this, prompt and answer included, are left out and counted.
    batch_tokens:
        Positions in one forward and backward pass, padding included; a longer chain is alone in
        it. 0 for 768 on a CPU, where small ones are as fast and need less memory, and 4,096
        elsewhere.
    held_out:
        Tasks that are kept out of the training, for the loss before and after.
    learning_rate, warmup_steps, decay:
        The peak rate; the steps over which it rises to it; the last part of the budget,
        0 to 1, over which it falls to zero.
    weight_decay, clip:
        AdamW's decay, and the largest norm of a gradient.
    seed:
        Decides the first matrices, the order of the chains and the dropout.
    weights, data:
        Digests of the base's weights and of the chains as token ids; filled in by the run, so
        that it is never resumed with others.

    Raises :class:`TrainingError` for numbers out of range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    passes: int = 2
    steps: int = 0
    chains: int = 4
    longest: int = 800
    batch_tokens: int = 0
    held_out: int = 8
    learning_rate: float = 4e-4
    warmup_steps: int = 3
    decay: float = 0.5
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    weights: str = ""
    data: str = ""

    budget: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        positive = ("alpha", "learning_rate", "clip")
        in_range(self, {"rank": 1, "passes": 1, "chains": 1, "longest": 1})
        in_range(self, dict.fromkeys(positive, 1e-12))
        zero = ("dropout", "steps", "batch_tokens", "held_out", "warmup_steps", "decay")
        in_range(self, dict.fromkeys((*zero, "weight_decay"), 0))
        in_range(self, {}, {"dropout": 0.99, "decay": 1})
