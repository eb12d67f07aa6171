"""Features of a stretch of a chain in its context: three blocks of n-grams, and its place."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from steerkit.annotation.sentences import Bounds
from steerkit.traces import Trace

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d[\d.,/]*|[^\w\s]")
_PLAIN = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2212", "''\"\"---")
# what a formula is told by is that it has signs, not which ones
_SIGNS = frozenset("+-*/^\u00d7\u00f7\u00b7")


class Unit(NamedTuple):
    """A stretch of a chain with what its label may depend on.

    ``before`` and ``after`` are the texts of the units around it, empty at the ends;
    ``place`` is where it begins, as a share of the thinking section; ``number`` is how many
    units come before it; ``broken`` says whether a line break stands before it.
    """

    text: str
    before: str
    after: str
    place: float
    number: int
    broken: bool


def trace_units(trace: Trace, bounds: Sequence[Bounds]) -> list[Unit]:
    """The units of a trace, for stretches in order."""
    start, end = trace.thinking_bounds
    texts = ["", *(trace.response[first:last] for first, last in bounds), ""]
    made = []
    at = start
    for number, (first, last) in enumerate(bounds):
        before, text, after = texts[number : number + 3]
        place = (first - start) / max(end - start, 1)
        broken = number == 0 or "\n" in trace.response[at:first]
        made.append(Unit(text, before, after, place, number, broken))
        at = last
    return made


def words(text: str) -> list[str]:
    """Words in lower case, ``0`` for a number, ``+`` for a sign of arithmetic, other marks."""
    found = _WORD.findall(text.translate(_PLAIN).casefold())
    return ["0" if w[0].isdigit() else "+" if w in _SIGNS else w for w in found]


def ngrams(items: Sequence[str], low: int, high: int) -> list[str]:
    """All runs of ``low`` to ``high`` items, joined by spaces."""
    return [
        " ".join(items[i : i + size])
        for size in range(low, high + 1)
        for i in range(len(items) - size + 1)
    ]


def word_features(unit: Unit) -> list[str]:
    """Runs of one to three words of the unit, and those it begins and ends with."""
    own = words(unit.text)
    return [
        *ngrams(own, 1, 3),
        *(f"^{' '.join(own[:n])}" for n in (1, 2, 3) if len(own) >= n),
        *(f"{' '.join(own[-n:])}$" for n in (1, 2) if len(own) >= n),
    ]


def character_features(unit: Unit) -> list[str]:
    """Runs of two to five characters within words."""
    found = []
    for word in words(unit.text):
        padded = f" {word} "
        for size in range(2, min(5, len(padded)) + 1):
            found += [padded[i : i + size] for i in range(len(padded) - size + 1)]
    return found


def context_features(unit: Unit) -> list[str]:
    """The words of the unit before, and how that one and the one after begin."""
    before, after = words(unit.before), words(unit.after)
    return [
        *(f"<{gram}" for gram in ngrams(before, 1, 2)),
        *(f"<^{' '.join(before[:n])}" for n in (1, 2) if len(before) >= n),
        *(f">^{' '.join(after[:n])}" for n in (1, 2, 3) if len(after) >= n),
    ]


def place_features(unit: Unit) -> list[float]:
    """Where the unit stands, how long it is and of what kind: numbers from 0 to 1."""
    own = words(unit.text)
    text = unit.text
    return [
        float(unit.number == 0),
        float(unit.number == 1),
        float(unit.number == 2),
        math.exp(-unit.number / 4),
        unit.place,
        float(unit.after == ""),
        float(unit.broken),
        min(math.log1p(len(own)) / 5, 1.0),
        own.count("0") / max(len(own), 1),
        float("?" in text),
        float("=" in text),
        float(text[:1].islower()),
        float(text[-1:] in ",;:"),
    ]


BLOCKS: dict[str, Callable[[Unit], list[str]]] = {
    "words": word_features,
    "characters": character_features,
    "context": context_features,
}
"""Blocks of n-grams, each weighted by tf-idf and normalised on its own."""


def counted(units: Sequence[Unit], block: str, known: Sequence[str]) -> csr_matrix:
    """1 + log(count) of every known feature in every unit [unit, feature]; 0 where it has none."""
    from scipy.sparse import csr_matrix

    column = {feature: number for number, feature in enumerate(known)}
    starts, columns, values = [0], [], []
    for unit in units:
        found = Counter(c for f in BLOCKS[block](unit) if (c := column.get(f)) is not None)
        columns += sorted(found)
        values += [1.0 + math.log(found[c]) for c in sorted(found)]
        starts.append(len(columns))
    return csr_matrix((values, columns, starts), shape=(len(units), len(known)), dtype=np.float64)


def weighted(
    blocks: Iterable[tuple[csr_matrix, Float[np.ndarray, " _"]]],
    place: Float[np.ndarray, "unit place"],
) -> csr_matrix:
    """Features of units [unit, feature]: blocks side by side, then those of place.

    A block comes as counts (:func:`counted`) with inverse document frequencies. Within it,
    values are sublinear term frequency times inverse document frequency, scaled to length 1
    (Manning, Raghavan and Schütze 2008, section 6.4), as scikit-learn's
    ``TfidfVectorizer(sublinear_tf=True)`` has it. Place weighs half.
    """
    from scipy.sparse import csr_matrix, hstack

    parts = []
    for counts, idf in blocks:
        found = counts.multiply(idf[None, :]).tocsr()
        lengths = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)).ravel())
        scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        parts.append(found.multiply(scale[:, None]).tocsr())
    return hstack([*parts, csr_matrix(place / 2)], format="csr")


def matrix(
    units: Sequence[Unit],
    vocabularies: Mapping[str, Sequence[str]],
    idf: Mapping[str, Float[np.ndarray, " _"]],
) -> csr_matrix:
    """:func:`weighted` features of units, for the features that are known."""
    blocks = ((counted(units, block, known), idf[block]) for block, known in vocabularies.items())
    return weighted(blocks, places(units))


def places(units: Sequence[Unit]) -> Float[np.ndarray, "unit place"]:
    """:func:`place_features` of every unit."""
    return np.array([place_features(unit) for unit in units], dtype=np.float64)


def inverse_frequency(counts: csr_matrix) -> Float[np.ndarray, " feature"]:
    """log((1 + units) / (1 + units with the feature)) + 1, float32."""
    have = np.asarray((counts > 0).sum(axis=0)).ravel()
    return (np.log((1 + counts.shape[0]) / (1 + have)) + 1).astype(np.float32)
