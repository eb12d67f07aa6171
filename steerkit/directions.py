"""Directions from moments: contrasts of means, and how reliable they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from steerkit.behaviors import behavior
from steerkit.errors import BehaviorError, ExtractionError
from steerkit.moments import Moments
from steerkit.reading import REPLICATES

CONTRASTS = ("overall", "rest", "balanced", "within")
"""Named contrasts; ``A:B`` is the fifth, one behaviour minus another."""
DEFAULT_CONTRAST = "rest"


class Sums(NamedTuple):
    """One layer's sums in some columns, with the counts that turn them into means."""

    features: Float64[Tensor, "column feature d_model"]
    counts: Int64[Tensor, "column label"]
    within_counts: Int64[Tensor, "column label"]
    chains: Int64[Tensor, " column"]


def parse_contrast(name: str, labels: tuple[str, ...]) -> str | tuple[str, str]:
    """A contrast's name, or the two behaviours of ``A:B`` (short names become full ones).

    Raises :class:`ExtractionError` for anything else, and for a behaviour that is not
    among ``labels``.
    """
    if name in CONTRASTS:
        return name
    parts = name.split(":")
    if len(parts) != 2:
        raise ExtractionError(
            f"unknown contrast {name!r}", expected=f"one of {', '.join(CONTRASTS)}, or A:B"
        )
    try:
        left, right = (behavior(part).name for part in parts)
    except BehaviorError as problem:
        raise ExtractionError(
            f"contrast {name!r}: {problem.problem}", expected=problem.expected, fix=problem.fix
        ) from None
    for label in (left, right):
        if label not in labels:
            raise ExtractionError(
                f"contrast {name!r} needs spans of {label!r}",
                expected="one of " + ", ".join(labels),
            )
    if left == right:
        raise ExtractionError(f"contrast {name!r} sets a behaviour against itself")
    return left, right


def _differences(
    sums: Sums, name: str, labels: tuple[str, ...]
) -> tuple[Float64[Tensor, "column label d_model"], Bool[Tensor, "column label"]]:
    """Raw directions of one layer in every column, and where they are defined.

    A direction that lacks its spans, or the spans it is contrasted with, is zero.
    """
    n_labels = len(labels)
    totals, within = sums.features[:, :n_labels], sums.features[:, n_labels : 2 * n_labels]
    count = sums.counts[..., None].double()
    present = sums.counts > 0
    means = totals / count.clamp(min=1)
    kind = parse_contrast(name, labels)
    if isinstance(kind, tuple):
        left, right = (labels.index(label) for label in kind)
        difference = torch.zeros_like(means)
        difference[:, left] = means[:, left] - means[:, right]
        defined = torch.zeros_like(present)
        defined[:, left] = present[:, left] & present[:, right]
    elif kind == "overall":
        overall = sums.features[:, 2 * n_labels] / sums.chains[:, None].clamp(min=1)
        difference = means - overall[:, None]
        defined = present & (sums.chains > 0)[:, None]
    elif kind == "within":
        difference = within / sums.within_counts[..., None].clamp(min=1)
        defined = sums.within_counts > 0
    else:
        if kind == "balanced":  # every other label's mean counts the same
            totals, count = means, present[..., None].double()
        others = totals.sum(dim=1, keepdim=True) - totals
        n_others = count.sum(dim=1, keepdim=True) - count
        difference = means - others / n_others.clamp(min=1)
        defined = present & (n_others[..., 0] > 0)
    return difference * defined[..., None], defined


def _columns(moments: Moments, index: int, columns: slice) -> Sums:
    return Sums(
        moments.layer_sums(index)[columns],
        moments.counts[columns],
        moments.within_counts[columns],
        moments.chains[columns],
    )


def _complement(whole: Sums, part: Sums) -> Sums:
    """Everything that is not in the part; ``whole`` has one column."""
    return Sums(*(all_ - some for all_, some in zip(whole, part, strict=True)))


def contrast(
    moments: Moments, name: str = DEFAULT_CONTRAST, column: int = 0
) -> Float64[Tensor, "label layer d_model"]:
    """Raw directions: difference of means by label and layer, in one column.

    Parameters
    ----------
    moments:
        Of the chains to extract from.
    name:
        ``overall``: minus the mean over thinking sections, each chain equally (Venhoff et
        al. 2025). ``rest``: minus the mean over the other labels' spans, spans equally.
        ``balanced``: minus the mean of the other labels' means. ``within``: mean of the
        label's spans minus mean of the other spans inside each chain that has both,
        averaged over those chains. ``A:B``: mean of A's spans minus mean of B's, for A
        alone.
    column:
        0 for all chains, 1 to 64 for a bootstrap replicate, 65 to 84 for a half.

    Returns
    -------
    Zero, never NaN, where a label lacks the spans it needs: see :func:`defined`.

    Do not use ``overall`` to compare behaviours with each other: its directions share the
    component of all starts of spans.
    """
    layers = range(len(moments.layers))
    chosen = slice(column, column + 1)
    rows = [_differences(_columns(moments, i, chosen), name, moments.labels)[0][0] for i in layers]
    return torch.stack(rows, dim=1)


