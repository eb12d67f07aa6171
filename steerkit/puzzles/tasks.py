"""Puzzle: a task of any kind; tasks drawn by pool, tasks read from their prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import get_args

from steerkit.errors import TaskError
from steerkit.puzzles import countdown, rules
from steerkit.puzzles.countdown import CountdownTask
from steerkit.puzzles.rules import RuleTask
from steerkit.puzzles.verdicts import Pool

KINDS = ("countdown-3", "countdown-4", "rules")
"""Countdown with three and with four numbers, and rule induction."""


Puzzle = CountdownTask | RuleTask
"""Both have ``prompt``, ``id`` (the normalised task, the same for every order of its numbers),
``kind``, ``pool``, ``parse(prompt)``, ``verify(answer)`` and ``to_task()``."""

_DRAW: dict[str, Callable[[random.Random], Puzzle]] = {
    "countdown-3": lambda dice: countdown.draw_task(dice, 3),
    "countdown-4": lambda dice: countdown.draw_task(dice, 4),
    "rules": rules.draw_task,
}
_PATIENCE = 3000
"""Draws in a row that may be known already before a pool counts as used up."""


def parse_prompt(prompt: str) -> Puzzle:
    """The task that a prompt states; :class:`TaskError` where it states none."""
    puzzle = CountdownTask.parse(prompt) or RuleTask.parse(prompt)
    if puzzle is None:
        raise TaskError(
            "not a prompt of the bundled puzzles",
            expected="'Use 3, 7, 8 to make 29.' or "
            "'If 1 gives 5, 3 gives 9 and 4 gives 11, what does 6 give?'",
            found=repr(prompt),
        )
    return puzzle


def draw_task(pool: Pool, kind: str, dice: random.Random) -> Puzzle:
    """A random task of a pool and a kind; :class:`TaskError` for one that there is not."""
    if kind not in _DRAW:
        raise TaskError(f"unknown kind of task {kind!r}", expected="one of " + ", ".join(KINDS))
    if pool not in get_args(Pool):
        raise TaskError(f"unknown pool {pool!r}", expected="one of " + ", ".join(get_args(Pool)))
    while (puzzle := _DRAW[kind](dice)).pool != pool:
        pass
    return puzzle


def generate_tasks(
    pool: Pool, seed: int = 0, count: int = 1000, kinds: Sequence[str] = KINDS
) -> list[Puzzle]:
    """``count`` tasks of a pool, each normalised task once, the kinds in turn.

    The same seed gives the same list, and a larger count goes on where a smaller one ends.
    Raises :class:`TaskError` where the pool seems to hold no more.
    """
    if not kinds or count < 0:
        raise TaskError(
            "no tasks were asked for",
            expected="at least one kind and a count of at least 0",
            found=f"{len(kinds)} kinds, count {count}",
        )
    dice = random.Random(f"tasks {pool} {seed}")
    found: dict[str, Puzzle] = {}
    for number in range(count):
        for _ in range(_PATIENCE):
            puzzle = draw_task(pool, kinds[number % len(kinds)], dice)
            if puzzle.id not in found:
                break
        else:
            raise TaskError(
                f"too many tasks asked of the pool {pool!r}", expected=number, found=count
            )
        found[puzzle.id] = puzzle
    return list(found.values())
