"""Does steering slow generation down? One term at one layer, everywhere, against plain generate.

Both write the same number of tokens for the same prompts, greedily, on the same weights in one
process. Plain ``generate`` gets token ids and returns them; steerkit renders the prompts and
makes traces of what it wrote, and that is in its time.
"""

from __future__ import annotations

from bench_cases import Aim, Case, Context, Measured
from bench_contest import Entrant, contest
from bench_subjects import BUNDLED, QWEN, SMOLLM2, SUBJECTS

NAME = "generation"
TITLE = "Steered generation against unsteered Hugging Face generate"
TARGET = 1.03
ENTRANTS = (
    Entrant("plain generate", "plain", "unsteered"),
    Entrant("steerkit steered", "steerkit", "steered"),
    Entrant("steerkit unsteered", "steerkit", "unsteered"),
)
TOKENS = {BUNDLED.name: 256, SMOLLM2.name: 64, QWEN.name: 32}
"""New tokens on a CPU; a few seconds a run. A GPU writes 256."""
FEWER = {QWEN.name: 5}
"""Repetitions on a CPU where nine would take too long."""


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """Batches of 1 and 8 on every model; quickly, on the bundled one alone."""
    aims = (
        Aim("steerkit steered", ("plain generate",), TARGET, agrees="steerkit, unsteered"),
        Aim("steerkit unsteered", ("plain generate",), agrees="steerkit, unsteered"),
    )
    return [
        Case(
            NAME,
            subject.name,
            f"batch {batch}",
            device,
            aims,
            repetitions_of(subject.name, device, repetitions),
            {"batch": batch, "new_tokens": tokens_of(subject.name, device, quick)},
        )
        for subject in (SUBJECTS[:1] if quick else SUBJECTS)
        for batch in (1, 8)
    ]


def tokens_of(name: str, device: str, quick: bool) -> int:
    """New tokens a prompt."""
    if quick:
        return 16
    return TOKENS[name] if device == "cpu" else 256


def repetitions_of(name: str, device: str, repetitions: int) -> int:
    """Repetitions of a case: fewer than asked for where :data:`FEWER` says so."""
    return min(repetitions, FEWER.get(name, repetitions)) if device == "cpu" else repetitions


def measure(case: Case, context: Context) -> Measured:
    """All three in turns."""
    return contest(case, context, ENTRANTS, mixed=False)
