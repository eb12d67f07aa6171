"""Openers: the words by which a sentence shows that it will be one of a behaviour."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from string import Formatter
from typing import Any

from steerkit.errors import TaskError
from steerkit.puzzles.phrases import PHRASES

_PIECE = re.compile(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9\s]")
_ENDS = {".", "?", "!"}


def openers(label: str) -> dict[tuple[str, ...], frozenset[str]]:
    """By the beginning of a sentence, the words after which it can only be one of ``label``.

    For ``backtracking``: at the start of a sentence ``Wait``, ``No`` and ``Actually``, after
    ``That`` the word ``does``, after ``Let me`` the words ``go`` and ``start``, and so on. The
    beginning is that of no other behaviour's sentence once the word stands there.

    Raises :class:`TaskError` for a label without phrases, and for one whose phrases begin as
    another's until a number comes.
    """
    own: list[tuple[str, ...]] = []
    other: list[tuple[str, ...]] = []
    for phrases in PHRASES.values():
        for phrase in phrases:
            literal = next(iter(Formatter().parse(phrase.template)))[0]
            (own if phrase.label == label else other).append(tuple(_PIECE.findall(literal)))
    if not own:
        raise TaskError(f"no phrases are labelled {label!r}")
    found: dict[tuple[str, ...], set[str]] = {}
    for words in own:
        for length in range(1, len(words) + 1):
            if not any(begun[:length] == words[:length] for begun in other):
                found.setdefault(words[: length - 1], set()).add(words[length - 1])
                break
        else:
            raise TaskError(
                f"sentences of {label!r} cannot be told by their beginning", found=" ".join(words)
            )
    return {beginning: frozenset(words) for beginning, words in found.items()}


def forbid(label: str, tokenizer: Any) -> Callable[[Sequence[int]], list[int]]:
    """What may not come next, so that a chain holds no sentence of ``label``.

    For ``generate(..., forbid=...)`` with a bundled model and its tokenizer: the function
    takes the ids written so far and returns the ids of the tokens that would make the current
    sentence one of ``label``. Only the openers are forbidden. Where sentences of several kinds
    begin alike, the ban comes after the words that they share, and what is left there is said
    more often: an effect on accuracy is that of the ban, not of the behaviour alone. It does
    nothing to text that the grammar does not know.

    Raises :class:`TaskError` as :func:`openers` does, and for a tokenizer in which an opener is
    no token of its own: there the ban would let it pass.
    """
    words = {i: piece.strip(" ") for piece, i in tokenizer.get_vocab().items()}
    spelled: dict[str, list[int]] = {}
    for i, word in words.items():
        spelled.setdefault(word, []).append(i)
    begun_by = openers(label)
    unknown = sorted({word for nexts in begun_by.values() for word in nexts} - spelled.keys())
    if unknown:
        raise TaskError(
            "the tokenizer does not have the openers as tokens",
            expected="the tokenizer of the bundled models",
            found=f"no token for {', '.join(unknown[:5])}",
        )
    banned = {
        beginning: [i for word in sorted(nexts) for i in spelled[word]]
        for beginning, nexts in begun_by.items()
    }
    starts = _ENDS | {"\n", "<think>"}

    def ban(ids: Sequence[int]) -> list[int]:
        begun: list[str] = []
        # a chain that has only begun is all one sentence
        for i in reversed(ids):
            if words[i] in starts:
                break
            if words[i]:  # a space alone is no word
                begun.append(words[i])
        return banned.get(tuple(reversed(begun)), [])

    return ban
