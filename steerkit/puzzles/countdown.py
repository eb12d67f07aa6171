"""CountdownTask: reach a target from some numbers; generator, solver, verifier, splits."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import Literal

from steerkit.errors import TaskError
from steerkit.puzzles.expressions import parse_expression
from steerkit.tasks import Task

Pool = Literal["train", "rl", "heldout"]

LARGEST_NUMBER = 20
SMALLEST_TARGET = 10
LARGEST_RESULT = 99
"""Numbers are 1 to 20, targets 10 to 99, and no intermediate result is above 99, so that a
model of a few million parameters can learn the arithmetic."""

_PROMPT = re.compile(r"Use (\d+(?:, \d+)+) to make (\d+)\.")
_ANSWER = re.compile(r"(?:The answer is\s+)?([\d(][\d\s()+*/-]*?)\s*(?:=\s*\d+\s*)?\.?")


@dataclass(frozen=True)
class Step:
    """One operation on two numbers: ``left operator right = result``."""

    left: int
    operator: str
    right: int
    result: int

    @property
    def pair(self) -> str:
        """The operation without its result, e.g. ``3 * 7``."""
        return f"{self.left} {self.operator} {self.right}"

    def swapped(self) -> Step:
        """The same operation with its operands exchanged, where that changes nothing."""
        if self.operator in "+*":
            return Step(self.right, self.operator, self.left, self.result)
        return self


@dataclass(frozen=True)
class Verdict:
    """Whether an answer solves its task, and why not.

    ``reason`` is one of ``correct``, ``no answer`` (nothing that could be one),
    ``unreadable`` (not an expression), ``numbers`` (not every number exactly once),
    ``rule`` (a negative or fractional intermediate result) and ``value`` (another result).
    """

    correct: bool
    reason: str


@dataclass(frozen=True)
class CountdownTask:
    """Make ``target`` from ``numbers``, each used exactly once, with ``+ - * /``.

    Divisions must be exact and no intermediate result may be negative. The order of
    ``numbers`` is the order in which the prompt names them; it does not matter otherwise.
    """

    numbers: tuple[int, ...]
    target: int

    @property
    def prompt(self) -> str:
        """The task as the model gets it, e.g. ``Use 3, 7, 8 to make 29.``"""
        return f"Use {', '.join(map(str, self.numbers))} to make {self.target}."

    @property
    def id(self) -> str:
        """The normalised task: sorted numbers, then the target; ``countdown-3-7-8-29``."""
        return "-".join(["countdown", *map(str, sorted(self.numbers)), str(self.target)])

    @property
    def pool(self) -> Pool:
        """``train`` (80 %), ``rl`` (10 %) or ``heldout`` (10 %), by BLAKE2b of :attr:`id`."""
        digest = hashlib.blake2b(self.id.encode(), digest_size=8).digest()
        return (*("train",) * 8, "rl", "heldout")[int.from_bytes(digest, "big") % 10]

    def to_task(self) -> Task:
        """The task as it stands in a tasks file, its first solution as the answer."""
        solutions = solve(self)
        return Task(
            id=self.id,
            category="countdown",
            prompt=self.prompt,
            answer=expression(*solutions[0]) if solutions else None,
            verifier={
                "kind": "countdown",
                "numbers": list(self.numbers),
                "target": self.target,
            },
        )


def parse_prompt(prompt: str) -> CountdownTask:
    """The task that a prompt states; :class:`TaskError` where it states none."""
    match = _PROMPT.fullmatch(prompt.strip())
    if match is None:
        raise TaskError(
            "not a Countdown prompt",
            expected="'Use 3, 7, 8 to make 29.'",
            found=repr(prompt),
        )
    numbers = tuple(int(number) for number in match.group(1).split(", "))
    return CountdownTask(numbers, int(match.group(2)))


def verify(task: CountdownTask, answer: str) -> Verdict:
    """Check an answer such as ``The answer is 3 * 7 + 8.``, or the expression alone.

    The text may end with ``= target``. Anything beside the sentence makes it unreadable:
    a verifier that searched the text for something right would be easy to fool.
    """
    text = answer.strip()
    if not any(character.isdigit() for character in text):
        return Verdict(False, "no answer")
    match = _ANSWER.fullmatch(text)
    if match is None:
        return Verdict(False, "unreadable")
    try:
        read = parse_expression(match.group(1))
    except (TaskError, ZeroDivisionError):
        return Verdict(False, "unreadable")
    if sorted(read.numbers) != sorted(task.numbers):
        return Verdict(False, "numbers")
    if not read.whole:
        return Verdict(False, "rule")
    if read.value != task.target:
        return Verdict(False, "value")
    return Verdict(True, "correct")


@cache
def steps(numbers: tuple[int, ...]) -> tuple[tuple[Step, tuple[int, ...]], ...]:
    """Every operation on two of ``numbers``, with the numbers that are left after it.

    Results are between 1 and ``LARGEST_RESULT``; the larger operand stands first; equal
    operations are listed once. The numbers left are the result and then the untouched ones.
    """
    found: dict[Step, tuple[int, ...]] = {}
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            left, right = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
            rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
            results = {"+": left + right, "-": left - right, "*": left * right}
            if right and left % right == 0:
                results["/"] = left // right
            for operator, result in results.items():
                if 1 <= result <= LARGEST_RESULT:
                    found.setdefault(Step(left, operator, right, result), (result, *rest))
    return tuple(found.items())


@cache
def reachable(numbers: tuple[int, ...]) -> frozenset[int]:
    """Every number that uses up all of ``numbers``, within the range of :func:`steps`."""
    if len(numbers) == 1:
        return frozenset(numbers)
    return frozenset().union(*(reachable(left) for _, left in steps(numbers)))


def solve(task: CountdownTask) -> list[tuple[Step, ...]]:
    """Every solution as its steps in order, within the range of :func:`steps`."""

    def search(numbers: tuple[int, ...]) -> Iterator[tuple[Step, ...]]:
        if len(numbers) == 1:
            if numbers[0] == task.target:
                yield ()
            return
        for step, left in steps(numbers):
            if task.target in reachable(left):
                for later in search(left):
                    yield (step, *later)

    return list(search(tuple(sorted(task.numbers))))


def expression(first: Step, second: Step) -> str:
    """Two steps as one expression with the parentheses it needs, e.g. ``3 * 7 + 8``.

    ``second`` takes the result of ``first`` as its left operand if it can.
    """
    if second.left == first.result:
        needed = first.operator in "+-" and second.operator in "*/"
        inner = f"({first.pair})" if needed else first.pair
        return f"{inner} {second.operator} {second.right}"
    # on the right, a sum may stand bare only after a plus, a product only after plus or minus
    bare = second.operator == "+" or (second.operator == "-" and first.operator in "*/")
    inner = first.pair if bare else f"({first.pair})"
    return f"{second.left} {second.operator} {inner}"


@cache
def all_tasks(pool: Pool | None = None) -> tuple[CountdownTask, ...]:
    """Every solvable three-number task in range once, numbers sorted; of one pool if named."""
    tasks = (
        CountdownTask(numbers, target)
        for numbers in combinations_with_replacement(range(1, LARGEST_NUMBER + 1), 3)
        for target in sorted(reachable(numbers))
        if target >= SMALLEST_TARGET
    )
    return tuple(task for task in tasks if pool is None or task.pool == pool)


def generate_tasks(pool: Pool, seed: int = 0, count: int | None = None) -> list[CountdownTask]:
    """Tasks of a pool in random order of tasks and of numbers, each normalised task once.

    ``count`` of them, or all; the same seed gives the same list. Raises
    :class:`TaskError` if the pool has fewer.
    """
    draw = random.Random(f"countdown {pool} {seed}")
    known = list(all_tasks(pool))
    if count is not None and count > len(known):
        raise TaskError(
            f"too many tasks asked of the pool {pool!r}", expected=len(known), found=count
        )
    draw.shuffle(known)
    return [
        CountdownTask(tuple(draw.sample(task.numbers, len(task.numbers))), task.target)
        for task in known[:count]
    ]
