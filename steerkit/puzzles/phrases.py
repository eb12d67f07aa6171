"""Phrase: one way to say one thing in a chain; the table of all, which makes the grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from string import Formatter

_SLOTS = {
    "n": r"\d{1,9}",
    "right": r"\d{1,9}",
    "left": r"\(*\d+(?: [-+*/] \(*\d+\)*)+",
    "pair": r"\d+ [-+*/] \d+",
    "numbers": r"\d+(?:, \d+)* and \d+",
    "rule": r"(?:\d+ \* )?x(?: \* x)?(?: [-+] \d+)?",
    "given": r"\d+ to \d+(?:, \d+ to \d+)* and \d+ to \d+",
}


@dataclass(frozen=True)
class Phrase:
    """One way to say one thing.

    ``template`` holds slots: ``{n}`` an integer, ``{pair}`` two integers and an operator,
    ``{left}`` an expression with ``{right}`` the integer it is said to equal, ``{numbers}``
    a list such as ``3, 7 and 8``, ``{rule}`` a rule such as ``3 * x + 2``, ``{given}`` its
    examples such as ``1 to 5 and 3 to 9``. ``weight`` is how often the phrase is chosen among those
    of its role; ``dead_end`` says that it states a failed attempt.
    """

    label: str
    template: str
    weight: float = 1.0
    dead_end: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """A regular expression that matches exactly the sentences this phrase can make."""
        parts = []
        for literal, slot, _, _ in Formatter().parse(self.template):
            parts.append(re.escape(literal))
            if slot is not None:
                parts.append(f"(?P<{slot}>{_SLOTS[slot]})")
        return re.compile("".join(parts), re.ASCII)


def _phrases(
    label: str, *templates: str | tuple[str, float], dead_end: bool = False
) -> tuple[Phrase, ...]:
    pairs = [(entry, 1.0) if isinstance(entry, str) else entry for entry in templates]
    return tuple(Phrase(label, text, weight, dead_end) for text, weight in pairs)


PHRASES: dict[str, tuple[Phrase, ...]] = {
    "restate": _phrases(
        "initializing",
        "I need to make {n} from {numbers}.",
        "The numbers are {numbers} and the target is {n}.",
        "I have to use {numbers} to reach {n}.",
        "The task is to make {n} with {numbers}.",
        "Okay, the goal is {n} and I have {numbers}.",
        "So I should combine {numbers} into {n}.",
    ),
    "rules": _phrases(
        "initializing",
        "Every number must be used exactly once.",
        "I can add, subtract, multiply and divide.",
        "I will begin with two of the numbers.",
    ),
    "step": _phrases(
        "deduction",
        ("{left} = {right}.", 6.0),
        "{left} is {right}.",
        "That gives {left} = {right}.",
        "Then {left} = {right}.",
        "So {left} = {right}.",
    ),
    "left over": _phrases(
        "deduction",
        ("That leaves {numbers}.", 2.0),
        "Now I have {numbers}.",
        "What is left is {numbers}.",
        "The numbers are now {numbers}.",
    ),
    "step that misses": _phrases(
        "deduction",
        ("{left} = {right}, not {n}.", 3.0),
        "Then {left} = {right}, not {n}.",
        "{left} is {right}, which is not {n}.",
        dead_end=True,
    ),
    "step too big": _phrases("deduction", "{left} = {right}, too big.", dead_end=True),
    "step too small": _phrases("deduction", "{left} = {right}, too small.", dead_end=True),
    "miss": _phrases(
        "deduction",
        ("That is {right}, not {n}.", 2.0),
        "I get {right} instead of {n}.",
        "So this misses {n}.",
        dead_end=True,
    ),
    "too big": _phrases("deduction", "That is too big.", dead_end=True),
    "too small": _phrases("deduction", "That is too small.", dead_end=True),
    "pruned": _phrases(
        "deduction",
        "From {right} I cannot reach {n}.",
        "There is no way from {right} to {n}.",
        dead_end=True,
    ),
    "pruned set": _phrases(
        "deduction",
        "With {numbers} I cannot reach {n}.",
        "There is no way from {numbers} to {n}.",
        dead_end=True,
    ),
    "hit": _phrases(
        "deduction",
        "That is exactly {n}.",
        "That hits the target.",
        "This is the number I need.",
    ),
    "conclusion": _phrases(
        "deduction",
        ("So {left} = {right} works.", 3.0),
        "That means {left} = {right}.",
        "Therefore {left} = {right}.",
    ),
    "giving up": _phrases(
        "deduction",
        "I could not find it.",
        "I have found no way to make {n}.",
    ),
    "restate rule": _phrases(
        "initializing",
        "I need a rule that takes {given}.",
        "The rule takes {given} and I want its value at {n}.",
        "Okay, the task is to find what {n} gives.",
        "So I should find the rule that takes {given}.",
    ),
    "rules of rules": _phrases(
        "initializing",
        "One rule must fit every example.",
        "I will begin with one of the examples.",
    ),
    "propose": _phrases(
        "deduction",
        ("So {rule} takes {n} to {right}.", 2.0),
        "That gives the rule {rule}.",
        "The rule {rule} fits {n}.",
    ),
    "fits": _phrases(
        "deduction",
        ("That fits.", 2.0),
        "So {rule} also fits {n}.",
        "That is what {n} gives.",
    ),
    "rule found": _phrases(
        "deduction",
        ("So the rule is {rule}.", 2.0),
        "Therefore the rule is {rule}.",
    ),
    "rule proven": _phrases(
        "deduction",
        "So the rule is {rule}.",
        "The rule {rule} fits every example.",
    ),
    "rule applied": _phrases("deduction", "So {n} gives {right}.", "Therefore {n} gives {right}."),
    "giving up rule": _phrases(
        "deduction",
        "I could not find it.",
        "I have found no rule that fits.",
    ),
    "about rules": _phrases(
        "adding-knowledge",
        "A square grows faster and faster.",
        "Adding the same number keeps every difference.",
        "Multiplying by a number also multiplies every difference.",
        "Two examples are enough to find a line.",
    ),
    "test": _phrases(
        "example-testing",
        ("Let me test this with {n}.", 2.0),
        "Let me check it on {n}.",
        "For example, take {n}.",
        "What about {n}?",
        "Let me see what it does to {n}.",
    ),
    "hope rule": _phrases(
        "uncertainty-estimation",
        "Maybe this is the rule.",
        "Perhaps this is right, but I am not certain.",
        "This looks likely.",
        "I am not sure that this is the rule.",
    ),
    "doubt rule": _phrases(
        "uncertainty-estimation",
        "Hmm, this might not be the rule.",
        "I am not sure that this is the rule.",
        "I doubt that this fits.",
        "It is hard to say if this is right.",
    ),
    "drop rule": _phrases(
        "backtracking",
        "That does not fit, let me go back.",
        "Wait, this rule is wrong, so I will try another one.",
        "No, I need another rule.",
        "Wait, let me try something else.",
        "Actually, let me drop that.",
        "Let me go back and do something different.",
        "This leads nowhere, so I turn to something else.",
    ),
    "prime": _phrases(
        "adding-knowledge", "{n} is prime.", "I know that {n} is prime.", "Note that {n} is prime."
    ),
    "even": _phrases(
        "adding-knowledge", "{n} is even.", "I know that {n} is even.", "Note that {n} is even."
    ),
    "odd": _phrases(
        "adding-knowledge", "{n} is odd.", "I know that {n} is odd.", "Note that {n} is odd."
    ),
    "square": _phrases("adding-knowledge", "{n} is a square.", "I know that {n} is a square."),
    "product": _phrases(
        "adding-knowledge",
        "Recall that {right} = {left}.",
        "I know that {right} = {left}.",
    ),
    "one": _phrases(
        "adding-knowledge",
        "Multiplying by 1 changes nothing.",
        "Dividing by 1 changes nothing.",
    ),
    "same": _phrases("adding-knowledge", "A number divided by itself is 1."),
    "parity": _phrases(
        "adding-knowledge",
        "Two odd numbers add up to an even number.",
        "An odd and an even number add up to an odd number.",
        "An even factor makes the product even.",
    ),
    "try": _phrases(
        "example-testing",
        ("Let me try {pair}.", 2.0),
        "Suppose I start with {pair}.",
        "What about {pair}?",
        "Let me test {pair}.",
        "For example, take {pair}.",
        "Let me see what {pair} gives.",
    ),
    "try next": _phrases(
        "example-testing",
        "Let me try {pair}.",
        "What about {pair}?",
        "Let me test {pair}.",
        "Let me see what {pair} gives.",
    ),
    "doubt": _phrases(
        "uncertainty-estimation",
        "I am not sure this will work.",
        "Maybe this is not the way.",
        "Hmm, this might not work.",
        "I doubt that this helps.",
        "It is hard to say if this can work.",
        "Perhaps this will fail.",
        "I am unsure here.",
    ),
    "hope": _phrases(
        "uncertainty-estimation",
        "Maybe this could work.",
        "Perhaps this is right, but I am not certain.",
        "This looks likely.",
        "I am not sure this will work.",
        "It is hard to say if this can work.",
    ),
    "go back": _phrases(
        "backtracking",
        "That does not work, let me go back.",
        "Wait, this is a dead end, so I will try another way.",
        "Wait, let me try something else.",
        "No, I need another way.",
        "Let me go back and do something different.",
        "This leads nowhere, so I turn to something else.",
        "Actually, let me drop that.",
    ),
    "start over": _phrases(
        "backtracking",
        "Let me start over with {numbers}.",
        "This is a dead end, so I go back to {numbers}.",
    ),
}
"""Every phrase of the chains by role; the generator and the reader share this one table."""
