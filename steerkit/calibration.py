"""Calibration: the norms of a model's residual stream, for directions that come without them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float, Float64
from torch import Tensor

from steerkit.collection import collect, trace_digest
from steerkit.direction import Direction
from steerkit.errors import ExtractionError
from steerkit.models import ThinkingModel
from steerkit.moments import Moments
from steerkit.streaming import Progress, TooLong
from steerkit.traces import Trace, Traces
from steerkit.vectors import SteeringVectors

TOLERANCE = 0.2
"""How far the norm of the mean may be from the published one, at the median layer."""
_COUNTED = ("chains", "chains cut", "chains without thinking", "chains retokenized")
_log = logging.getLogger(__name__)


def calibrate(
    vectors: SteeringVectors,
    model: ThinkingModel,
    traces: Iterable[Trace],
    *,
    batch_tokens: int | None = None,
    too_long: TooLong = "refuse",
    progress: Progress | None = None,
) -> SteeringVectors:
    """The same directions with the norms of ``model``, so that the unit ``norm`` is known.

    E||h||, ||E h|| and E h . u are measured over the thinking positions of ``traces``, every
    position equally, at the layers of the directions, in one pass.

    Parameters
    ----------
    vectors:
        Such as :func:`steerkit.published.read_published` gives; calibrated ones are measured
        anew, e.g. for use on a sibling of their model. They are left as they are.
    model:
        The model that is to be steered.
    traces:
        Chains of it, or any that it can read; annotations are not needed. Some thousand
        thinking tokens are enough: norms differ little from chain to chain.
    batch_tokens, too_long, progress:
        As of :func:`steerkit.collection.collect`.

    Returns
    -------
    New :class:`SteeringVectors` with ``mean_norm``, ``norm_of_mean`` and ``mean_projection`` of
    the model; ``provenance["calibration"]`` says by which model and chains. All traces are read,
    whatever set their tasks belong to: no direction, layer or outcome depends on them.

    Ranges of coefficients (``fluent``, ``free``) are in the direction's default unit. Those found
    on this model are converted, so that their borders push as far as before; those found on
    another, or nobody knows which, say nothing of this one: they are cleared, with a warning.

    Logs a warning when ||E h|| differs from what the vectors knew before by more than 20 % at
    the median layer: they are then of another model, or of means over other positions.

    Raises :class:`VectorsError` for a model of another width or number of layers,
    :class:`ExtractionError` for chains without thinking, and what ``collect`` raises.
    """
    vectors.check(model)
    chains = Traces(traces)
    layers = sorted({layer for direction in vectors.values() for layer in direction.layers})
    moments = collect(
        model,
        chains,
        layers=layers,
        labels=list(vectors)[:1],  # any: norms do not depend on spans, memory does
        batch_tokens=batch_tokens,
        too_long=too_long,
        progress=progress,
    )
    if moments.tokens == 0:
        raise ExtractionError(
            "no thinking position to measure norms at",
            expected="chains with a thinking section",
            found=f"{len(chains)} chains without",
        )
    measured = {name: _calibrated(direction, moments) for name, direction in vectors.items()}
    _compare(vectors, measured, model.name)
    provenance = dict(vectors.provenance)
    if any(direction.fluent or direction.free for direction in vectors.values()):
        ranged_on = _ranged_on(provenance)
        kept = ranged_on == model.name
        if not kept:
            provenance.pop("ranges", None)
            _log.warning(
                "the ranges of coefficients were found on %s and are cleared: find those of %s "
                "with steerkit layers",
                ranged_on or "an unknown model",
                model.name,
            )
        measured = {
            name: _with_range(direction, vectors[name], kept=kept)
            for name, direction in measured.items()
        }
    facts = {
        "model": model.name,
        "revision": model.revision,
        "tokenizer_hash": model.tokenizer_hash,
        "dtype": str(model.dtype).removeprefix("torch."),
        "traces": sorted(trace_digest(trace) for trace in chains),
        "tasks": sorted({trace.task_key for trace in chains}),
        "tokens": moments.tokens,
        "counts": {name: moments.counters[name] for name in _COUNTED if moments.counters[name]},
        "outliers": moments.outliers.tolist(),
    }
    return SteeringVectors(measured, {**provenance, "calibration": facts})


def projection_of(
    mean: Float64[Tensor, "layer d_model"], tensor: Float[Tensor, "layer d_model"]
) -> Float[Tensor, " layer"]:
    """m . u of every layer: ``mean`` along the unit vector of the direction, zero where none."""
    raw = tensor.double()
    return ((mean * raw).sum(dim=1) / raw.norm(dim=1).clamp_min(1e-30)).float()


def _calibrated(direction: Direction, moments: Moments) -> Direction:
    rows = [moments.layers.index(layer) for layer in direction.layers]
    return replace(
        direction,
        mean_norm=moments.mean_norm[rows].float(),
        norm_of_mean=moments.norm_of_mean[rows].float(),
        mean_projection=projection_of(moments.mean[rows], direction.tensor),
    )


def _ranged_on(provenance: Mapping[str, Any]) -> str | None:
    """The model that ranges were found on; where nobody wrote it down, that of the vectors."""
    for facts in (provenance.get("ranges"), provenance.get("calibration"), provenance):
        if facts and facts.get("model"):
            return str(facts["model"])
    return None


def _with_range(after: Direction, before: Direction, *, kept: bool) -> Direction:
    """The ranges of ``before`` in the unit of ``after``; none where they are not kept."""
    if not kept or after.layer is None:
        return replace(after, fluent=None, free=None)
    factor = float(before.unit_length(after.layer) / after.unit_length(after.layer))

    def converted(limits: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if limits is None else (factor * limits[0], factor * limits[1])

    return replace(after, fluent=converted(after.fluent), free=converted(after.free))


def _compare(before: SteeringVectors, after: dict[str, Direction], model: str) -> None:
    """Warn of the direction whose norms have moved most, if that is far."""
    furthest, worst = 0.0, ""
    for name, direction in after.items():
        known = before[name].norm_of_mean.double()
        ratio = direction.norm_of_mean.double() / known.clamp_min(1e-30)
        # quantile, unlike median, takes the middle of an even number of layers
        off = float((ratio - 1.0).abs().quantile(0.5))
        if off > furthest:
            furthest = off
            worst = f"{float(ratio.quantile(0.5)):.2f} times"
    if furthest > TOLERANCE:
        _log.warning(
            "the norm of the mean of %s is %s what these vectors came with (median layer): they "
            "may be of another model, or of means over other positions",
            model,
            worst,
        )
