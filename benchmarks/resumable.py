"""What long benchmarks share: a state folder to go on from, its tables, progress, budgets."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from steerkit.files import write_text_atomic


def open_state(folder: Path, settings: Mapping[str, Any], fresh: bool) -> Path:
    """The folder of what is done so far; emptied when it belongs to other settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    mark = folder / "settings.sha256"
    if fresh or not mark.is_file() or mark.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        write_text_atomic(mark, digest)
    return folder


def kept_table(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table that stands in a file, which is made where it is not there yet."""
    if not path.is_file():
        write_text_atomic(path, make().to_csv(index=False))
        print(f"{path.stem} done", file=sys.stderr)
    return pd.read_csv(path)


def progress(what: str) -> Callable[[int, int], None]:
    """A progress callback that prints one line, over and over."""
    started = time.perf_counter()

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        seconds = time.perf_counter() - started
        print(f"\r{what}: {done}/{total}, {seconds:.0f} s", end=end, file=sys.stderr, flush=True)

    return show


def budget(parts: Sequence[tuple[str, float, float]]) -> tuple[str, float]:
    """Lines that say how long each part will take, and the minutes of all together.

    ``parts`` are (what, tokens, tokens a second).
    """
    lines, total = [], 0.0
    for what, tokens, speed in parts:
        minutes = tokens / speed / 60
        total += minutes
        lines.append(f"{what:<34}{tokens:>10,.0f} tokens at {speed:>7,.0f}/s {minutes:>7.1f} min")
    return "\n".join([*lines, f"{'all':<34}{'':>27} {total:>7.1f} min"]), total
