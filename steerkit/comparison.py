"""Comparison: how far two sets of vectors, most often of two models, hold the same directions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steerkit.behaviors import behavior
from steerkit.direction import Direction
from steerkit.errors import VectorsError
from steerkit.layers import Layers, layer_numbers
from steerkit.terms import layer_ranges
from steerkit.vectors import SteeringVectors

if TYPE_CHECKING:
    import pandas as pd

_POINTS = 1 << 15
_log = logging.getLogger(__name__)


def compare_directions(
    a: SteeringVectors,
    b: SteeringVectors,
    *,
    behaviors: str | Iterable[str] | None = None,
    layers: Layers | None = None,
    force: bool = False,
) -> pd.DataFrame:
    """Cosines between the directions of two sets of vectors, layer by layer.

    Every behaviour of ``a`` meets every behaviour of ``b``. The pairs of different behaviours
    are a control that comes for free: if they are as high as the matched ones, what the two
    share is not the behaviour. The other control is a twin of ``a`` from chains with shuffled
    labels (:func:`steerkit.annotation.shuffle_labels`), compared by the same call.

    Parameters
    ----------
    a, b:
        Vectors of the same width: of two models that share a basis (a model and what was
        trained from it), of two sets of chains, of two methods.
    behaviors:
        Only these, on both sides; by default all.
    layers:
        Only these; by default every layer that both sides have. Layers meet by number.
    force:
        Compare vectors of different contrasts as well.

    Returns
    -------
    A tidy frame, one row a pair and layer:

    - ``behavior_a``, ``behavior_b``, ``layer``, and ``matched``: the same behaviour
    - ``cosine``, -1 to 1; missing where a direction is zero or not finite
    - ``low``, ``high``: bounds of the cosine that unlimited data would give, and ``uncertain``:
      the sides whose error is in them, ``both``, ``a``, ``b`` or ``none`` (then missing)
    - ``chance``: :func:`chance_cosine` of the width
    - ``note``: which of the two directions should not be trusted yet, and why
    - ``corrected``: the cosine divided by sqrt(r_a r_b), and ``reliability_a``,
      ``reliability_b``: r = 2 s / (1 + s) of the split-half cosine s

    ``frame.attrs`` holds ``d_model`` and for ``a`` and ``b`` their ``model`` and ``contrast``.

    **The interval.** A vectors file keeps no replicates, but for every layer the cone that holds
    95 % of them. With e the error of the direction d, replicates show tan(cone) = |e| / |d|,
    while the angle between d and the truth is asin(|e| / |d|), since d is longer than the truth
    by its own error. So the truth lies within asin(tan(cone)), which is nothing known from 45
    degrees on, and by the triangle inequality on the sphere the angle between the two truths
    lies within the sum of both bounds of the angle found. This holds whatever the shape of the
    errors; where they are spread over many dimensions it is far wider than it need be. It holds
    with 95 % where one side is uncertain and at least 90 % where both are. A side without a
    cone, as published means are, is taken as it stands.

    **The correction.** Errors of the two sides that are independent and point anywhere shrink
    a cosine by sqrt(r_a r_b) (Spearman 1904; r of the whole from halves: Spearman 1910, Brown
    1910). It is missing where a side's reliability is not known or not positive, and may exceed 1.

    Raises :class:`VectorsError` for different widths or contrasts, for no layer in common, and
    for a behaviour or layer asked for that one side lacks.

    Do not use it for models that were not trained from one another: the axes of their residual
    streams have nothing to do with each other. Errors are taken to be independent: of two files
    from the same chains, the errors are partly shared and the cosines too high.
    """
    import pandas as pd

    _check(a, b, force)
    chosen = _chosen(behaviors, a, b)
    shared = _layers(layers, a, b)
    chance = chance_cosine(next(iter(a.values())).d_model)
    frames = []
    for first in a.values() if chosen is None else (a[name] for name in chosen):
        for second in b.values() if chosen is None else (b[name] for name in chosen):
            common = [n for n in shared if n in first.layers and n in second.layers]
            if common:
                frames.append(pd.DataFrame(_pair(first, second, common)))
    if not frames:
        raise VectorsError("no pair of directions has a layer in common")
    table = pd.concat(frames, ignore_index=True)
    table.insert(6, "chance", chance)
    table.attrs = {
        "d_model": next(iter(a.values())).d_model,
        **{
            side: {key: vectors.provenance.get(key) for key in ("model", "contrast")}
            for side, vectors in (("a", a), ("b", b))
        },
    }
    return table


def chance_cosine(d_model: int, level: float = 0.95) -> float:
    """The size that ``level`` of the cosines between random directions do not exceed.

    Of a direction drawn evenly from the sphere in ``d_model`` dimensions, the squared cosine
    with any fixed one follows Beta(1/2, (d_model - 1) / 2) (Muirhead 1982, *Aspects of
    Multivariate Statistical Theory*, section 1.5); about 1.96 / sqrt(d_model), 0.05 at a
    width of 1,536. Computed by integrating the density cos(x)^(d_model - 2) of the angle x
    away from a right angle, to 1e-6.

    It is a lenient standard: directions in a residual stream share a few strong axes, so that
    those of other behaviours and of shuffled labels are often much further from zero.
    """
    if d_model < 1 or not 0 < level < 1:
        raise VectorsError(
            "no chance level",
            expected="a width of at least 1 and a level between 0 and 1",
            found=f"width {d_model}, level {level}",
        )
    if d_model == 1:
        return 1.0
    # beyond twelve standard deviations there is nothing
    angles = np.linspace(0.0, min(math.pi / 2, 12.0 / math.sqrt(d_model)), _POINTS)
    density = np.cos(angles) ** (d_model - 2)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(np.sin(np.interp(level * mass[-1], mass, angles)))


def _pair(first: Direction, second: Direction, layers: Sequence[int]) -> dict[str, Any]:
    """The columns of one pair of directions, but for ``chance``."""
    rows_a, rows_b = ([d.row(n) for n in layers] for d in (first, second))
    x, y = first.tensor[rows_a].double().cpu(), second.tensor[rows_b].double().cpu()
    product = (x * y).sum(dim=1) / (x.norm(dim=1) * y.norm(dim=1))
    cosine = product.clamp(-1.0, 1.0).numpy()  # a zero direction makes it NaN, as it should be
    off_a, off_b = _error(first, rows_a), _error(second, rows_b)
    known_a, known_b = np.isfinite(off_a), np.isfinite(off_b)
    reach = np.where(known_a, off_a, 0.0) + np.where(known_b, off_b, 0.0)
    reach[~(known_a | known_b)] = np.nan
    angle = np.arccos(cosine)
    rel_a, rel_b = _reliability(first, rows_a), _reliability(second, rows_b)
    names = np.array([["none", "b"], ["a", "both"]])
    return {
        "behavior_a": first.behavior,
        "behavior_b": second.behavior,
        "layer": np.array(layers, dtype=np.int64),
        "cosine": cosine,
        "low": np.cos(np.minimum(angle + reach, math.pi)),
        "high": np.cos(np.maximum(angle - reach, 0.0)),
        "matched": first.behavior == second.behavior,
        "corrected": cosine / np.sqrt(rel_a * rel_b),
        "uncertain": names[known_a.astype(int), known_b.astype(int)],
        "reliability_a": rel_a,
        "reliability_b": rel_b,
        "note": "; ".join(
            f"{side}: {why}" for side, d in (("A", first), ("B", second)) if (why := d.weakness)
        ),
    }


def _error(direction: Direction, rows: list[int]) -> NDArray[np.float64]:
    """Angle in radians within which the truth lies; NaN where no cone is known."""
    if direction.cone is None:
        return np.full(len(rows), np.nan)
    cone = np.deg2rad(direction.cone[rows].double().cpu().numpy())
    sine = np.where(cone < math.pi / 4, np.tan(np.minimum(cone, math.pi / 4)), 1.0)
    return np.where(np.isfinite(cone), np.arcsin(np.clip(sine, 0.0, 1.0)), np.nan)


def _reliability(direction: Direction, rows: list[int]) -> NDArray[np.float64]:
    """Of the whole direction, from its halves; NaN where that is not known or not positive."""
    if direction.split_half is None:
        return np.full(len(rows), np.nan)
    half = direction.split_half[rows].double().cpu().numpy()
    return np.where(half > 0, 2 * half / (1 + np.maximum(half, 0.0)), np.nan)


def _check(a: SteeringVectors, b: SteeringVectors, force: bool) -> None:
    """Refuse what cannot be compared, and say what is compared on shaky ground."""
    if not len(a) or not len(b):
        raise VectorsError("no direction to compare", found=f"{len(a)} and {len(b)} directions")
    widths = [sorted({d.d_model for d in vectors.values()}) for vectors in (a, b)]
    if widths[0] != widths[1] or len(widths[0]) != 1:
        raise VectorsError(
            "directions of different widths have no cosine",
            expected=f"width {', '.join(map(str, widths[0]))}, of {a.provenance.get('model')}",
            found=f"width {', '.join(map(str, widths[1]))}, of {b.provenance.get('model')}",
        )
    contrasts = [vectors.provenance.get("contrast") for vectors in (a, b)]
    if None not in contrasts and contrasts[0] != contrasts[1] and not force:
        raise VectorsError(
            "the two were set against different things",
            expected=f"contrast {contrasts[0]!r} on both sides",
            found=f"{contrasts[0]!r} and {contrasts[1]!r}",
            fix="extract or import both with the same contrast; to compare all the same: "
            "force=True, or --force on the command line",
        )
    depths = [max(d.n_layers for d in vectors.values()) for vectors in (a, b)]
    if depths[0] != depths[1]:
        _log.warning("models of %d and %d layers: layers are compared by number", *depths)


def _chosen(
    behaviors: str | Iterable[str] | None, a: SteeringVectors, b: SteeringVectors
) -> list[str] | None:
    if behaviors is None:
        return None
    asked = [behaviors] if isinstance(behaviors, str) else list(behaviors)
    names = list(dict.fromkeys(behavior(name).name for name in asked))
    for side, vectors in (("first", a), ("second", b)):
        for name in names:
            if name not in vectors:
                raise VectorsError(
                    f"no direction of {name!r} in the {side} vectors",
                    expected="one of " + ", ".join(vectors),
                )
    if not names:
        raise VectorsError("no behaviour was named", expected="at least one")
    return names


def _layers(layers: Layers | None, a: SteeringVectors, b: SteeringVectors) -> list[int]:
    held = [{n for d in vectors.values() for n in d.layers} for vectors in (a, b)]
    common = held[0] & held[1]
    if not common:
        raise VectorsError(
            "the two have no layer in common",
            expected="layers " + layer_ranges(held[0]),
            found="layers " + layer_ranges(held[1]),
        )
    if layers is None:
        return sorted(common)
    asked = sorted(layer_numbers(layers, VectorsError))
    for layer in asked:
        if layer not in common:
            raise VectorsError(
                f"layer {layer} is not in both", expected="one of layers " + layer_ranges(common)
            )
    return asked
