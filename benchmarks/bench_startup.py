"""How long do `import steerkit` and `steerkit --help` take, as whole processes?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench_cases import Aim, Case, Context, Measured, Unavailable
from bench_repetitions import interleave, timed

NAME = "startup"
TITLE = "Seconds until something happens"
IMPORT, HELP, BARE = "import steerkit", "steerkit --help", "python -c pass"


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """One case; it has nothing to do with a GPU."""
    if device != "cpu":
        return []
    aims = (Aim(IMPORT, target=0.3), Aim(HELP, target=0.5), Aim(BARE))
    return [Case(NAME, "", "whole process", "cpu", aims, repetitions)]


def commands() -> dict[str, Sequence[str]]:
    """What is run; the command as installed, or where it is not as a module."""
    script = Path(sys.executable).parent / "steerkit"
    own = [str(script)] if script.is_file() else [sys.executable, "-m", "steerkit"]
    return {
        IMPORT: [sys.executable, "-c", "import steerkit"],
        HELP: [*own, "--help"],
        BARE: [sys.executable, "-c", "pass"],
    }


def run(command: Sequence[str]) -> None:
    """Run it to its end; :class:`Unavailable` if it fails."""
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        lines = found.stderr.strip().splitlines() or ["it said nothing"]
        raise Unavailable(f"{' '.join(command)} failed: {lines[-1]}")


def measure(case: Case, context: Context) -> Measured:
    """Each in turns, after one run that compiles what is not compiled yet."""
    listed = commands()
    for command in listed.values():
        run(command)
    seconds = interleave(
        {name: lambda c=command: timed(lambda: run(c)) for name, command in listed.items()},
        case.repetitions,
        lambda line: print(f"{case.key} {line}", file=sys.stderr, flush=True),
    )
    how = "as installed" if len(listed[HELP]) == 2 else "as python -m steerkit"
    return Measured(seconds, notes=[f"files in the page cache; the command {how}"])
