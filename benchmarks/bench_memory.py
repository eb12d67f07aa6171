"""Does memory stay flat over chains? Read from what `make memory` measured, not measured here."""

from __future__ import annotations

import json
from pathlib import Path

from bench_cases import Aim, Case, Context, Measured, Unavailable

NAME = "memory"
TITLE = "Peak memory of collection, 2,000 chains against 200"
RESULT = Path(__file__).parent / "results" / "collection_memory.json"
MANY, FEW = "2,000 chains", "200 chains"


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """One case; the figures are MiB in place of seconds, of one run."""
    if device != "cpu" or quick:
        return []
    return [Case(NAME, "", "peak memory", "cpu", (Aim(MANY, (FEW,), 1.05),), 1)]


def measure(case: Case, context: Context) -> Measured:
    """The peaks of the last `make memory`."""
    if not RESULT.is_file():
        raise Unavailable("make memory measures it")
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    peaks = {run["chains"]: float(run["peak_mib"]) for run in found["runs"]}
    model = found["runs"][0]["model"]
    return Measured(
        {MANY: [peaks[2000]], FEW: [peaks[200]]},
        notes=[f"MiB, {model}; from {RESULT.name}, one process each"],
    )
