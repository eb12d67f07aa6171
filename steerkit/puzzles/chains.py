"""Chain: a search for a Countdown solution, told in English sentences with known labels."""

from __future__ import annotations

import random
from dataclasses import dataclass

from steerkit.errors import TaskError
from steerkit.puzzles.countdown import CountdownTask, Step, expression, reachable, solve, steps
from steerkit.puzzles.grammar import PHRASES

_PRIMES = frozenset(n for n in range(2, 200) if all(n % d for d in range(2, n)))
_SQUARES = frozenset(n * n for n in range(2, 15))


@dataclass(frozen=True)
class Chain:
    """A thinking section as its sentences, and the answer after it.

    Attributes
    ----------
    sentences:
        (text, label) pairs in order.
    separators:
        What stands before each sentence: nothing before the first, then a space or a line break.
    answer:
        ``The answer is 3 * 7 + 8.`` or ``I do not know.``
    """

    sentences: tuple[tuple[str, str], ...]
    separators: tuple[str, ...]
    answer: str

    @property
    def thinking(self) -> str:
        """The text between ``<think>`` and ``</think>``, without line breaks at its ends."""
        return "".join(
            separator + text
            for separator, (text, _) in zip(self.separators, self.sentences, strict=True)
        )

    @property
    def response(self) -> str:
        """What the model writes after a prompt that opened ``<think>``."""
        return f"{self.thinking}\n</think>\n{self.answer}"


@dataclass(frozen=True)
class Style:
    """How likely one chain voices each optional behaviour where it could, 0 to 1.

    Styles differ from chain to chain and any entry may be 0: behaviours that every chain
    needed could not be steered without breaking the text.
    """

    restating: float
    knowing: float
    trying: float
    doubting: float
    going_back: float

    @staticmethod
    def draw(dice: random.Random) -> Style:
        """A random style."""
        return Style(
            restating=dice.choice((0.0, 0.8, 1.0)),
            knowing=dice.choice((0.0, 0.12, 0.25, 0.4)),
            trying=dice.choice((0.0, 0.35, 0.6, 0.85)),
            doubting=dice.choice((0.0, 0.35, 0.65, 0.95)),
            going_back=dice.choice((0.0, 0.65, 0.85, 0.95)),
        )


def write_chain(task: CountdownTask, seed: int | str, *, patient: bool = True) -> Chain:
    """A chain for a solvable three-number task; the same seed gives the same chain.

    First steps are tried in random order. One from which the target cannot be reached
    is a dead end: it is followed by one or two second steps that miss, or dropped at
    once. The search ends at the first step that leads on, with the second step that hits.
    From the fourth dead end on it is given up now and then (3.5 % at each), and one that is
    not ``patient`` soon after the seventh (40 % there, 70 % at the eighth, then always).

    Raises :class:`TaskError` for a task that has another count of numbers, or no solution
    in range.
    """
    if len(task.numbers) != 3 or not solve(task):
        raise TaskError(
            f"no chain can be written for {task.prompt!r}",
            expected="three numbers that make the target by whole results from 1 to 99",
        )
    return _Writer(task, random.Random(f"chain {task.id} {seed}"), patient).write()


