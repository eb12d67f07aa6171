"""SFTConfig and RLConfig: what decides the result of either stage of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from steerkit.errors import TrainingError
from steerkit.puzzles.tasks import KINDS

BASE = "countdown-base"
"""What supervised training makes and reinforcement learning begins with."""


@dataclass(frozen=True)
class SFTConfig:
    """What decides the result of a run, and nothing else.

    Attributes
    ----------
    tokens:
        The budget: tokens of prompts and responses, padding not counted.
    batch_tokens:
        The size of a batch, padding included.
    learning_rate, warmup_tokens, decay:
        The peak rate; the tokens over which it rises to it; the last part of the budget,
        0 to 1, over which it falls to zero (see :func:`learning_rate`).
    weight_decay, clip:
        AdamW's decay of the matrices, and the largest norm of a gradient.
    longest:
        Chains of more tokens than this, prompt and answer included, are left out.
    mixture:
        Weights of the kinds of tasks, in the order of :data:`steerkit.puzzles.tasks.KINDS`.
    seed:
        Decides the first weights and all of the data.
    bf16:
        Compute matrix products in bfloat16; weights, gradients and optimizer stay float32.
    hidden_size, layers, heads, kv_heads, intermediate_size, context:
        The Qwen2 architecture.

    Raises :class:`TrainingError` for numbers out of range.
    """

    tokens: int = 19_000_000
    batch_tokens: int = 1536
    learning_rate: float = 2e-3
    warmup_tokens: int = 200_000
    decay: float = 0.35
    weight_decay: float = 0.05
    clip: float = 1.0
    longest: int = 448
    mixture: tuple[float, float, float] = (0.4, 0.3, 0.3)
    seed: int = 0
    bf16: bool = True
    hidden_size: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    intermediate_size: int = 576
    context: int = 1024

    budget: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        positive = (
            *("tokens", "batch_tokens", "longest", "hidden_size", "layers", "heads"),
            *("kv_heads", "intermediate_size", "context", "learning_rate", "clip"),
        )
        in_range(self, dict.fromkeys(positive, 1e-12))
        in_range(self, {"warmup_tokens": 0, "decay": 0, "weight_decay": 0})
        if len(self.mixture) != len(KINDS) or min(self.mixture) < 0 or not sum(self.mixture) > 0:
            raise TrainingError(
                "mixture is out of range",
                expected=f"{len(KINDS)} weights, none negative, one positive",
                found=self.mixture,
            )
        if self.heads % self.kv_heads or self.hidden_size % self.heads:
            raise TrainingError(
                "the heads do not fit",
                expected="hidden_size a multiple of heads, heads one of kv_heads",
                found=f"{self.hidden_size}, {self.heads}, {self.kv_heads}",
            )


@dataclass(frozen=True)
class RLConfig:
    """What decides the result of reinforcement learning, besides the model it begins with.

    Attributes
    ----------
    steps:
        The budget: optimizer steps, each on rollouts of its own.
    tasks, samples:
        Tasks of the rl pool in a step, and chains per task, at least 2: the others' mean
        reward is what a chain's own is compared with.
    kinds:
        Kinds of the tasks, of :data:`steerkit.puzzles.tasks.KINDS`, in turn; one that stands
        twice gets twice the tasks.
    longest:
        New tokens after which a chain is cut off.
    form_reward:
        What a chain gets for a well-formed end, beside 1 for a correct answer
        (see :func:`steerkit.training.rollouts.reward`).
    learning_rate, warmup_steps, decay:
        The peak rate; the steps over which it rises to it; the last part of the budget,
        0 to 1, over which it falls to zero (see :func:`learning_rate`).
    clip:
        The largest norm of a gradient.
    snapshots:
        How many states of the model are kept, evenly spaced, the last step's included.
    seed:
        Decides the tasks and the noise of the chains.
    bf16:
        Compute matrix products of the training pass in bfloat16; chains are written, and
        weights, gradients and optimizer kept, in float32.

    Raises :class:`TrainingError` for numbers out of range and for unknown kinds.
    """

    steps: int = 90
    tasks: int = 16
    samples: int = 16
    kinds: tuple[str, ...] = ("countdown-3", "rules", "countdown-4", "countdown-3", "rules")
    longest: int = 448
    form_reward: float = 0.3
    learning_rate: float = 2e-4
    warmup_steps: int = 5
    decay: float = 0.2
    clip: float = 1.0
    snapshots: int = 6
    seed: int = 0
    bf16: bool = True

    budget: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise TrainingError(
                "unknown kinds of tasks",
                expected="some of " + ", ".join(KINDS),
                found=", ".join(unknown) or "none",
            )
        in_range(self, {"steps": 1, "tasks": 1, "samples": 2, "longest": 1, "snapshots": 0})
        in_range(self, {"learning_rate": 1e-12, "clip": 1e-12, "warmup_steps": 0, "decay": 0})


def in_range(
    config: Any, least: Mapping[str, float], most: Mapping[str, float] | None = None
) -> None:
    """Raise :class:`TrainingError` for a field below ``least``, above ``most``, or not finite."""
    for name, smallest in least.items():
        value = getattr(config, name)
        if not value >= smallest or not math.isfinite(value):
            raise TrainingError(
                f"{name} is out of range",
                expected="more than 0" if 0 < smallest < 1 else f"at least {smallest:g}",
                found=value,
            )
    for name, largest in (most or {}).items():
        value = getattr(config, name)
        if value > largest:
            raise TrainingError(
                f"{name} is out of range", expected=f"at most {largest:g}", found=value
            )


def learning_rate(config: SFTConfig | RLConfig, spent: int) -> float:
    """The rate after ``spent`` of the budget: linear warmup, constant, linear decay to zero.

    The budget is counted in tokens or in steps, as the configuration does. Until the decay
    begins the rate does not depend on it, so a run can be given more or less until then.
    """
    if isinstance(config, SFTConfig):
        first, warmup, budget = config.batch_tokens, config.warmup_tokens, config.tokens
    else:
        first, warmup, budget = 1, config.warmup_steps, config.steps
    return config.learning_rate * share_of_rate(spent, first, warmup, budget, config.decay)


def share_of_rate(spent: int, first: int, warmup: int, budget: int, decay: float) -> float:
    """The learning rate after ``spent`` of ``budget`` as a share of its peak, 0 to 1.

    It rises over ``warmup``, counted from ``first``, the size of a step, and falls to zero
    over the last part of the budget, ``decay``.
    """
    warm = min(1.0, (spent + first) / max(warmup, 1))
    left = (budget - spent) / max(decay * budget, 1e-9)
    return max(0.0, min(warm, left))
