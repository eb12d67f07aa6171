"""Does memory stay flat over chains? Read from what `make memory` measured, not measured here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from bench_cases import Aim, Case, Context, Measured, Unavailable

NAME = "memory"
TITLE = "Peak memory of collection, 2,000 chains against 200"
RESULT = Path(__file__).parent / "results" / "collection_memory.json"
MANY, FEW = "2,000 chains", "200 chains"


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """One case; the figures are MiB in place of seconds, of one run.

    Its setting names the file it is read from by hash: what is read of another file is not this.
    """
    if device != "cpu" or quick:
        return []
    content = RESULT.read_bytes() if RESULT.is_file() else b""
    setting = {"file": hashlib.sha256(content).hexdigest() if content else None}
    return [Case(NAME, "", "peak memory", "cpu", (Aim(MANY, (FEW,), 1.05),), 1, setting)]


def measure(case: Case, context: Context) -> Measured:
    """The peaks of the last `make memory`."""
    if not RESULT.is_file():
        raise Unavailable("make memory measures it")
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    peaks = {run["chains"]: float(run["peak_mib"]) for run in found["runs"]}
    model, code = found["runs"][0]["model"], found.get("code", "not noted")
    when = found.get("measured_at", "at a time that was not noted")
    return Measured(
        {MANY: [peaks[2000]], FEW: [peaks[200]]},
        notes=[f"MiB, {model}; from {RESULT.name}, one process each, {when}, by code {code}"],
        code=code,
    )