class _Writer:
    """State of one chain while it is written."""

    def __init__(self, task: CountdownTask, dice: random.Random, patient: bool) -> None:
        self.task = task
        self.dice = dice
        self.patient = patient
        self.style = Style.draw(dice)
        self.sentences: list[tuple[str, str]] = []
        self.separators: list[str] = []
        self.separator = ""

    def write(self) -> Chain:
        task, dice = self.task, self.dice
        self._open()
        solutions = solve(task)
        firsts = list(steps(tuple(sorted(task.numbers))))
        # steps that lead on come a little sooner than chance: a reasoner has some taste
        firsts.sort(key=lambda entry: dice.random() ** (1.6 if self._live(entry[1]) else 1.0))
        dead_ends = 0
        for number, (first, left) in enumerate(firsts):
            if number:
                self._turn()
            shown = self._order(first)
            self._first_step(shown, left)
            if self._live(left):
                return self._succeed(shown, dice.choice([s[1] for s in solutions if s[0] == first]))
            dead_ends += self._dead_end(left)
            if dead_ends >= 4 and self._chance(self._weariness(dead_ends)):
                break
        self._say("giving up", n=task.target)
        return Chain(tuple(self.sentences), tuple(self.separators), "I do not know.")

    def _weariness(self, dead_ends: int) -> float:
        """The chance that the search ends at this dead end, the fourth or a later one."""
        if dead_ends >= 7 and not self.patient:
            return min(0.4 + 0.3 * (dead_ends - 7), 1.0)
        return 0.035

    def _live(self, left: tuple[int, ...]) -> bool:
        return self.task.target in reachable(left)

    def _order(self, step: Step) -> Step:
        return step.swapped() if self.dice.random() < 0.5 else step

    def _chance(self, probability: float) -> bool:
        return self.dice.random() < probability

    def _say(self, role: str, **slots: object) -> None:
        phrases = PHRASES[role]
        (phrase,) = self.dice.choices(phrases, [phrase.weight for phrase in phrases])
        self.sentences.append((phrase.template.format(**slots), phrase.label))
        self.separators.append(self.separator)
        self.separator = " "

    def _open(self) -> None:
        numbers = _listed(self.task.numbers)
        if self._chance(self.style.restating):
            self._say("restate", n=self.task.target, numbers=numbers)
            if self._chance(0.3):
                self._say("rules")
        for _ in range(2):
            if self._chance(1.6 * self.style.knowing):
                self._know((self.task.target, *self.task.numbers))
        if self._chance(0.3 * self.style.doubting):
            self._say("hope")
        if self.sentences and self._chance(0.7):
            self.separator = "\n"

    def _turn(self) -> None:
        """From a dead end to the next first step, with or without a word about it."""
        if self._chance(0.7):
            self.separator = "\n"
        if self._chance(self.style.going_back):
            if self._chance(0.2):
                self._say("start over", numbers=_listed(self.task.numbers))
            else:
                self._say("go back")
        if self._chance(0.2 * self.style.doubting):
            self._say("doubt")
        if self._chance(0.7 * self.style.knowing):
            self._know((self.task.target, *self.task.numbers))

    def _first_step(self, first: Step, left: tuple[int, ...]) -> None:
        live = self._live(left)
        doubt = self.style.doubting * (0.4 if live else 0.6)
        # a guess about what comes is right more often than not, and often wrong
        mood = "hope" if self._chance(0.65 if live else 0.3) else "doubt"
        if self._chance(self.style.trying):
            self._say("try", pair=first.pair)
        if self._chance(doubt):
            self._say(mood)
        self._say("step", left=first.pair, right=first.result)
        if self._chance(0.6 * self.style.knowing):
            self._know(left)
        if self._chance(0.5):
            shown = left if self._chance(0.7) else left[::-1]
            self._say("left over", numbers=_listed(shown))
        if self._chance(0.6 * doubt):
            self._say(mood)

    def _dead_end(self, left: tuple[int, ...]) -> int:
        """Second steps that miss, or none; how many failures that makes."""
        target = self.task.target
        seconds = [step for step, _ in steps(left)]
        if not seconds or self._chance(0.12):
            self._say("pruned", right=left[0], n=target)
            return 1
        tried = self.dice.sample(seconds, min(len(seconds), 1 + self._chance(0.25)))
        for number, second in enumerate(tried):
            if number and self._chance(0.6 * self.style.going_back):
                self._say("go back")
            second = self._order(second)
            if self._chance(0.45 * self.style.trying):
                self._say("try next", pair=second.pair)
            size = "big" if second.result > target else "small"
            if self._chance(0.6):
                role = f"step too {size}" if self._chance(0.2) else "step that misses"
                self._say(role, left=second.pair, right=second.result, n=target)
            else:
                self._say("step", left=second.pair, right=second.result)
                role = f"too {size}" if self._chance(0.3) else "miss"
                self._say(role, right=second.result, n=target)
        return len(tried)

    def _succeed(self, first: Step, second: Step) -> Chain:
        target = self.task.target
        second = self._order(second)
        if self._chance(0.45 * self.style.trying):
            self._say("try next", pair=second.pair)
        self._say("step", left=second.pair, right=second.result)
        if self._chance(0.4):
            self._say("hit", n=target)
        solution = expression(first, second)
        if self._chance(0.85):
            self._say("conclusion", left=solution, right=target)
        answer = f"The answer is {solution}."
        return Chain(tuple(self.sentences), tuple(self.separators), answer)

    def _know(self, numbers: tuple[int, ...]) -> None:
        """A true fact about one of ``numbers``."""
        n = self.dice.choice(numbers)
        kinds = ["even" if n % 2 == 0 else "odd"]
        if n in _PRIMES:
            kinds += ["prime"] * 2
        if n in _SQUARES:
            kinds += ["square"] * 2
        factors = [d for d in range(2, 13) if n % d == 0 and 2 <= n // d <= 12]
        if factors:
            kinds += ["product"] * 3
        if 1 in numbers:
            kinds += ["one"] * 4
        if len(set(numbers)) < len(numbers):
            kinds += ["same"]
        kinds += ["parity"]
        kind = self.dice.choice(kinds)
        factor = self.dice.choice(factors) if factors else 1
        self._say(kind, n=n, right=n, left=f"{factor} * {n // factor}")


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
