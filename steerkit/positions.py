"""Positions: which tokens a span is read from, and which phase each position belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int8
from torch import Tensor

from steerkit.errors import WindowError

PROMPT, THINK, ANSWER, PAD = 0, 1, 2, 3
"""Phase of a position: that of the token it *predicts*; padding has none."""


@dataclass(frozen=True)
class Window:
    """Which tokens a span is read from: ``before`` tokens ahead of it, ``length`` of its own.

    The default is the token before the span alone, the *onset*: there the model decides what
    comes, and a push along its direction moves the behaviour most (`make defaults`).
    ``Window(1, 10)`` is that of Venhoff et al. 2025 (arXiv 2506.18167), for directions to be
    compared with theirs: the token before the span, then at most ten of its own, never its last.
    """

    before: int = 1
    length: int = 0

    def __post_init__(self) -> None:
        if min(self.before, self.length) < 0 or self.before + self.length == 0:
            raise WindowError(
                "a window must read at least one token",
                expected="before >= 0, length >= 0, not both 0",
                found=f"before={self.before}, length={self.length}",
            )

    @staticmethod
    def parse(text: str) -> Window:
        """A window from ``"before,length"``, such as ``"1,10"``."""
        parts = text.split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise WindowError("not a window", expected="before,length as in 1,10", found=repr(text))
        return Window(int(parts[0]), int(parts[1]))

    @property
    def words(self) -> str:
        """What is read of a span.

        >>> Window(1, 10).words
        'the token before it, then at most 10 of its own, never its last'
        """
        ahead = "the token" if self.before == 1 else f"the {self.before} tokens"
        own = f"at most {self.length} of its own, never its last"
        parts = [f"{ahead} before it"] * (self.before > 0) + [own] * (self.length > 0)
        return ", then ".join(parts)

    def tokens(self, start: int, end: int) -> range:
        """Tokens that are read of a span of tokens [start, end); may be empty.

        Token i is read when max(start - before, 0) <= i < min(start + length, end - 1).
        """
        return range(max(start - self.before, 0), min(start + self.length, end - 1))


def span_tokens(
    spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]], text: str
) -> list[tuple[int, int]]:
    """Token ranges [s, e) of character spans; s == e where a span holds no token.

    A token belongs to a span when their characters overlap; one that overlaps two spans
    belongs to the one that holds its first non-space character.

    Parameters
    ----------
    spans:
        Disjoint, sorted character spans [start, end).
    offsets:
        Character range of every token in ``text``, in order.
    """
    ranges: list[tuple[int, int]] = []
    # first span whose end lies beyond the token; both lists are sorted, so one sweep is enough
    owner: dict[int, list[int]] = {}
    current = 0
    for token, (left, right) in enumerate(offsets):
        if right <= left:
            continue
        while current < len(spans) and spans[current][1] <= left:
            current += 1
        touched = []
        for number in range(current, len(spans)):
            if spans[number][0] >= right:
                break
            touched.append(number)
        if not touched:
            continue
        chosen = touched[0]
        if len(touched) > 1:
            piece = text[left:right]
            first = left + len(piece) - len(piece.lstrip())
            chosen = next((n for n in touched if spans[n][0] <= first < spans[n][1]), touched[0])
        owner.setdefault(chosen, []).append(token)
    for number in range(len(spans)):
        tokens = owner.get(number)
        ranges.append((tokens[0], tokens[-1] + 1) if tokens else (0, 0))
    return ranges


def still_opening(text: str, opening: str) -> bool:
    """Whether a response that should open its thinking itself has not done so yet.

    ``text`` is what it has written so far. While it may still become the opening string its
    positions are ``prompt``; with the token that completes the string, or that makes clear
    that it goes on without one, its thinking begins.
    """
    head = text.lstrip()
    return len(head) < len(opening) and opening.startswith(head)


def phases(length: int, think_start: int, answer_start: int) -> Int8[Tensor, " position"]:
    """Phase of each of ``length`` positions, by the token that it predicts.

    Parameters
    ----------
    think_start:
        Position that holds the (last token of the) opening think string: it predicts the
        first thought.
    answer_start:
        Position that holds the (last token of the) closing think string, or ``length``
        for a chain that never closed.
    """
    result = torch.full((length,), PROMPT, dtype=torch.int8)
    result[think_start:] = THINK
    result[answer_start:] = ANSWER
    return result
