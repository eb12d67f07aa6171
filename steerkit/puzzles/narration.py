"""Chain: a search told in English sentences with known labels; Style and Narrator tell it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from steerkit.puzzles.phrases import PHRASES

GIVEN_UP = "I do not know."
_LONG = 32
"""Sentences after which even a patient chain gives up at every second dead end."""

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
    """How one chain reasons and talks.

    The first five say how likely it voices an optional behaviour where it could, 0 to 1. Styles
    differ from chain to chain and any of these may be 0: behaviours that every chain needed
    could not be steered without breaking the text. The others say how well it searches.

    Attributes
    ----------
    restating, knowing, trying, doubting, going_back:
        Chances of restating the task, stating a fact, announcing what is tried, voicing
        doubt or hope, and saying that it goes back.
    patience:
        Dead ends before it gives up: from this one on it does at every second, and so it does
        once it has become long.
    care:
        The chance that a proposed rule is tested on an example. Without care a chain
        answers by the first rule that comes to its mind.
    wandering:
        The chance to leave a step that would lead on after its first miss, and to try again
        what has failed.
    """

    restating: float
    knowing: float
    trying: float
    doubting: float
    going_back: float
    patience: int
    care: float
    wandering: float

    @staticmethod
    def draw(dice: random.Random) -> Style:
        """A random style: some chains are patient, some give up at once, some are clumsy."""
        return Style(
            restating=dice.choice((0.0, 0.8, 1.0)),
            knowing=dice.choice((0.0, 0.12, 0.25, 0.4)),
            trying=dice.choice((0.0, 0.35, 0.6, 0.85)),
            doubting=dice.choice((0.0, 0.35, 0.65, 0.95)),
            going_back=dice.choice((0.0, 0.65, 0.85, 0.95)),
            patience=dice.choices((1, 2, 4, 7, 10), (0.12, 0.13, 0.2, 0.3, 0.25))[0],
            care=dice.choices((0.0, 0.6, 0.95), (0.25, 0.35, 0.4))[0],
            wandering=dice.choices((0.0, 0.2, 0.5), (0.5, 0.25, 0.25))[0],
        )


class Narrator:
    """A chain while it is written: what has been said, and how it goes on."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.style = Style.draw(dice)
        self.dead_ends = 0
        self.tired = False
        self._sentences: list[tuple[str, str]] = []
        self._separators: list[str] = []
        self._separator = ""

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.dice.random() < probability

    def say(self, role: str, **slots: object) -> None:
        """Add a sentence of a role of :data:`~steerkit.puzzles.phrases.PHRASES`."""
        phrases = PHRASES[role]
        (phrase,) = self.dice.choices(phrases, [phrase.weight for phrase in phrases])
        self._sentences.append((phrase.template.format(**slots), phrase.label))
        self._separators.append(self._separator)
        self._separator = " "
        if phrase.dead_end:
            self.dead_ends += 1
            weary = self.dead_ends >= self.style.patience or len(self._sentences) > _LONG
            self.tired = weary and self.chance(0.5)

    def mood(self, probability: float, role: str) -> None:
        """Voice doubt or hope with this probability, unless the sentence before has done so."""
        voiced = self._sentences and self._sentences[-1][1] == "uncertainty-estimation"
        if self.chance(probability) and not voiced:
            self.say(role)

    def new_line(self) -> None:
        """Begin a line, now and then, unless nothing was said yet."""
        if self._sentences and self.chance(0.7):
            self._separator = "\n"

    def miss(self, left: str, result: int, wanted: int) -> None:
        """State an operation and that it is not what was wanted: one dead end, in many ways."""
        size = "big" if result > wanted else "small"
        if self.chance(0.6):
            role = f"step too {size}" if self.chance(0.2) else "step that misses"
            self.say(role, left=left, right=result, n=wanted)
        else:
            self.say("step", left=left, right=result)
            role = f"too {size}" if self.chance(0.3) else "miss"
            self.say(role, right=result, n=wanted)

    def know(self, numbers: tuple[int, ...]) -> None:
        """Say a true fact about one of ``numbers``."""
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
        self.say(kind, n=n, right=n, left=f"{factor} * {n // factor}")

    def end(self, answer: str) -> Chain:
        """The finished chain."""
        return Chain(tuple(self._sentences), tuple(self._separators), answer)


def listed(parts: tuple[object, ...]) -> str:
    """``3, 7 and 8``."""
    return ", ".join(map(str, parts[:-1])) + f" and {parts[-1]}"
