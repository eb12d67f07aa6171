"""Published means: mean activations by label that others give away, as steering vectors."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from steerkit.behaviors import behavior, behaviors
from steerkit.calibration import projection_of
from steerkit.directions import parse_contrast
from steerkit.errors import BehaviorError, ResourceError, VectorsError
from steerkit.layers import Layer, layer_numbers
from steerkit.vectors import Direction, SteeringVectors

OVERALL = "overall"
"""The label of the mean over whole thinking sections, each response equally."""
CONTRASTS = ("overall", "rest", "balanced")
METHOD = "difference of published means"
_SHAPE = '{label: {"mean": tensor [layer, d_model], "count": spans}}, "overall" among the labels'
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Mean:
    mean: Float64[Tensor, "layer d_model"]
    count: int


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
    named, left_out = _by_behavior(_read(path), path)
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


def _read(path: str | Path) -> object:
    """What the file holds, made of nothing but tensors, numbers, strings and containers."""
    file = Path(path)
    if not file.is_file():
        raise ResourceError("no such file of published means", where=path)
    with file.open("rb") as opened:
        head = opened.read(9)
    if head[8:] == b"{":  # safetensors: the length of its header, then the header as JSON
        return _read_safetensors(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # a damaged pickle can raise nearly anything
        strange = re.search(r"GLOBAL (\S+)", str(problem))
        if strange is not None:
            raise VectorsError(
                "the file holds more than tensors and was not opened: to load it would run code",
                expected=_SHAPE,
                found=strange[1],
                where=path,
                fix="save the means alone, with torch.save or as safetensors",
            ) from None
        raise VectorsError(
            "neither a file of torch.save nor a safetensors file",
            expected=_SHAPE,
            found=type(problem).__name__,
            where=path,
        ) from None


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            if "steerkit" in (file.metadata() or {}):
                raise VectorsError(
                    "this is a vectors file already",
                    where=path,
                    fix="use it as it is; in Python: sk.read_vectors(path)",
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise VectorsError(
            "not a readable safetensors file", found=str(problem), where=path
        ) from None
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        label, _, part = key.rpartition(".")
        found.setdefault(label, {})[part] = tensor
    return found


def _by_behavior(
    content: object, path: str | Path
) -> tuple[dict[str, _Mean], dict[str, dict[str, Any]]]:
    """Means by behaviour, ``overall`` among them, and what was left out and why."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise VectorsError(
            "not a file of means by label",
            expected=_SHAPE,
            found=type(content).__name__,
            where=path,
        )
    means = {str(label): _mean(label, entry, path) for label, entry in content.items()}
    if OVERALL not in means:
        raise VectorsError(
            "the mean over thinking sections is missing",
            expected=_SHAPE,
            found=", ".join(means) or "nothing",
            where=path,
        )
    overall = means[OVERALL]
    if overall.count < 1 or not bool(overall.mean.isfinite().all()):
        raise VectorsError(
            "the mean over thinking sections is not finite or of no response",
            found=f"count {overall.count}",
            where=path,
        )
    named, left_out = {OVERALL: overall}, {}
    for label, entry in means.items():
        if label == OVERALL:
            continue
        if entry.mean.shape != overall.mean.shape:
            raise VectorsError(
                f"the mean of {label!r} has another shape than that of 'overall'",
                expected=tuple(overall.mean.shape),
                found=tuple(entry.mean.shape),
                where=path,
            )
        reason = _useless(label, entry)
        if reason is not None:
            left_out[label] = {"count": entry.count, "reason": reason}
            continue
        name = behavior(label).name
        if name in named:
            raise VectorsError(f"two means of {name!r}", found=label, where=path)
        named[name] = entry
    for label, facts in left_out.items():
        _log.warning("%s: %r (count %d) left out: %s", path, label, *facts.values())
    if len(named) == 1:
        raise VectorsError(
            "no mean of a known behaviour",
            expected="one of " + ", ".join(b.name for b in behaviors()),
            found=", ".join(left_out) or "none",
            where=path,
            fix="declare your own: sk.declare(...), or --declare NAME on the command line",
        )
    return named, left_out


def _useless(label: str, entry: _Mean) -> str | None:
    """Why a label gives no direction; ``None`` where it does."""
    try:
        behavior(label)
    except BehaviorError:
        return "no known behaviour"
    if entry.count < 1:
        return "no spans"
    return None if bool(entry.mean.isfinite().all()) else "not finite"


def _mean(label: object, entry: object, path: str | Path) -> _Mean:
    mean = entry.get("mean") if isinstance(entry, Mapping) else None
    count: Any = entry.get("count") if isinstance(entry, Mapping) else None
    if isinstance(count, Tensor) and count.numel() == 1:
        count = count.item()
    whole = isinstance(count, int | float) and not isinstance(count, bool) and count % 1 == 0
    if not (isinstance(mean, Tensor) and mean.ndim == 2 and mean.is_floating_point() and whole):
        raise VectorsError(
            f"the entry of {label!r} is no mean with a count",
            expected=_SHAPE,
            found=f"mean {_kind(mean)}, count {_kind(count)}",
            where=path,
        )
    return _Mean(mean.detach().double(), int(count))


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "missing" if value is None else repr(value)[:40]


def _differences(
    means: Mapping[str, _Mean], overall: _Mean, contrast: str, path: str | Path
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
