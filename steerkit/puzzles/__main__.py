"""``python -m steerkit.puzzles``: write a file of Countdown tasks, the same for the same seed."""

from __future__ import annotations

import argparse
from typing import get_args

from steerkit.puzzles.countdown import Pool, generate_tasks
from steerkit.tasks import write_tasks


def main() -> None:
    """Write ``--count`` tasks of a pool, or all, to ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m steerkit.puzzles", description=__doc__)
    parser.add_argument("--pool", choices=get_args(Pool), default="heldout")
    parser.add_argument("--count", type=int, help="tasks to write (default: the whole pool)")
    parser.add_argument("--seed", type=int, default=0, help="of their order (default: 0)")
    parser.add_argument("--out", required=True, help="the tasks file, JSON lines")
    options = parser.parse_args()
    tasks = [task.to_task() for task in generate_tasks(options.pool, options.seed, options.count)]
    write_tasks(tasks, options.out)


if __name__ == "__main__":
    main()
