"""How near is steered decoding to what the memory allows? On a GPU only.

At batch 1 every token needs every weight once, so reading them at the bandwidth of a large copy
is a bound on the time of a token. Measured: that bound, and steered generation of the shape of
Qwen2.5-1.5B in bfloat16 with random weights. The input embedding, of which a token reads one
row, is left out of the bound.
"""

from __future__ import annotations

import sys
from typing import Any

from bench_cases import Aim, Case, Context, Measured, Unavailable
from bench_contenders import Job, steerkit
from bench_repetitions import interleave, settler, timed
from bench_subjects import QWEN, THINK, random_model

import steerkit as sk

NAME = "bandwidth"
TITLE = "Steered decoding as a share of what memory bandwidth allows"
TARGET = 0.30
MODEL = "Qwen2.5-1.5B shape, random weights"
BOUND, DECODING = "reading the weights", "steered decoding"


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """One case on a GPU, none on a CPU; quickly, two layers."""
    if device == "cpu":
        return []
    aims = (Aim(BOUND, (DECODING,), TARGET, at_least=True),)
    full = {"layers": 28, "vocabulary": 151_936, "new_tokens": 128, "copied": 1 << 30}
    small = {"layers": 2, "vocabulary": 5_000, "new_tokens": 8, "copied": 1 << 24}
    return [Case(NAME, MODEL, "batch 1", device, aims, repetitions, dict(small if quick else full))]


def weight_bytes(hf: Any) -> int:
    """Bytes of the weights that one token reads."""
    own = {id(p): p.numel() * p.element_size() for p in hf.parameters()}
    if hf.get_input_embeddings().weight is not hf.get_output_embeddings().weight:
        own.pop(id(hf.get_input_embeddings().weight))
    return sum(own.values())


def copy_bandwidth(size: int, device: str, copies: int = 10) -> float:
    """Bytes that a copy within the device's memory reads and writes in a second."""
    import torch

    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(copies):
            target.copy_(source)

    copy()
    return 2 * size * copies / timed(copy, settler(device))


def measure(case: Case, context: Context) -> Measured:
    """The bound and the generation, in turns; both in seconds for all new tokens."""
    import torch

    if context.device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable("no GPU is at hand")
    setting, device = case.setting, context.device
    hf, tokenizer = random_model(setting["layers"], setting["vocabulary"])
    model = sk.load(hf.to(device), tokenizer=tokenizer, think=THINK)
    write = steerkit(model)
    layer = min(QWEN.layer, setting["layers"] - 1)
    text = " ".join(f"w{number}" for number in range(16))
    tokens = setting["new_tokens"]
    job = Job([text], [], [], tokens, [0.3], layer, push=10.0)
    write(job)
    size = weight_bytes(hf)
    seconds = interleave(
        {
            BOUND: lambda: tokens * size / copy_bandwidth(setting["copied"], device),
            DECODING: lambda: timed(lambda: write(job), settler(device)),
        },
        case.repetitions,
        lambda line: print(f"{case.key} {line}", file=sys.stderr, flush=True),
    )
    rate = tokens * size / min(seconds[BOUND]) / 1e9
    note = f"{size / 1e9:.2f} GB of weights a token; a copy moves {rate:.0f} GB/s"
    return Measured(seconds, notes=[f"{note}; {tokens} tokens after a prompt of 16 words"])
