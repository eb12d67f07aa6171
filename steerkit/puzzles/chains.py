"""Chains for every kind of puzzle: what the base model imitates."""

from __future__ import annotations

import random

from steerkit.errors import TaskError
from steerkit.puzzles.countdown import CountdownTask, reachable
from steerkit.puzzles.countdown_chains import write_countdown_chain
from steerkit.puzzles.narration import Chain
from steerkit.puzzles.rule_chains import write_rule_chain
from steerkit.puzzles.rules import RuleTask
from steerkit.puzzles.tasks import Puzzle


def write_chain(task: Puzzle, seed: int | str) -> Chain:
    """A chain for a task; the same seed gives the same chain.

    Every chain draws a :class:`~steerkit.puzzles.narration.Style` of its own: some are
    patient and some give up at the first dead end, some never say that they go back, some
    never test, some wander. Raises :class:`TaskError` for a task that cannot be solved in
    range.
    """
    dice = random.Random(f"chain {task.id} {seed}")
    if isinstance(task, CountdownTask) and task.target in reachable(task.numbers):
        return write_countdown_chain(task, dice)
    if isinstance(task, RuleTask) and len(task.rules) == 1:
        return write_rule_chain(task, dice)
    raise TaskError(
        f"no chain can be written for {task.prompt!r}",
        expected="numbers that make the target by whole results from 1 to 99, or examples "
        "that exactly one rule fits",
    )
