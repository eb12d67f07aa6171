"""Curves: scores by behaviour and layer that are taken from chains which are already written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from steerkit.direction import Direction
from steerkit.errors import ExtractionError
from steerkit.layer_choice.forcing import Forced, forced_batches
from steerkit.layer_choice.openers import opener_slopes
from steerkit.layer_choice.steps import step_effects
from steerkit.memory import MEMORY_ERRORS, out_of_memory
from steerkit.models import ThinkingModel
from steerkit.statistics import resampled_counts
from steerkit.traces import Trace

SLOPES = ("gradient", "published")
STEPS = ("gain", "effect")
FORCED = (*SLOPES, *STEPS)
"""The scores of this module: by a backward pass, by forward passes with a step."""
COEFFICIENT = 0.2
"""Of steps, in the default unit of each direction, unless another is named."""
_BATCH = 2048
_GRAPH_BYTES = {"cpu": 1 << 30}
_Sums = dict[str, dict[str, dict[str, NDArray[np.float64]]]]


def forced_curves(
    model: ThinkingModel,
    directions: Mapping[str, Direction],
    chains: Sequence[Trace],
    layers: Sequence[int],
    scores: Sequence[str],
    *,
    coefficient: float = COEFFICIENT,
    tokens: int = 384,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Float64[Tensor, "layer 3"]]]:
    """Some of ``gradient``, ``gain``, ``effect`` and ``published``, with intervals over tasks.

    Parameters
    ----------
    directions:
        By behaviour; steps and slopes are taken in each one's default unit.
    chains, tokens:
        Annotated chains, each read to its first ``tokens`` tokens.
    coefficient:
        Of the steps; ``gradient`` is the slope times it.
    batch_tokens:
        Positions side by side; by default 2,048, and for slopes, whose graph needs memory, at
        most as many as :func:`graph_tokens` says. Running out of memory halves the batch.
    progress:
        Called with steps done and steps in all.

    Returns
    -------
    By score and behaviour ``[layer, (value, low, high)]``: units as in
    :func:`steerkit.layer_choice.scores.score_layers`. NaN for a behaviour without boundaries in
    these chains.

    Raises :class:`ExtractionError` for a chain that alone does not fit in memory, and PyTorch's
    ``RuntimeError`` for slopes of a model that cannot be differentiated.
    """
    sloped, stepped = bool(set(SLOPES) & set(scores)), bool(set(STEPS) & set(scores))
    width = batch_tokens or _BATCH
    if sloped:
        width = min(width, graph_tokens(model))
    queue = list(forced_batches(model, chains, tokens=tokens, batch_tokens=width))
    each = sloped + stepped * (1 + (len(directions) + 2) * len(layers))
    done, total = 0, len(queue) * each

    def told() -> None:
        nonlocal done
        done = min(done + 1, total)
        if progress is not None:
            progress(done, total)

    sums: _Sums = {}
    while queue:
        forced = queue.pop(0)
        began = done
        try:
            parts = _read(
                model, forced, directions, layers, sloped, stepped, scores, coefficient, told
            )
        except MEMORY_ERRORS as problem:
            if not out_of_memory(problem):
                raise
            if len(forced.ids) == 1:
                raise ExtractionError(
                    "one chain alone does not fit in memory",
                    found=f"{forced.ids.shape[1]} tokens",
                    fix="score fewer tokens of each chain, or choose by auroc",
                ) from None
            queue[:0] = forced.halves()
            total += each + (done - began)
            continue
        for kind, found in parts.items():
            _note(sums, forced, kind, found)
    return {score: _curves(sums, score, directions, len(layers)) for score in scores}


def graph_tokens(model: ThinkingModel) -> int:
    """Positions whose graph for a backward pass takes about 1 GiB on a CPU, 4 GiB elsewhere.

    Some thirty numbers of the model's width are kept for every layer and position.
    """
    size = 30 * model.n_layers * model.d_model * model.dtype.itemsize
    return max(_GRAPH_BYTES.get(model.device.type, 4 << 30) // size, 1)


def _read(
    model: ThinkingModel,
    forced: Forced,
    directions: Mapping[str, Direction],
    layers: Sequence[int],
    sloped: bool,
    stepped: bool,
    scores: Sequence[str],
    coefficient: float,
    told: Callable[[], None],
) -> dict[str, dict[str, dict[str, Tensor]]]:
    """One batch's sums by kind, behaviour and part."""
    parts: dict[str, dict[str, dict[str, Tensor]]] = {}
    if sloped:
        vectors = {
            n: coefficient * torch.stack([d.vector(layer) for layer in layers])
            for n, d in directions.items()
        }
        parts["slopes"] = opener_slopes(
            model, forced, vectors, layers, published="published" in scores
        )
        positions = forced.thinking.sum(dim=1, keepdim=True).float()
        for found in parts["slopes"].values():
            found["positions"] = positions
        told()
    if stepped:
        parts["steps"] = step_effects(model, forced, directions, layers, coefficient, told=told)
    return parts


def _note(
    sums: _Sums, forced: Forced, kind: str, found: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Add every row's sums to those of its task."""
    for name, parts in found.items():
        for part, rows in parts.items():
            tasks: dict[str, Any] = sums.setdefault(f"{kind} {name}", {}).setdefault(part, {})
            for task, row in zip(forced.tasks, rows.double().numpy(), strict=True):
                tasks[task] = tasks[task] + row if task in tasks else row


_MAKERS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "gradient": ("slopes", lambda w: w["own"] / w["n_own"] - w["other"] / w["n_other"]),
    "gain": ("steps", lambda w: w["own"] / w["n_own"] - w["other"] / w["n_other"]),
    "effect": ("steps", lambda w: (w["divergence"] - w["random"]) / w["positions"]),
    "published": ("slopes", lambda w: np.abs(w["published"]) / w["positions"]),
}


def _curves(
    sums: _Sums, score: str, directions: Mapping[str, Direction], layers: int
) -> dict[str, Float64[Tensor, "layer 3"]]:
    kind, make = _MAKERS[score]
    found = {}
    for name in directions:
        parts = sums.get(f"{kind} {name}")
        found[name] = (
            torch.full((layers, 3), torch.nan, dtype=torch.float64)
            if parts is None
            else _interval(parts, make)
        )
    return found


def _interval(
    sums: Mapping[str, Mapping[str, NDArray[np.float64]]], make: Callable[[dict[str, Any]], Any]
) -> Float64[Tensor, "layer 3"]:
    """A ratio of sums over tasks and its percentile bootstrap interval, by layer."""
    order = sorted(next(iter(sums.values())))
    rows = {part: np.stack([by_task[task] for task in order]) for part, by_task in sums.items()}
    weights = resampled_counts(len(order), 400, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = make({part: row.sum(axis=0, keepdims=True) for part, row in rows.items()})[0]
        drawn = make({part: weights @ row for part, row in rows.items()})
    if np.isnan(drawn).all(axis=0).any():
        edges = np.full((2, len(value)), np.nan)
    else:
        edges = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return torch.from_numpy(np.stack([value, *edges], axis=1))
