"""SFTConfig: what decides the result of a supervised training run."""

from __future__ import annotations

from dataclasses import dataclass


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
        Patient chains of more tokens than this, prompt and answer included, are left out;
        of the others those that the context does not hold.
    patient_chunks:
        Chunks of the data (see :mod:`steerkit.training.batches`) whose chains hardly ever give
        up a search. They teach it to search; those after them, which give up sooner, teach it
        to stop: a model that has learned the first alone goes on for ever where it errs.
    seed:
        Decides the first weights and all of the data.
    bf16:
        Compute matrix products in bfloat16; weights, gradients and optimizer stay float32.
    hidden_size, layers, heads, kv_heads, intermediate_size, context:
        The Qwen2 architecture.
    """

    tokens: int = 12_000_000
    batch_tokens: int = 1536
    learning_rate: float = 2e-3
    warmup_tokens: int = 200_000
    decay: float = 0.35
    weight_decay: float = 0.05
    clip: float = 1.0
    longest: int = 320
    patient_chunks: int = 81
    seed: int = 0
    bf16: bool = True
    hidden_size: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    intermediate_size: int = 576
    context: int = 1024


def learning_rate(config: SFTConfig, tokens: int) -> float:
    """The rate after ``tokens`` of the budget: linear warmup, constant, linear decay to zero.

    Until the decay begins the rate does not depend on the budget, so a run can be given
    more or less of it until then.
    """
    warm = min(1.0, (tokens + config.batch_tokens) / config.warmup_tokens)
    left = (config.tokens - tokens) / (config.decay * config.tokens)
    return config.learning_rate * max(0.0, min(warm, left))
