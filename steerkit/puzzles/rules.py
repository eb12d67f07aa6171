"""RuleTask: find the rule behind examples and apply it; generator, rule space, verifier."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

from steerkit.puzzles.verdicts import Pool, Verdict, pool_of
from steerkit.tasks import Task

LARGEST_INPUT = 12
LARGEST_OUTPUT = 99
"""Inputs are 1 to 12 and outputs 1 to 99, so that a small model can learn the arithmetic."""

_NUMBER = "([0-9]{1,9})"
_EXAMPLE = f"{_NUMBER} gives {_NUMBER}"
_PROMPT = re.compile(rf"If {_EXAMPLE}, {_EXAMPLE} and {_EXAMPLE}, what does {_NUMBER} give\?")
_ANSWER = re.compile(rf"(?:The answer is\s+)?{_NUMBER}\.?")

Example = tuple[int, int]
"""An input, and the output that the rule gives for it."""


@dataclass(frozen=True)
class Rule:
    """``factor * x + shift``, or ``x * x + shift`` where ``squared``; ``shift`` may be negative."""

    factor: int
    shift: int
    squared: bool = False

    def __call__(self, x: int) -> int:
        """The output for ``x``."""
        return (x if self.squared else self.factor) * x + self.shift

    def __str__(self) -> str:
        """As chains name it: ``x + 4``, ``3 * x - 2``, ``x * x``."""
        text = "x * x" if self.squared else "x" if self.factor == 1 else f"{self.factor} * x"
        if self.shift:
            text += f" {'+' if self.shift > 0 else '-'} {abs(self.shift)}"
        return text


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule that can stand behind a task: the space that a chain searches.

    ``x + b`` (b 1 to 20), ``x - b`` and ``x * x + b`` (b -9 to 9), and ``a * x + b`` (a 2 to
    6, b -9 to 12; without b to 9).
    """
    shifted = [Rule(1, b) for b in range(-9, 21) if b]
    linear = [Rule(a, b) for a in range(2, 7) for b in range(-9, 13)]
    multiples = [Rule(a, 0) for a in range(7, 10)]
    squares = [Rule(1, b, squared=True) for b in range(-9, 10)]
    return (*shifted, *linear, *multiples, *squares)


@cache
def rules_through(example: Example) -> tuple[Rule, ...]:
    """The rules that one example fits."""
    x, y = example
    return tuple(rule for rule in all_rules() if rule(x) == y)


@dataclass(frozen=True)
class RuleTask:
    """Say what ``query`` gives under the one rule that fits ``examples``.

    The order of the examples is that of the prompt; it does not matter otherwise.
    """

    examples: tuple[Example, Example, Example]
    query: int

    @property
    def prompt(self) -> str:
        """``If 1 gives 5, 3 gives 9 and 4 gives 11, what does 6 give?``"""
        first, second, third = (f"{x} gives {y}" for x, y in self.examples)
        return f"If {first}, {second} and {third}, what does {self.query} give?"

    @property
    def id(self) -> str:
        """The normalised task: sorted examples, then the query; ``rules-1-5-3-9-4-11-6``."""
        numbers = [number for example in sorted(self.examples) for number in example]
        return "-".join(["rules", *map(str, numbers), str(self.query)])

    @property
    def kind(self) -> str:
        """``rules``."""
        return "rules"

    @property
    def pool(self) -> Pool:
        """The pool of the examples: who has searched a rule has searched it for every query."""
        return pool_of(self.id.rpartition("-")[0])

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that fit all examples."""
        first, *others = self.examples
        return tuple(r for r in rules_through(first) if all(r(x) == y for x, y in others))

    @property
    def answer(self) -> int | None:
        """What the query gives, or ``None`` where no rule fits or several disagree about it."""
        outputs = {rule(self.query) for rule in self.rules}
        return outputs.pop() if len(outputs) == 1 else None

    @staticmethod
    def parse(prompt: str) -> RuleTask | None:
        """The task that a prompt states, or ``None`` where it states none."""
        match = _PROMPT.fullmatch(prompt.strip())
        if match is None:
            return None
        a, b, c, d, e, f, query = map(int, match.groups())
        return RuleTask(((a, b), (c, d), (e, f)), query)

    def verify(self, answer: str) -> Verdict:
        """Check an answer such as ``The answer is 15.``, or the number alone."""
        text = answer.strip()
        if not any(character.isdigit() for character in text):
            return Verdict(False, "no answer")
        match = _ANSWER.fullmatch(text)
        if match is None:
            return Verdict(False, "unreadable")
        if self.answer is None or int(match.group(1)) != self.answer:
            return Verdict(False, "value")
        return Verdict(True, "correct")

    def to_task(self) -> Task:
        """The task as it stands in a tasks file."""
        return Task(
            id=self.id,
            category=self.kind,
            prompt=self.prompt,
            answer=None if self.answer is None else str(self.answer),
            verifier={
                "kind": "rules",
                "examples": [list(example) for example in self.examples],
                "query": self.query,
            },
        )


def draw_task(dice: random.Random) -> RuleTask:
    """A random task in any pool, with exactly one rule behind it.

    The form of the rule is drawn first (half of them ``a * x + b``), so that no form is rare.
    """
    forms = (
        [rule for rule in all_rules() if rule.factor == 1 and not rule.squared],
        [rule for rule in all_rules() if rule.factor > 1 and rule.shift],
        [rule for rule in all_rules() if rule.factor > 1 and not rule.shift],
        [rule for rule in all_rules() if rule.squared],
    )
    while True:
        rule = dice.choice(dice.choices(forms, (0.2, 0.5, 0.1, 0.2))[0])
        fitting = [x for x in range(1, LARGEST_INPUT + 1) if 1 <= rule(x) <= LARGEST_OUTPUT]
        if len(fitting) < 4:
            continue
        *shown, query = dice.sample(fitting, 4)
        first, second, third = ((x, rule(x)) for x in shown)
        task = RuleTask((first, second, third), query)
        if len(task.rules) == 1:
            return task
