"""Behavior: a kind of reasoning step with a name, a definition and a colour."""

from __future__ import annotations

import re
from dataclasses import dataclass

from steerkit.errors import BehaviorError

UNPARSED = "unparsed"
"""What an annotator that does not know a sentence says of it; never a behaviour."""


@dataclass(frozen=True)
class Behavior:
    """A kind of reasoning step that can be annotated, extracted and steered.

    Attributes
    ----------
    name:
        Lower-case words joined by hyphens or underscores; the label in traces files.
    definition:
        One sentence an annotator could work by.
    color:
        ``#rrggbb``, used in every figure and page.
    short:
        Another name accepted wherever a behaviour is asked for, or ``None``.
    """

    name: str
    definition: str
    color: str = "#7f7f7f"
    short: str | None = None

    def __post_init__(self) -> None:
        for name in (self.name, self.short):
            if name is not None and not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
                raise BehaviorError(
                    "a behaviour has an unusable name",
                    expected="lower-case words joined by hyphens or underscores",
                    found=repr(name),
                )
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise BehaviorError(
                f"behaviour {self.name!r} has an unusable colour",
                expected="#rrggbb",
                found=repr(self.color),
            )


# Definitions after Venhoff et al. 2025 (arXiv 2506.18167), in our own words.
# Colours: Okabe and Ito's palette, which colour-blind readers can tell apart.
BUILT_IN = (
    Behavior("initializing", "restates the task or says how to begin", "#999999"),
    Behavior("deduction", "takes a step that follows from the current approach", "#0072B2"),
    Behavior("adding-knowledge", "recalls a fact that the task did not give", "#009E73"),
    Behavior("example-testing", "makes up a case or candidate and tries it", "#E69F00"),
    Behavior(
        "uncertainty-estimation",
        "says how sure or unsure it is",
        "#CC79A7",
        short="uncertainty",
    ),
    Behavior("backtracking", "gives up the current approach and turns to another", "#D55E00"),
)

_known: dict[str, Behavior] = {behavior.name: behavior for behavior in BUILT_IN}


def behaviors() -> tuple[Behavior, ...]:
    """Every known behaviour: the six built in, then those declared, in that order."""
    return tuple(_known.values())


def declare(behavior: Behavior) -> Behavior:
    """Make a behaviour of your own known to readers, extraction and steering.

    Declaring one of your own again replaces it, as when a notebook cell is run twice. A name
    or short name of another behaviour, and one built in, raise :class:`BehaviorError`.
    """
    taken = {name for b in behaviors() if b.name != behavior.name for name in (b.name, b.short)}
    taken.add(UNPARSED)
    clash = next((n for n in (behavior.name, behavior.short) if n in taken and n), None)
    built_in = next((b for b in BUILT_IN if b.name == behavior.name), behavior)
    if clash or built_in != behavior:
        raise BehaviorError(
            f"the name {clash or behavior.name!r} is taken by another behaviour",
            fix="choose another name",
        )
    _known[behavior.name] = behavior
    return behavior


def behavior(name: str) -> Behavior:
    """The behaviour of that name or short name; :class:`BehaviorError` lists the known ones."""
    for known in _known.values():
        if name in (known.name, known.short):
            return known
    raise BehaviorError(
        f"unknown behaviour {name!r}",
        expected="one of " + ", ".join(_known),
        fix="declare your own with sk.declare(sk.Behavior(name, definition)), "
        "or --declare NAME on the command line",
    )
