"""Geometry: cosines between directions, freed of sampling noise, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from steerkit.behaviors import behavior
from steerkit.cosine_matrix import Cosines, normalised
from steerkit.directions import DEFAULT_CONTRAST, defined, replicates
from steerkit.errors import ExtractionError, StatisticsError
from steerkit.moments import Moments
from steerkit.reading import REPLICATES

MIN_TASKS = 8
"""Tasks with spans of a behaviour below which no interval of its cosines is given."""


def cosines(
    moments: Moments,
    contrast: str = DEFAULT_CONTRAST,
    behaviors: Iterable[str] | None = None,
    *,
    level: float = 0.95,
) -> Cosines:
    """Cosines between behaviours' directions by layer, freed of noise, with intervals.

    What is extracted for two behaviours is x = a + e and y = b + f: means over few spans, with
    noise e and f. Noise makes both longer, so their cosine is too small; and under contrasts
    that share spans e and f lie along each other, which shifts it. Both are taken out: the
    expected products of noise, E e.f, E e.e and E f.f, are the covariances of the 64 bootstrap
    replicates over tasks, and

        corrected = (x.y - E e.f) / sqrt((x.x - E e.e) (y.y - E f.f))

    (a correction for attenuation: Spearman 1904). The interval is Fieller's (1954) for this
    ratio: numerator and denominator are linear in e and f to first order, and their
    covariance is that over replicates. The percentiles of the replicates' own cosines are no
    interval: replicates carry the noise twice.

    Parameters
    ----------
    moments:
        Of the chains that the directions come from.
    contrast:
        As for :func:`steerkit.directions.contrast`; ``A:B`` has one direction and no pairs.
    behaviors:
        Whose directions; by default all that the contrast is defined for.
    level:
        Of the interval.

    Returns
    -------
    :class:`Cosines`, float64. What is known of a behaviour with spans in fewer than 8 tasks is
    its cosine alone.

    Raises :class:`ExtractionError` for a behaviour without the spans that the contrast needs,
    :class:`StatisticsError` for a level that is none. Intervals are about other tasks of
    the same kind, not about other annotators or models.

    Do not take a cosine for likeness of two behaviours before asking what their contrasts
    share: under ``rest`` two rare behaviours beside a frequent one both have its mean taken off,
    so that unrelated means give about 1/2 for that pair; under ``balanced`` k unrelated means
    give -1/(k - 1); under ``overall`` all share the component of all starts of spans.
    """
    if not 0.0 < level < 1.0:
        raise StatisticsError("the level of an interval lies between 0 and 1", found=level)
    there = defined(moments, contrast)
    able = [label for i, label in enumerate(moments.labels) if there[0, i]]
    names = able if behaviors is None else list(dict.fromkeys(behavior(n).name for n in behaviors))
    for name in names:
        if name not in able:
            raise ExtractionError(
                f"contrast {contrast!r} gives no direction of {name!r} here",
                expected="one of " + ", ".join(able),
            )
    kept = [moments.labels.index(name) for name in names]
    used = there[1 : 1 + REPLICATES, kept]
    parts = [
        _products(replicates(moments, i, contrast)[0][:, kept], used)
        for i in range(len(moments.layers))
    ]
    gram, noise, slopes = (torch.stack(part) for part in zip(*parts, strict=True))
    tasks = torch.tensor([len(moments.tasks[name]) for name in names])
    found = _intervals(gram - noise, slopes, used, tasks, level)
    return Cosines(tuple(names), moments.layers, normalised(gram), *found)


def _products(
    vectors: Float64[Tensor, "column label d_model"], used: Bool[Tensor, "replicate label"]
) -> tuple[
    Float64[Tensor, "label label"],
    Float64[Tensor, "label label"],
    Float64[Tensor, "replicate label label"],
]:
    """Products of the directions, those of their noise, and of each replicate's noise with them."""
    full, drawn = vectors[0], vectors[1:]
    there = used[..., None].double()
    center = (drawn * there).sum(dim=0) / there.sum(dim=0).clamp(min=1)
    moved = (drawn - center) * there
    together = (used[:, :, None] & used[:, None, :]).sum(dim=0)
    noise = torch.einsum("rid,rjd->ij", moved, moved) / (together - 1).clamp(min=1)
    return full @ full.T, noise, moved @ full.T


def _intervals(
    clean: Float64[Tensor, "layer label label"],
    slopes: Float64[Tensor, "layer replicate label label"],
    used: Bool[Tensor, "replicate label"],
    tasks: Int64[Tensor, " label"],
    level: float,
) -> tuple[Float64[Tensor, "layer label label"], ...]:
    """Corrected cosines and the ends of their intervals, from products freed of noise."""
    own = clean.diagonal(dim1=-2, dim2=-1)
    positive = own > 0
    own = torch.where(positive, own, 1.0)
    bottom = (own[..., :, None] * own[..., None, :]).sqrt()
    # first-order changes of x.y and of sqrt(x.x y.y) in every replicate
    share = slopes.diagonal(dim1=-2, dim2=-1) / own[:, None]
    of_top = slopes + slopes.transpose(-1, -2)
    of_bottom = (share[..., :, None] + share[..., None, :]) * bottom[:, None]
    both = (used[:, :, None] & used[:, None, :]).double()
    count = both.sum(dim=0)

    def covariance(x: Tensor, y: Tensor) -> Tensor:
        x, y = (v - (v * both).sum(dim=1, keepdim=True) / count.clamp(min=1) for v in (x, y))
        return (x * y * both).sum(dim=1) / (count - 1).clamp(min=1)

    fewest = torch.minimum(tasks[:, None], tasks[None, :])
    t2 = _quantiles(fewest, count, level).square()
    # Fieller: all c for which |top - c bottom| is at most t standard errors
    square = bottom.square() - t2 * covariance(of_bottom, of_bottom)
    mixed = clean * bottom - t2 * covariance(of_top, of_bottom)
    constant = clean.square() - t2 * covariance(of_top, of_top)
    bounded = positive[..., :, None] & positive[..., None, :] & (square > 0)
    safe = torch.where(bounded, square, 1.0)
    root = (mixed.square() - safe * constant).clamp(min=0).sqrt()
    known = (fewest >= MIN_TASKS) & (count >= REPLICATES / 2)
    same = torch.eye(len(tasks), dtype=torch.bool)
    ends = []
    for value, otherwise in (
        (clean / bottom, torch.nan),
        ((mixed - root) / safe, -1.0),
        ((mixed + root) / safe, 1.0),
    ):
        kept = torch.where(bounded, value.clamp(-1.0, 1.0), otherwise)
        ends.append(torch.where(same, 1.0, torch.where(known, kept, torch.nan)))
    return tuple(ends)


def _quantiles(
    tasks: Int64[Tensor, "label label"], count: Float64[Tensor, "label label"], level: float
) -> Float64[Tensor, "label label"]:
    """Student's t: so many standard errors hold ``level``, these being estimates themselves.

    Of the degrees of freedom, tasks and replicates both are scarce: their inverses add up.
    """
    others = (tasks - 1).clamp(min=1).double()
    freedom = 1 / (1 / others + 1 / (count - 1).clamp(min=1))
    return student_quantile(freedom, level)


def student_quantile(freedom: Float64[Tensor, "*shape"], level: float) -> Float64[Tensor, "*shape"]:
    """Two-sided quantile of Student's t, by its expansion in the normal one (Fisher and Cornish
    1960); to 0.001 from 4 degrees of freedom on."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    quantile = torch.full_like(freedom, z)
    for k, term in enumerate(terms):
        quantile += term / freedom ** (k + 1)
    return quantile
