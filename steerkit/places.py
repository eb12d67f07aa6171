"""Where a term acts: what the positions of a forward pass are, and which ones a place names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Int8, Int64
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.positions import ANSWER, PAD, PROMPT, THINK

_ENDS = re.compile(r"[.!?][\"'\u201d\u2019)\]*]*\s*$|\n\s*$")


@dataclass(frozen=True)
class Steps:
    """A window of the response: positions that predict its tokens ``start`` to ``stop`` - 1."""

    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            value = getattr(self, name)
            if value is None and name == "stop":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise SteeringError(
                    f"the {name} of a window of steps is no step",
                    expected="a whole number",
                    found=repr(value),
                )
            object.__setattr__(self, name, int(value))
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise SteeringError(
                "an empty window of steps", expected="0 <= start < stop", found=repr(self)
            )


@dataclass(frozen=True)
class Mask:
    """Positions named one by one, counted from the first token of the prompt.

    ``Mask([False, True])`` names the second position alone: what is not listed is not named.
    Numbers may be given for truth values if they are 0 and 1. The same positions are named in
    every row; rows that differ take terms of their own. Raises :class:`SteeringError` for
    anything else, such as a tensor of two dimensions or a list of positions.
    """

    positions: tuple[bool, ...]

    def __init__(self, positions: Sequence[bool] | Tensor) -> None:
        tensor = isinstance(positions, Tensor)
        listed = positions.tolist() if tensor else positions  # type: ignore[union-attr]
        if not isinstance(listed, Iterable) or isinstance(listed, str):
            raise _no_mask(listed)
        listed = list(listed)
        for place, value in enumerate(listed):
            # an array or a list of several values is a row, not a value
            if getattr(value, "shape", ()) != () or isinstance(value, Sequence | set):
                raise _no_mask(type(value).__name__, place)
            if value not in (0, 1):
                raise _no_mask(repr(value), place)
        object.__setattr__(self, "positions", tuple(bool(value) for value in listed))


def _no_mask(found: object, place: int | None = None) -> SteeringError:
    return SteeringError(
        "a mask lists a truth value for every position",
        expected="one dimension of True and False, such as [False, True, True]",
        found=found,
        where=None if place is None else f"position {place} of the mask",
        fix="give every row of a batch a term with its own mask",
    )


Place = Literal["all", "prompt", "generated", "think", "answer", "sentences"]
PLACES: tuple[Place, ...] = get_args(Place)
Where = Place | Steps | Mask
"""``sentences``: thinking positions that predict the first token of a sentence."""


@dataclass
class Positions:
    """What the positions of a forward pass are, row by row; a phase of PAD is padding.

    Attributes
    ----------
    phase:
        Phase codes (:mod:`steerkit.positions`).
    index:
        Place in the row's own sequence, the first token of the prompt being 0.
    step:
        Number of the response's token that the position predicts; -1 within the prompt.
    starts:
        Whether the position predicts the first token of a sentence.
    """

    phase: Int8[Tensor, "row position"]
    index: Int64[Tensor, "row position"]
    step: Int64[Tensor, "row position"]
    starts: Bool[Tensor, "row position"]

    def select(self, rows: Any) -> Positions:
        """These rows only, in this order."""
        return Positions(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Positions]) -> Positions:
        """The rows of several, one after another."""
        return Positions(
            *(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Positions))
        )


def where_mask(where: Where, positions: Positions) -> Bool[Tensor, "row position"]:
    """Positions that ``where`` names; padding is in none.

    Raises :class:`SteeringError` for an unknown place.
    """
    phase, step = positions.phase, positions.step
    real = phase != PAD
    if isinstance(where, Steps):
        inside = (step >= where.start) & real
        return inside if where.stop is None else inside & (step < where.stop)
    if isinstance(where, Mask):
        listed = torch.tensor([*where.positions, False])
        return listed[positions.index.clamp(max=len(where.positions))] & real
    if where == "all":
        return real
    if where == "generated":
        return (step >= 0) & real
    if where == "sentences":
        return positions.starts & (phase == THINK)
    codes = {"prompt": PROMPT, "think": THINK, "answer": ANSWER}
    check_where(where)
    return phase == codes[where]


def ends_sentence(text: str) -> bool | None:
    """Whether a token that spells ``text`` ends a sentence; ``None`` for mere white space.

    A sentence ends with ``.``, ``!``, ``?`` or a line break, and closing quotes or brackets
    after it. A decimal point counts as an end: what follows is not known yet.
    """
    if not text.strip() and "\n" not in text:
        return None
    return _ENDS.search(text) is not None


def check_where(where: object) -> None:
    """Refuse an unknown place with :class:`SteeringError`."""
    if not isinstance(where, Steps | Mask) and where not in PLACES:
        raise SteeringError(
            f"unknown place {where!r}", expected="one of " + ", ".join(PLACES) + ", Steps or Mask"
        )


_WORDS = {
    "prompt": "in the prompt",
    "generated": "in what is generated",
    "think": "while thinking",
    "answer": "in the answer",
    "sentences": "where a thought begins a sentence",
}


def where_words(recorded: Any) -> str:
    """Words for a place as :func:`where_json` records it; none for ``all``.

    >>> where_words("sentences")
    'where a thought begins a sentence'
    """
    if isinstance(recorded, dict):
        return "at chosen steps" if "steps" in recorded else "at chosen positions"
    return _WORDS.get(str(recorded), "")


def where_json(where: Where) -> Any:
    """A place as it is recorded with a chain."""
    if isinstance(where, Steps):
        return {"steps": [where.start, where.stop]}
    if isinstance(where, Mask):
        return {"positions": [i for i, named in enumerate(where.positions) if named]}
    return where
