"""Published means: mean activations by label that others give away, as steering vectors."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from steerkit.behaviors import behavior
from steerkit.calibration import projection_of
from steerkit.direction import Direction
from steerkit.directions import parse_contrast
from steerkit.errors import VectorsError
from steerkit.layers import Layer, layer_numbers
from steerkit.means_file import OVERALL, Mean, read_means
from steerkit.vectors import SteeringVectors

CONTRASTS = ("overall", "rest", "balanced")
METHOD = "difference of published means"
_log = logging.getLogger(__name__)


def read_published(
    path: str | Path,
    *,
    contrast: str = "overall",
    model: str | None = None,
    layers: Layer | Mapping[str, Layer] | None = None,
) -> SteeringVectors:
    """Published mean activations to steering vectors that can be used at once.

    The file is ``{label: {"mean": tensor, "count": int}}`` as ``torch.save`` writes it (the form
    in which Venhoff et al. 2025, arXiv 2506.18167, published theirs), or a safetensors file with
    the tensors ``LABEL.mean`` and ``LABEL.count``. A mean is ``[layer, d_model]``, row i at the
    output of decoder layer i; the label ``overall`` is the mean over thinking sections, counted
    in responses, and the others are counted in spans. Nothing in the file is ever executed.

    Parameters
    ----------
    path:
        The file.
    contrast:
        What the means allow: ``overall`` (mean(label) - mean(overall), the paper's), ``rest``
        (minus the mean over the other behaviours' spans, spans equally), ``balanced`` (the
        other behaviours equally), or ``A:B``. ``within`` would need the chains.
    model:
        Name of the model that the means are of, for provenance: vectors warn when they are used
        on a model of another name.
    layers:
        The layer at which to steer, for all behaviours or by behaviour. Means alone do not tell
        which layer is good: without it a term must name one, ``v["backtracking"].at(layer=17)``.

    Returns
    -------
    :class:`SteeringVectors` whose directions have the norm of the mean ||E h|| and the mean
    projection, but no mean norm E||h||, tasks or reliability. Until
    :meth:`~steerkit.vectors.SteeringVectors.calibrate` measures the first, a coefficient is in
    the ``paper`` unit. Vectors rather than :class:`Moments`, since of what moments hold
    (replicates, halves, norms) nothing can be known from means.

    Labels that are no behaviours, have no spans or are not finite are left out, logged, and
    listed in ``provenance["published"]["left_out"]``; declare your own beforehand to keep them.

    Raises :class:`ResourceError` for a missing file, :class:`VectorsError` for one that cannot
    be read safely, has another form or lacks ``overall``, and for layers that do not exist;
    :class:`ExtractionError` for an unknown contrast.

    Do not use ``overall`` to compare behaviours with each other: its directions share what is
    common to all starts of spans.
    """
    named, left_out = read_means(path)
    overall = named.pop(OVERALL)
    n_layers, d_model = overall.mean.shape
    directions: dict[str, Direction] = {}
    for name, raw in _differences(named, overall, contrast, path).items():
        tensor = raw.float().contiguous()
        directions[name] = Direction(
            behavior=name,
            tensor=tensor,
            layers=tuple(range(n_layers)),
            mean_norm=None,
            norm_of_mean=overall.mean.norm(dim=1).float(),
            layer=None,
            spans=named[name].count,
            tasks=None,
            n_layers=n_layers,
            mean_projection=projection_of(overall.mean, tensor),
        )
    directions = _with_layers(directions, layers)
    provenance = {
        "model": model,
        "d_model": d_model,
        "n_layers": n_layers,
        "contrast": contrast,
        "method": METHOD,
        "published": {
            "sha256": _digest(Path(path)),
            "responses": overall.count,
            "spans": {name: entry.count for name, entry in named.items()},
            "left_out": left_out,
        },
    }
    _log.info("published means of %s, %d layers of width %d", ", ".join(named), n_layers, d_model)
    return SteeringVectors(directions, provenance)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differences(
    means: Mapping[str, Mean], overall: Mean, contrast: str, path: str | Path
) -> dict[str, Float64[Tensor, "layer d_model"]]:
    kind = parse_contrast(contrast, tuple(means))
    if kind == "within":
        raise VectorsError(
            "the contrast 'within' cannot be computed from means",
            expected=f"one of {', '.join(CONTRASTS)}, or A:B",
            where=path,
            fix="extract from the chains: steerkit extract",
        )
    if isinstance(kind, tuple):
        left, right = kind
        return {left: means[left].mean - means[right].mean}
    if kind == "overall":
        return {name: entry.mean - overall.mean for name, entry in means.items()}
    if len(means) == 1:
        raise VectorsError(
            f"the contrast {contrast!r} needs the mean of another behaviour",
            found=next(iter(means)),
            where=path,
        )
    found = {}
    for name, entry in means.items():
        others = [other for key, other in means.items() if key != name]
        weights = [other.count if kind == "rest" else 1 for other in others]
        weighted = [w * other.mean for w, other in zip(weights, others, strict=True)]
        found[name] = entry.mean - torch.stack(weighted).sum(dim=0) / sum(weights)
    return found


def _with_layers(
    directions: Mapping[str, Direction], layers: Layer | Mapping[str, Layer] | None
) -> dict[str, Direction]:
    """The directions with the layers asked for as the suggested ones."""
    made = dict(directions)
    if layers is None:
        return made
    asked = layers if isinstance(layers, Mapping) else dict.fromkeys(directions, layers)
    for key, layer in asked.items():
        name = behavior(key).name
        (number,) = layer_numbers([layer], VectorsError)
        if name not in made:
            raise VectorsError(
                f"no mean of {name!r} to steer at layer {number}",
                expected="one of " + ", ".join(made),
            )
        if number not in made[name].layers:
            raise VectorsError(
                f"layer {number} of {name!r} does not exist",
                expected=f"layers 0 to {made[name].n_layers - 1}",
            )
        made[name] = replace(made[name], layer=number)
    return made
