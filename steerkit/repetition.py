"""Repetition: three measures of text that goes round in circles."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_WORD = re.compile(r"\S+")


def zlib_ratio(text: str) -> float:
    """Compressed over plain size of the UTF-8 text, level 9; lower is more repetitive.

    Depends on the length: a short text hardly shrinks. Compare texts of like length, or the
    same one's beginning. 1 for no text.
    """
    plain = text.encode()
    return len(zlib.compress(plain, 9)) / len(plain) if plain else 1.0


def repeated_sentences(text: str) -> float:
    """Share of sentences of three words or more that stood in the text before, 0 to 1.

    Sentences end at ``.``, ``!``, ``?`` or a line break and are compared word by word, without
    regard to case. 0 where there is no such sentence.
    """
    words = [tuple(_WORD.findall(s.casefold())) for s in _SENTENCE.findall(text)]
    long = [sentence for sentence in words if len(sentence) >= 3]
    return sum(n - 1 for n in Counter(long).values()) / len(long) if long else 0.0


def longest_loop(tokens: Sequence[int] | Sequence[str], *, longest: int = 64) -> int:
    """Tokens of the longest passage that repeats one n-gram back to back, n up to ``longest``.

    ``a b a b a b`` has 6: an n-gram of 2, three times. Two occurrences at least, else 0.
    """
    numbers: dict[int | str, int] = {}
    row = np.array([numbers.setdefault(token, len(numbers)) for token in tokens], dtype=np.int64)
    best = 0
    for n in range(1, min(longest, len(row) // 2) + 1):
        same = np.concatenate([[False], row[n:] == row[:-n], [False]])
        # runs of tokens that are equal to the one n before them
        run = int(np.diff(np.flatnonzero(~same)).max()) - 1
        # the first occurrence counts too, and only whole ones do
        if run >= n:
            best = max(best, n * (run // n + 1))
    return best
