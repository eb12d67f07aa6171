"""``python -m steerkit.puzzles``: write a file of puzzles, the same for the same seed."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from steerkit.errors import SteerkitError
from steerkit.puzzles.tasks import KINDS, generate_tasks
from steerkit.puzzles.verdicts import Pool
from steerkit.tasks import write_tasks


def main() -> None:
    """Write ``--count`` tasks of a pool to ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m steerkit.puzzles", description=__doc__)
    parser.add_argument("--pool", choices=get_args(Pool), default="heldout")
    parser.add_argument("--count", type=int, default=800, help="tasks to write (default: 800)")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds, in turn (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their order (default: 0)")
    parser.add_argument("--out", required=True, help="the tasks file, JSON lines")
    options = parser.parse_args()
    if options.count < 1:
        parser.error(f"argument --count: expected at least 1, found {options.count}")
    drawn = generate_tasks(options.pool, options.seed, options.count, options.kinds)
    write_tasks([task.to_task() for task in drawn], options.out)


if __name__ == "__main__":
    try:
        main()
    except SteerkitError as problem:
        sys.exit(f"python -m steerkit.puzzles: {problem}")
