"""Suggestion: the layer that extraction names for every behaviour, by one cheap score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from steerkit.direction import Direction
from steerkit.errors import ExtractionError, SteerkitError
from steerkit.layer_choice.curves import COEFFICIENT, SLOPES, forced_curves
from steerkit.layer_choice.foresight import suggested_layer
from steerkit.models import ThinkingModel
from steerkit.traces import Trace

DEFAULT_SCORE = "gradient"
CHOICES = ("auroc", "gradient", "gain", "effect", "published")
"""What layers can be suggested by: the scores that need no generation."""
CHAINS, TOKENS = 24, 384
"""At most so many chains are scored, and so many tokens of each; areas are of all chains."""
_FEWEST = 12
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Suggestion:
    """A layer for every behaviour that has one, and what it was chosen by.

    Attributes
    ----------
    layers:
        By behaviour; ``None`` where the chains for choosing do not show it.
    chosen_by:
        The score, by behaviour; empty where there is no layer.
    facts:
        What provenance says of it: ``score``, and how many ``chains`` and ``tokens`` of each;
        ``instead_of`` and ``reason`` where the score that was asked for could not be had.
    """

    layers: Mapping[str, int | None]
    chosen_by: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)


def check_choice(score: str) -> None:
    """Raise :class:`ExtractionError` for what layers cannot be suggested by."""
    if score not in CHOICES:
        raise ExtractionError(
            f"layers cannot be suggested by {score!r}",
            expected="one of " + ", ".join(CHOICES),
            fix="the causal sweep, which generates, is in: steerkit layers" * (score == "sweep")
            or None,
        )


def by_areas(
    names: Sequence[str], areas: Mapping[str, Float64[Tensor, " layer"]], layers: Sequence[int]
) -> Suggestion:
    """The layer with the largest area under the ROC curve (:mod:`.foresight`)."""
    found = {n: suggested_layer(areas[n], layers) if n in areas else None for n in names}
    return Suggestion(
        found, {n: "" if at is None else "auroc" for n, at in found.items()}, {"score": "auroc"}
    )


def chains_to_score(tokens_read: int, labels: int) -> int:
    """How many chains to take slopes from: at most 24, at least 12.

    In between, so many that slopes (a forward pass, and a backward pass for each of ``labels``)
    run through about as many tokens as reading the chains did: ``tokens_read``.
    """
    return max(_FEWEST, min(CHAINS, tokens_read // ((1 + labels) * TOKENS)))


def suggest_layers(
    model: ThinkingModel,
    directions: Mapping[str, Direction],
    chains: Sequence[Trace],
    layers: Sequence[int],
    areas: Mapping[str, Float64[Tensor, " layer"]],
    *,
    score: str = DEFAULT_SCORE,
    count: int = CHAINS,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Suggestion:
    """The layer of every behaviour, by a score that needs no generation.

    How well each score foretells where steering moves a behaviour most is measured by
    ``make layers``; ``gradient``, the slope of the log-probability of the behaviour's own first
    tokens along the direction, agrees best with the sweep there of those that cost no more than
    reading chains, but is not told from the plain layer number.

    Parameters
    ----------
    directions:
        By behaviour, with the norms of their layers.
    chains:
        Annotated chains that the directions were not extracted from.
    areas:
        Areas under the ROC curve by behaviour and layer. A behaviour without them is one that
        these chains do not tell from others: it has no layer.
    score:
        One of ``auroc``, ``gradient``, ``gain``, ``effect`` and ``published``.
    count:
        Chains to score, in the order of their tasks' hashes.

    Slopes need a model that can be differentiated. Where it cannot (its weights are offloaded
    or inference tensors, its kernels have no backward pass, memory runs out) layers are chosen
    by ``auroc``, and a warning says why; so they are, one by one, for behaviours that the chains
    scored do not show.
    """
    check_choice(score)
    plain = by_areas(list(directions), areas, layers)
    known = {name: direction for name, direction in directions.items() if name in areas}
    if score == "auroc" or not known:
        return plain
    few = sorted((t for t in chains if t.spans), key=lambda t: t.task_key)[:count]
    reason = without_gradient(model) if score in SLOPES else ""
    curves: dict[str, Float64[Tensor, "layer 3"]] = {}
    if not reason:
        try:
            curves = forced_curves(
                model,
                known,
                few,
                layers,
                [score],
                coefficient=COEFFICIENT,
                tokens=TOKENS,
                batch_tokens=batch_tokens,
                progress=progress,
            )[score]
        except (RuntimeError, SteerkitError) as problem:
            if isinstance(problem, SteerkitError):
                reason = problem.problem
            else:
                reason = "it could not be differentiated" if score in SLOPES else "it failed"
            _log.debug("%s of %s: %s", score, model.name, problem, exc_info=True)
    if reason:
        _log.warning("layers are chosen by auroc, not by %s: %s", score, f"{model.name}, {reason}")
        return Suggestion(
            plain.layers, plain.chosen_by, {**plain.facts, "instead_of": score, "reason": reason}
        )
    chosen, by = dict(plain.layers), dict(plain.chosen_by)
    for name in known:
        values = curves[name][:, 0]
        if bool(torch.isfinite(values).all()):
            chosen[name], by[name] = layers[int(values.argmax())], score
        else:
            _log.warning("the layer of %s is chosen by auroc: no %s could be had", name, score)
    return Suggestion(chosen, by, {"score": score, "chains": len(few), "tokens": TOKENS})


def without_gradient(model: ThinkingModel) -> str:
    """Why no backward pass should be tried on this model; empty if nothing speaks against it."""
    places = {str(place) for place in (getattr(model.hf, "hf_device_map", None) or {}).values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        return "its weights are offloaded"
    if any(weight.is_inference() for weight in model.hf.parameters()):
        return "its weights are inference tensors"
    return ""
