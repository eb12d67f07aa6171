"""What do noise and filters cost, as a share of a decode step?

``steerkit.sampling.choose`` on 16 rows of 151,936 logits, against one decode step of the shape
of Qwen2.5-1.5B in bfloat16 (random weights: right for speed), its cache 256 positions long. The
logits are planted: peaked as a language model's are, so that 0.95 of the probability lies on 1
to about 110 tokens at temperature 0.6; flat ones, whose rows are sorted as a whole, stand beside
them as the worst.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from bench_cases import Aim, Case, Context, Measured
from bench_repetitions import interleave, settler, timed
from bench_subjects import random_model

NAME = "sampling"
TITLE = "Noise and filters as a share of a decode step"
TARGET = 0.03
MODEL = "Qwen2.5-1.5B shape, random weights"
STEP = "decode step"
FIGURES = (
    "noise at T 1",
    "top-p 0.95 at T 0.6",
    "top-p 0.95 at T 0.6, flat logits",
    "top-k 50 at T 1",
    "min-p 0.05 at T 1",
)
STEEPNESS = (0.94, 4.0)
"""Of the flattest and the steepest row of :func:`peaked`."""


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """One case; quickly, two layers and a small vocabulary."""
    full = {"layers": 28, "vocabulary": 151_936, "rows": 16, "cached": 256, "steps": 5}
    small = {"layers": 2, "vocabulary": 5_000, "rows": 4, "cached": 16, "steps": 2}
    setting = {**(small if quick else full), "steepness": list(STEEPNESS)}
    aims = (
        Aim(FIGURES[0], (STEP,), TARGET),
        Aim(FIGURES[1], (STEP,), TARGET),
        Aim(FIGURES[2], (STEP,)),
        Aim(FIGURES[3], (STEP,), TARGET),
        Aim(FIGURES[4], (STEP,), TARGET),
        Aim(STEP),
    )
    variant = f"batch {setting['rows']}"
    return [Case(NAME, MODEL, variant, device, aims, repetitions, setting)]


def peaked(rows: int, vocabulary: int, device: str = "cpu") -> Any:
    """Logits of falling ranks, steeper from row to row, tokens in random order.

    The logit of rank r is -a log r with a from 0.94 to 4: at temperature 0.6 and 151,936 tokens
    the nucleus of 0.95 holds about 110 tokens in the flattest row and one in the steepest.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    ranks = torch.arange(1, vocabulary + 1, dtype=torch.float32).log()
    steep = torch.linspace(*STEEPNESS, rows)
    order = torch.stack([torch.randperm(vocabulary, generator=generator) for _ in range(rows)])
    return (-steep[:, None] * ranks).gather(1, order).to(device)


def flat(rows: int, vocabulary: int, device: str = "cpu") -> Any:
    """Normal logits of standard deviation 1: the nucleus is most of the vocabulary."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, vocabulary, generator=generator).to(device)


def nucleus_sizes(logits: Any, share: float, temperature: float) -> list[int]:
    """Tokens that top-p keeps in every row, counted by sorting all of it."""
    ordered = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True).values
    return ((ordered.cumsum(dim=-1) - ordered) < share).sum(dim=-1).tolist()


def decode_step(case: Case, device: str) -> Callable[[], Any]:
    """One forward pass of one new token a row, on a cache that is as long every time."""
    import torch
    from transformers.cache_utils import DynamicCache

    setting = case.setting
    hf, _ = random_model(setting["layers"], setting["vocabulary"])
    hf = hf.to(device)
    rows, cached = setting["rows"], setting["cached"]
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, setting["vocabulary"], (rows, cached + 1), generator=generator)
    ids = ids.to(device)
    cache = DynamicCache(config=hf.config)
    with torch.no_grad():
        hf(ids[:, :cached], past_key_values=cache, use_cache=True, logits_to_keep=1)

    def step() -> None:
        with torch.no_grad():
            hf(ids[:, cached:], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.crop(cached - cache.get_seq_length())

    return step


def measure(case: Case, context: Context) -> Measured:
    """A few decode steps, and as many choices of each kind, in turns."""
    import numpy as np
    import torch

    from steerkit.sampling import Noise, Sampling, choose, row_key

    torch.set_num_threads(context.threads)
    setting, device = case.setting, context.device
    rows, vocabulary, steps = setting["rows"], setting["vocabulary"], setting["steps"]
    noise = Noise(0, vocabulary, torch.device(device))
    keys = np.array([row_key(f"task {row}", 0) for row in range(rows)], dtype=np.uint64)
    logits = {"peaked": peaked(rows, vocabulary, device), "flat": flat(rows, vocabulary, device)}
    nucleus = Sampling(0.6, top_p=0.95)
    chosen = {
        FIGURES[0]: (Sampling(1.0), logits["peaked"]),
        FIGURES[1]: (nucleus, logits["peaked"]),
        FIGURES[2]: (nucleus, logits["flat"]),
        FIGURES[3]: (Sampling(1.0, top_k=50), logits["peaked"]),
        FIGURES[4]: (Sampling(1.0, min_p=0.05), logits["peaked"]),
    }
    step, settle = decode_step(case, device), settler(device)

    def several(run: Callable[[int], Any]) -> Callable[[], float]:
        def repeat() -> None:
            for number in range(steps):
                run(number)

        repeat()  # once beforehand, uncounted
        return lambda: timed(repeat, settle) / steps

    contenders = {STEP: several(lambda _: step())}
    for name, (sampling, values) in chosen.items():
        contenders[name] = several(
            lambda number, sampling=sampling, values=values: choose(
                values, sampling, noise, keys, [number] * rows
            )
        )
    seconds = interleave(
        contenders,
        case.repetitions,
        lambda line: print(f"{case.key} {line}", file=sys.stderr, flush=True),
    )
    sizes = {name: nucleus_sizes(values, 0.95, 0.6) for name, values in logits.items()}
    note = "; ".join(
        f"nucleus of {name} logits: {min(s)} to {max(s)} tokens" for name, s in sizes.items()
    )
    return Measured(seconds, notes=[f"{note}; {steps} steps a repetition"])
