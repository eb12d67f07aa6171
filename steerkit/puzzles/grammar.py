"""The exact grammar of the bundled puzzles' chains: the reader that labels their sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from steerkit.behaviors import UNPARSED
from steerkit.errors import TaskError
from steerkit.puzzles.expressions import parse_expression
from steerkit.puzzles.phrases import PHRASES

_BY_TEMPLATE = {phrase.template: phrase for role in PHRASES.values() for phrase in role}
_SENTENCE = re.compile(r"[^\s.?!](?:[^.?!\n]*[^\s.?!])?[.?!]*|[.?!]+")


@dataclass(frozen=True)
class Equation:
    """``left = right`` as a sentence states it; ``correct`` says whether it is true."""

    left: str
    right: int
    correct: bool


@dataclass(frozen=True)
class Sentence:
    """One sentence of a chain and what it does.

    Attributes
    ----------
    start, end:
        Half-open character offsets into the text that was read.
    label:
        The name of a behaviour, or ``unparsed``: no phrase of the grammar, never a guess.
    equations:
        Those the sentence states, wrong ones included.
    dead_end:
        Whether it states that an attempt failed. Every failed attempt of the bundled
        chains has exactly one such sentence.
    """

    start: int
    end: int
    label: str
    equations: tuple[Equation, ...] = ()
    dead_end: bool = False


def parse_chain(text: str) -> list[Sentence]:
    """Split a thinking section into sentences and label each, exactly.

    A sentence ends at ``.``, ``?``, ``!`` or a line's end. It has a label if one phrase
    of :data:`PHRASES` matches it from its first to its last character, and is
    ``unparsed`` otherwise. A wrong equation is still a deduction.
    """
    found = []
    for match in _SENTENCE.finditer(text):
        label, equations, dead_end = _read(match.group())
        found.append(Sentence(match.start(), match.end(), label, equations, dead_end))
    return found


@lru_cache(maxsize=1 << 16)
def _read(sentence: str) -> tuple[str, tuple[Equation, ...], bool]:
    """Label, equations and whether it is a dead end; chains say much the same again and again."""
    for phrase in _BY_TEMPLATE.values():
        match = phrase.pattern.fullmatch(sentence)
        if match is None:
            continue
        slots = match.groupdict()
        try:
            return phrase.label, _equations(slots), phrase.dead_end
        except TaskError:
            # parentheses that do not close: the slot's pattern is wider than arithmetic
            continue
    return UNPARSED, (), False


def _equations(slots: dict[str, str]) -> tuple[Equation, ...]:
    """What the slots of one sentence claim to be equal: an expression, or a rule at ``n``."""
    left = slots.get("left")
    if left is None and {"rule", "n", "right"} <= slots.keys():
        left = slots["rule"].replace("x", slots["n"])
    if left is None:
        return ()
    right = int(slots["right"])
    try:
        correct = parse_expression(left).value == right
    except ZeroDivisionError:
        correct = False
    return (Equation(left, right, correct),)
