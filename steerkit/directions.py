"""Directions from moments: contrasts of means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from steerkit.behaviors import behavior
from steerkit.errors import BehaviorError, ExtractionError
from steerkit.moments import Moments
from steerkit.reading import REPLICATE

CONTRASTS = ("overall", "rest", "balanced", "within")
"""Named contrasts; ``A:B`` is the fifth, one behaviour minus another."""
DEFAULT_CONTRAST = "balanced"
"""Of methods that take it: see :func:`steerkit.methods.default_contrast`."""


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


def full_contrast(name: str, labels: tuple[str, ...]) -> str:
    """A contrast with full names of behaviours; raises as :func:`parse_contrast` does."""
    kind = parse_contrast(name, labels)
    return kind if isinstance(kind, str) else ":".join(kind)


def differences(
    sums: Sums,
    name: str,
    labels: tuple[str, ...],
    whitening: Float64[Tensor, "d_model d_model"] | None = None,
) -> tuple[Float64[Tensor, "column label d_model"], Bool[Tensor, "column label"]]:
    """Raw directions of one layer in every column, and where they are defined.

    A direction that lacks its spans, or the spans it is contrasted with, is zero. Each is
    multiplied by the symmetric matrix ``whitening``, if there is one.
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
    if whitening is not None:
        difference = difference @ whitening
    return difference * defined[..., None], defined


def columns_of(moments: Moments, index: int, columns: slice) -> Sums:
    """Some columns of the layer at ``index``."""
    return Sums(
        moments.layer_sums(index)[columns],
        moments.counts[columns],
        moments.within_counts[columns],
        moments.chains[columns],
    )


def contrast(
    moments: Moments,
    name: str = DEFAULT_CONTRAST,
    column: int = 0,
    whitening: Sequence[Tensor] | None = None,
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
        0 for all chains, 1 to 64 for a bootstrap replicate, 65 to 84 for a half, 85 to 92
        for an eighth of the tasks.
    whitening:
        For every layer a symmetric matrix that directions are multiplied by
        (:func:`steerkit.covariance.precision`).

    Returns
    -------
    Zero, never NaN, where a label lacks the spans it needs: see :func:`defined`.

    Do not use ``overall`` to compare behaviours with each other: its directions share the
    component of all starts of spans.
    """
    chosen = slice(column, column + 1)
    rows = []
    for i in range(len(moments.layers)):
        matrix = None if whitening is None else whitening[i]
        sums = columns_of(moments, i, chosen)
        rows.append(differences(sums, name, moments.labels, matrix)[0][0])
    return torch.stack(rows, dim=1)


def defined(moments: Moments, name: str = DEFAULT_CONTRAST) -> Bool[Tensor, "column label"]:
    """Whether a label has, in a column, the spans that the contrast needs."""
    return differences(columns_of(moments, 0, slice(None)), name, moments.labels)[1]


def replicates(
    moments: Moments, index: int, name: str = DEFAULT_CONTRAST
) -> tuple[Float64[Tensor, "column label d_model"], Bool[Tensor, "column label"]]:
    """Raw directions at ``moments.layers[index]``: of all chains, then of the 64 replicates.

    Beside them where they are defined; a direction that is not is zero.
    """
    chosen = columns_of(moments, index, slice(0, REPLICATE.stop))
    return differences(chosen, name, moments.labels)


def shuffled_contrasts(
    moments: Moments, name: str = DEFAULT_CONTRAST
) -> Float64[Tensor, "shuffle label layer d_model"]:
    """:func:`contrast` of the same chains with labels shuffled within each chain, 20 times.

    A control that needs no second pass: moments hold the sums of 20 shuffles. What such a
    direction shares with anything else is not due to what single sentences do. Labels keep their
    numbers of spans in every chain, so under ``rest`` and ``balanced`` it still holds how chains
    that are richer in a label differ from others, and under ``overall`` what is common to all
    starts of spans; under ``within`` nothing but chance.
    """
    rows = []
    for i in range(len(moments.layers)):
        full = columns_of(moments, i, slice(0, 1))
        features = moments.layer_shuffled(i).sum(dim=1)  # both halves of the tasks
        shuffles = len(features)
        whole = torch.cat([features, full.features[:, -1:].expand(shuffles, -1, -1)], dim=1)
        sums = Sums(whole, *(part.expand(shuffles, *part.shape[1:]) for part in full[1:]))
        rows.append(differences(sums, name, moments.labels)[0])
    return torch.stack(rows, dim=2)
