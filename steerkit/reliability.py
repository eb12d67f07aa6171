"""Reliability: how far a direction can be trusted, from replicates, halves and eighths of tasks.

Everything here comes from the moments of one pass; nothing runs the model again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from steerkit.directions import DEFAULT_CONTRAST, Sums, columns_of, defined, differences
from steerkit.moments import Moments
from steerkit.reading import FULL, HALF, PART, PARTS, REPLICATE

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.direction import Direction

Whitening = Sequence[Tensor] | None
FEW_SPANS, FEW_TASKS, LOW = 20, 5, 0.5
"""Below these a direction is marked: spans, tasks, cosine between halves."""


def split_half(
    moments: Moments, name: str = DEFAULT_CONTRAST, whitening: Whitening = None
) -> dict[str, Float64[Tensor, " layer"]]:
    """Cosine between the directions of two disjoint halves of the tasks, mean of 20 splits.

    Labels for which no split has the spans it needs on both sides are left out. Read it
    beside :func:`split_half_shuffled`: what the labels add is the difference. A ``whitening``
    (see :func:`steerkit.directions.contrast`) is the same for both halves.
    """
    rows, used = [], torch.zeros(0)
    for i, matrix in _layers(moments, whitening):
        half = columns_of(moments, i, HALF)
        other = _complement(columns_of(moments, i, FULL), half)
        row, used = _mean_cosine(half, other, name, moments.labels, matrix)
        rows.append(row)
    return _by_label(moments, rows, used)


def split_half_shuffled(
    moments: Moments, name: str = DEFAULT_CONTRAST, whitening: Whitening = None
) -> dict[str, Float64[Tensor, " layer"]]:
    """:func:`split_half` of the same chains with labels shuffled within each chain.

    Every split draws its own shuffle. What survives it is not due to single spans: under
    ``overall`` the component of all starts of spans; under ``rest``, ``balanced`` and
    ``A:B`` how chains that are richer in the label differ from others; under ``within``
    nothing but chance.
    """
    rows, used = [], torch.zeros(0)
    for i, matrix in _layers(moments, whitening):
        half = columns_of(moments, i, HALF)
        other = _complement(columns_of(moments, i, FULL), half)
        shuffled = moments.layer_shuffled(i)
        halves = [
            part._replace(features=torch.cat([shuffled[:, side], part.features[:, -1:]], dim=1))
            for side, part in enumerate((half, other))
        ]
        row, used = _mean_cosine(halves[0], halves[1], name, moments.labels, matrix)
        rows.append(row)
    return _by_label(moments, rows, used)


def cone(
    moments: Moments,
    name: str = DEFAULT_CONTRAST,
    share: float = 0.95,
    whitening: Whitening = None,
) -> dict[str, Float64[Tensor, " layer"]]:
    """Angle in degrees around the direction that holds ``share`` of its bootstrap replicates.

    Replicates in which the label lacks spans are left out (:func:`replicates_used` counts
    them), labels without any as well.
    """
    keep = defined(moments, name)
    angles = []
    for i, matrix in _layers(moments, whitening):
        full, _ = differences(columns_of(moments, i, FULL), name, moments.labels, matrix)
        drawn, _ = differences(columns_of(moments, i, REPLICATE), name, moments.labels, matrix)
        cosine = torch.cosine_similarity(drawn, full, dim=-1).clamp(-1.0, 1.0)
        angles.append(torch.rad2deg(torch.arccos(cosine)))
    stacked = torch.stack(angles)  # [layer, replicate, label]
    result = {}
    for k, label in enumerate(moments.labels):
        used = stacked[:, keep[REPLICATE, k], k]
        if keep[0, k] and used.shape[1]:
            rank = math.ceil(share * used.shape[1]) - 1
            result[label] = used.sort(dim=1).values[:, rank]
    return result


def replicates_used(moments: Moments, name: str = DEFAULT_CONTRAST) -> dict[str, int]:
    """Of the 64 bootstrap replicates, those in which the label has the spans it needs."""
    keep = defined(moments, name)[REPLICATE].sum(dim=0)
    return {label: int(n) for label, n in zip(moments.labels, keep, strict=True)}


def learning_curve(
    moments: Moments, layer: int, name: str = DEFAULT_CONTRAST, whitening: Whitening = None
) -> pd.DataFrame:
    """How reliable a direction is when fewer tasks are used: one row a behaviour and size.

    The tasks are divided into eighths by their hash; directions from disjoint sets of one, two
    and four eighths are compared with each other.

    Returns
    -------
    ``behavior``, ``layer``, ``share`` (of the tasks), ``spans`` (mean number in such a set),
    ``cosine`` (mean over pairs of sets), ``pairs``; and ``predicted``, what the noise seen
    between halves foretells: c(m) = 1 / (1 + v / m) for m spans (Spearman 1910, Brown 1910).
    A behaviour without any pair has no row.

    Raises :class:`ExtractionError` for a layer that was not read.
    """
    import pandas as pd

    i = moments.index(layer)
    matrix = None if whitening is None else whitening[i]
    parts = columns_of(moments, i, PART)
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for size in (1, 2, 4):
        for left, right in _disjoint(size):
            a, b = (
                Sums(*(x[list(group)].sum(dim=0, keepdim=True) for x in parts))
                for group in (left, right)
            )
            first, there = differences(a, name, moments.labels, matrix)
            second, too = differences(b, name, moments.labels, matrix)
            cosines = torch.cosine_similarity(first, second, dim=-1)[0]
            both = (there & too)[0]
            spans = (a.counts + b.counts)[0].double() / 2
            for k, label in enumerate(moments.labels):
                if both[k]:
                    key = (label, size / PARTS)
                    found.setdefault(key, []).append((float(spans[k]), float(cosines[k])))
    halves = split_half(moments, name, whitening)
    rows = []
    for (label, share), pairs in found.items():
        average = sum(n for n, _ in pairs) / len(pairs)
        noise = noise_spans(moments, halves, label, i)
        rows.append(
            {
                "behavior": label,
                "layer": layer,
                "share": share,
                "spans": average,
                "cosine": sum(cosine for _, cosine in pairs) / len(pairs),
                "pairs": len(pairs),
                "predicted": math.nan if noise is None else 1 / (1 + noise / average),
            }
        )
    columns = ["behavior", "layer", "share", "spans", "cosine", "pairs", "predicted"]
    return pd.DataFrame(rows, columns=columns).sort_values(["behavior", "share"], ignore_index=True)


def spans_needed(
    moments: Moments,
    layer: int,
    cosine: float = 0.9,
    name: str = DEFAULT_CONTRAST,
    whitening: Whitening = None,
) -> dict[str, float]:
    """How many spans bring the direction within ``cosine`` of the one of endless data.

    The expected cosine to the truth of a direction from m spans is sqrt(1 / (1 + v / m)), v
    being the noise seen between halves; infinite where halves do not agree at all. A
    prediction for more chains like these, not for others.
    """
    i = moments.index(layer)
    halves = split_half(moments, name, whitening)
    found = {label: noise_spans(moments, halves, label, i) for label in halves}
    reached = cosine**2 / (1 - cosine**2)
    return {k: math.inf if v is None else v * reached for k, v in found.items()}


def noise_spans(
    moments: Moments, halves: dict[str, Float64[Tensor, " layer"]], label: str, index: int
) -> float | None:
    """Spans at which noise is as long as the difference itself; ``None`` if halves disagree."""
    if label not in halves or float(halves[label][index]) <= 0:
        return None
    half = float(halves[label][index])
    spans = float(moments.counts[0, moments.labels.index(label)]) / 2
    return spans * (1 / half - 1)


def weakness(direction: Direction) -> str:
    """Why a direction should not be trusted yet, in a few words; empty where nothing speaks
    against it.

    Fewer than 20 spans or 5 tasks, halves of the tasks that agree by a cosine below 0.5 at the
    suggested layer (the best one where none is suggested), or no more than shuffled labels do.
    Where a method measures halves at the suggested layer alone and there is none, or no split had
    both halves, it says that reliability was not measured. Nothing is known, and nothing said, of
    directions that come without these figures.
    """
    if 0 < direction.spans < FEW_SPANS:
        return f"{direction.spans} spans"
    if direction.tasks is not None and 0 < direction.tasks < FEW_TASKS:
        return f"{direction.tasks} tasks"
    if direction.split_half is None:
        return ""
    halves = direction.split_half.nan_to_num(nan=-1.0)
    i = int(halves.argmax()) if direction.layer is None else direction.row(direction.layer)
    half = float(direction.split_half[i])
    if math.isnan(half):
        return "reliability not measured"
    if half < LOW:
        return f"halves agree by {half:.2f}"
    shuffled = direction.split_half_shuffled
    if shuffled is not None and float(shuffled[i]) >= half:
        return "no better than shuffled labels"
    return ""


def _layers(moments: Moments, whitening: Whitening) -> Iterator[tuple[int, Tensor | None]]:
    for i in range(len(moments.layers)):
        yield i, None if whitening is None else whitening[i]


def _complement(whole: Sums, part: Sums) -> Sums:
    """Everything that is not in the part; ``whole`` has one column."""
    return Sums(*(all_ - some for all_, some in zip(whole, part, strict=True)))


def _disjoint(size: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of disjoint sets of ``size`` eighths: of blocks side by side, shifted by each place."""
    pairs = set()
    for shift in range(size):
        turned = [(p + shift) % PARTS for p in range(PARTS)]
        blocks = [tuple(sorted(turned[at : at + size])) for at in range(0, PARTS, size)]
        pairs |= {tuple(sorted(pair)) for pair in combinations(blocks, 2)}
    return sorted(pairs)  # type: ignore[arg-type]


def _mean_cosine(
    left: Sums, right: Sums, name: str, labels: tuple[str, ...], whitening: Tensor | None
) -> tuple[Float64[Tensor, " label"], Int64[Tensor, " label"]]:
    a, a_defined = differences(left, name, labels, whitening)
    b, b_defined = differences(right, name, labels, whitening)
    both = a_defined & b_defined
    cosines = torch.cosine_similarity(a, b, dim=-1) * both
    return cosines.sum(dim=0) / both.sum(dim=0).clamp(min=1), both.sum(dim=0)


def _by_label(
    moments: Moments, rows: list[Tensor], used: Tensor
) -> dict[str, Float64[Tensor, " layer"]]:
    stacked = torch.stack(rows, dim=1)
    return {label: stacked[i] for i, label in enumerate(moments.labels) if used[i] > 0}
