"""CountdownTask: reach a target from some numbers; generator, solver, verifier."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from steerkit.errors import TaskError
from steerkit.puzzles.expressions import parse_expression
from steerkit.puzzles.verdicts import Pool, Verdict, pool_of
from steerkit.tasks import Task

LARGEST_NUMBER = {3: 20, 4: 10}
"""By how many numbers a task has. No intermediate result is above ``LARGEST_RESULT``, so that
a model of a few million parameters can learn the arithmetic."""
SMALLEST_TARGET = 10
LARGEST_RESULT = 99

_NUMBER = "[0-9]{1,9}"
_PROMPT = re.compile(rf"Use ({_NUMBER}(?:, {_NUMBER})+) to make ({_NUMBER})\.")
_ANSWER = re.compile(
    rf"(?:The answer is\s+)?([0-9(][0-9\s()+*/-]*)(?:=\s*(?P<stated>{_NUMBER})\s*)?\.?"
)


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
    def kind(self) -> str:
        """``countdown-3`` or ``countdown-4``: how many numbers there are."""
        return f"countdown-{len(self.numbers)}"

    @property
    def pool(self) -> Pool:
        """The pool of :attr:`id`: see :func:`steerkit.puzzles.verdicts.pool_of`."""
        return pool_of(self.id)

    @staticmethod
    def parse(prompt: str) -> CountdownTask | None:
        """The task that a prompt states, or ``None`` where it states none."""
        match = _PROMPT.fullmatch(prompt.strip())
        if match is None:
            return None
        numbers = tuple(int(number) for number in match.group(1).split(", "))
        return CountdownTask(numbers, int(match.group(2)))

    def verify(self, answer: str) -> Verdict:
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
        if sorted(read.numbers) != sorted(self.numbers):
            return Verdict(False, "numbers")
        if not read.whole:
            return Verdict(False, "rule")
        if read.value != self.target or int(match["stated"] or self.target) != self.target:
            return Verdict(False, "value")
        return Verdict(True, "correct")

    def to_task(self) -> Task:
        """The task as it stands in a tasks file, its first solution as the answer."""
        solution = next(solutions(self), None)
        return Task(
            id=self.id,
            category=self.kind,
            prompt=self.prompt,
            answer=expression(solution) if solution else None,
            verifier={
                "kind": "countdown",
                "numbers": list(self.numbers),
                "target": self.target,
            },
        )


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
def _reachable(numbers: tuple[int, ...]) -> frozenset[int]:
    if len(numbers) == 1:
        return frozenset(numbers)
    return frozenset().union(*(reachable(left) for _, left in steps(numbers)))


def reachable(numbers: tuple[int, ...]) -> frozenset[int]:
    """Every number that uses up all of ``numbers``, within the range of :func:`steps`."""
    return _reachable(tuple(sorted(numbers)))


def solutions(task: CountdownTask) -> Iterator[tuple[Step, ...]]:
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

    return search(tuple(sorted(task.numbers)))


_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "": 3}


def expression(solution: tuple[Step, ...]) -> str:
    """Steps as one expression with the parentheses it needs, e.g. ``3 * 7 + 8``.

    A step takes results of steps before it as operands where they have the right value.
    """
    made: list[tuple[int, str, str]] = []

    def operand(value: int) -> tuple[str, str]:
        for place, (result, text, operator) in enumerate(made):
            if result == value:
                del made[place]
                return text, operator
        return str(value), ""

    for step in solution:
        left, inner = operand(step.left)
        if _BINDING[inner] < _BINDING[step.operator]:
            left = f"({left})"
        right, inner = operand(step.right)
        # equal operators group from the left: only a sum after + and a product after * stand bare
        loose = _BINDING[inner] == _BINDING[step.operator]
        if _BINDING[inner] < _BINDING[step.operator] or (loose and step.operator not in "+*"):
            right = f"({right})"
        made.append((step.result, f"{left} {step.operator} {right}", step.operator))
    return made[-1][1]


def draw_task(dice: random.Random, count: int) -> CountdownTask:
    """A random solvable task of ``count`` numbers, 3 or 4, in any pool.

    Numbers are drawn first, then one of the targets that they reach.
    """
    if count not in LARGEST_NUMBER:
        raise TaskError("no Countdown tasks of that size", expected="3 or 4 numbers", found=count)
    while True:
        numbers = tuple(dice.randint(1, LARGEST_NUMBER[count]) for _ in range(count))
        targets = [target for target in sorted(reachable(numbers)) if target >= SMALLEST_TARGET]
        if targets:
            return CountdownTask(numbers, dice.choice(targets))
