"""Is steerkit as fast as its peers? The same steered text by each of them, in turns.

steering-vectors, repeng and TransformerLens's bridge each run in a process and an environment of
their own (bench_environments.py); plain, unsteered generate stands beside them.
"""

from __future__ import annotations

from bench_cases import Aim, Case, Context, Measured
from bench_contest import Entrant, contest
from bench_generation import repetitions_of, tokens_of
from bench_subjects import SUBJECTS

NAME = "peers"
TITLE = "Steered generation against peers"
TARGET, BRIDGE_TARGET = 1.03, 0.8
PEERS = ("steering-vectors", "repeng", "bridge")
ENTRANTS = (
    Entrant("steerkit", "steerkit", "steered"),
    *(Entrant(name, name, "steered") for name in PEERS),
    Entrant("plain generate", "plain", "unsteered"),
)


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """Batches of 1 and 8 on every model; quickly, on the bundled one alone."""
    aims = (
        Aim("steerkit", PEERS, TARGET, agrees="steering-vectors, steered"),
        Aim("steerkit", ("bridge",), BRIDGE_TARGET, agrees="bridge, steered"),
        Aim("steerkit", ("steering-vectors",), agrees="steering-vectors, steered"),
        Aim("steerkit", ("repeng",), agrees="repeng, steered"),
        *(Aim(name, ("plain generate",), agrees=f"{name}, unsteered") for name in PEERS),
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


def measure(case: Case, context: Context) -> Measured:
    """Everybody who is there, in turns."""
    return contest(case, context, ENTRANTS, mixed=False)