def defined(moments: Moments, name: str = DEFAULT_CONTRAST) -> Bool[Tensor, "column label"]:
    """Whether a label has, in a column, the spans that the contrast needs."""
    return _differences(_columns(moments, 0, slice(None)), name, moments.labels)[1]


def replicates(
    moments: Moments, index: int, name: str = DEFAULT_CONTRAST
) -> tuple[Float64[Tensor, "column label d_model"], Bool[Tensor, "column label"]]:
    """Raw directions at ``moments.layers[index]``: of all chains, then of the 64 replicates.

    Beside them where they are defined; a direction that is not is zero.
    """
    chosen = _columns(moments, index, slice(0, 1 + REPLICATES))
    return _differences(chosen, name, moments.labels)


def _mean_cosine(
    left: Sums, right: Sums, name: str, labels: tuple[str, ...]
) -> tuple[Float64[Tensor, " label"], Int64[Tensor, " label"]]:
    a, a_defined = _differences(left, name, labels)
    b, b_defined = _differences(right, name, labels)
    both = a_defined & b_defined
    cosines = torch.cosine_similarity(a, b, dim=-1) * both
    return cosines.sum(dim=0) / both.sum(dim=0).clamp(min=1), both.sum(dim=0)


def _by_label(
    moments: Moments, rows: list[Tensor], used: Tensor
) -> dict[str, Float64[Tensor, " layer"]]:
    stacked = torch.stack(rows, dim=1)
    return {label: stacked[i] for i, label in enumerate(moments.labels) if used[i] > 0}


def split_half(
    moments: Moments, name: str = DEFAULT_CONTRAST
) -> dict[str, Float64[Tensor, " layer"]]:
    """Cosine between the directions of two disjoint halves of the tasks, mean of 20 splits.

    Labels for which no split has the spans it needs on both sides are left out. Read it
    beside :func:`split_half_shuffled`: what the labels add is the difference.
    """
    rows, used = [], torch.zeros(0)
    for i in range(len(moments.layers)):
        half = _columns(moments, i, slice(1 + REPLICATES, None))
        other = _complement(_columns(moments, i, slice(0, 1)), half)
        row, used = _mean_cosine(half, other, name, moments.labels)
        rows.append(row)
    return _by_label(moments, rows, used)


def split_half_shuffled(
    moments: Moments, name: str = DEFAULT_CONTRAST
) -> dict[str, Float64[Tensor, " layer"]]:
    """:func:`split_half` of the same chains with labels shuffled within each chain.

    Every split draws its own shuffle. What survives it is not due to single spans: under
    ``overall`` the component of all starts of spans; under ``rest``, ``balanced`` and
    ``A:B`` how chains that are richer in the label differ from others; under ``within``
    nothing but chance.
    """
    rows, used = [], torch.zeros(0)
    for i in range(len(moments.layers)):
        half = _columns(moments, i, slice(1 + REPLICATES, None))
        other = _complement(_columns(moments, i, slice(0, 1)), half)
        shuffled = moments.layer_shuffled(i)
        halves = [
            part._replace(features=torch.cat([shuffled[:, side], part.features[:, -1:]], dim=1))
            for side, part in enumerate((half, other))
        ]
        row, used = _mean_cosine(halves[0], halves[1], name, moments.labels)
        rows.append(row)
    return _by_label(moments, rows, used)


def cone(
    moments: Moments, name: str = DEFAULT_CONTRAST, share: float = 0.95
) -> dict[str, Float64[Tensor, " layer"]]:
    """Angle in degrees around the direction that holds ``share`` of its bootstrap replicates.

    Replicates in which the label lacks spans are left out (:func:`replicates_used` counts
    them), labels without any as well.
    """
    replicates = slice(1, 1 + REPLICATES)
    keep = defined(moments, name)
    angles = []
    for i in range(len(moments.layers)):
        full, _ = _differences(_columns(moments, i, slice(0, 1)), name, moments.labels)
        drawn, _ = _differences(_columns(moments, i, replicates), name, moments.labels)
        cosine = torch.cosine_similarity(drawn, full, dim=-1).clamp(-1.0, 1.0)
        angles.append(torch.rad2deg(torch.arccos(cosine)))
    stacked = torch.stack(angles)  # [layer, replicate, label]
    result = {}
    for k, label in enumerate(moments.labels):
        used = stacked[:, keep[replicates, k], k]
        if keep[0, k] and used.shape[1]:
            rank = math.ceil(share * used.shape[1]) - 1
            result[label] = used.sort(dim=1).values[:, rank]
    return result


def replicates_used(moments: Moments, name: str = DEFAULT_CONTRAST) -> dict[str, int]:
    """Of the 64 bootstrap replicates, those in which the label has the spans it needs."""
    keep = defined(moments, name)[1 : 1 + REPLICATES].sum(dim=0)
    return {label: int(n) for label, n in zip(moments.labels, keep, strict=True)}
