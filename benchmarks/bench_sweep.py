"""Is a sweep of coefficients cheaper as rows of one call? Against the fastest peer in a loop.

Nine coefficients, the baseline among them, times sixteen prompts of mixed lengths. A peer has one
coefficient for a whole batch, so it writes the sixteen prompts nine times. The bridge takes no
part: who is slower at one coefficient, which `peers` measures, is so at nine.
"""

from __future__ import annotations

from bench_cases import Aim, Case, Context, Measured
from bench_contest import Entrant, contest
from bench_subjects import BUNDLED, QWEN, SMOLLM2

NAME = "sweep"
TITLE = "A sweep as rows of one call against a peer's loop over coefficients"
TARGETS = {"cpu": 0.75, "cuda": 0.35}
PEERS = ("steering-vectors", "repeng")
ENTRANTS = (
    Entrant("steerkit rows", "steerkit", "steered"),
    *(Entrant(name, name, "steered") for name in PEERS),
)
COEFFICIENTS = (-0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4)
LONG = {QWEN.name}
"""What takes about an hour on two CPU cores: only with --long."""
FEWER = {SMOLLM2.name: 3, QWEN.name: 3}
"""Repetitions on a CPU, where one takes minutes."""


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """One case a model; quickly, three coefficients on the bundled one."""
    if quick:
        setting = {"batch": 3, "shortest": 30, "longest": 60, "new_tokens": 6}
        coefficients: tuple[float, ...] = (-0.3, 0.0, 0.3)
    else:
        setting = {"batch": 16, "shortest": 30, "longest": 300, "new_tokens": 64}
        coefficients = COEFFICIENTS
    aims = (
        Aim(
            "steerkit rows",
            PEERS,
            TARGETS.get(device.partition(":")[0], TARGETS["cuda"]),
            agrees="steering-vectors, steered",
        ),
        *(Aim("steerkit rows", (name,), agrees=f"{name}, steered") for name in PEERS),
    )
    return [
        Case(
            NAME,
            subject.name,
            f"{len(coefficients)} x {setting['batch']}",
            device,
            aims,
            min(
                repetitions,
                FEWER.get(subject.name, repetitions) if device == "cpu" else repetitions,
            ),
            {**setting, "coefficients": coefficients},
            skipped="takes an hour on two cores: --long measures it"
            if subject.name in LONG and device == "cpu"
            else "",
        )
        for subject in ((BUNDLED,) if quick else (BUNDLED, SMOLLM2, QWEN))
    ]


def measure(case: Case, context: Context) -> Measured:
    """Everybody who is there, in turns."""
    return contest(case, context, ENTRANTS, mixed=True)
