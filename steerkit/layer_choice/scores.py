"""Scores of layers, side by side in one table with intervals over tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from steerkit.errors import ExtractionError
from steerkit.layer_choice.causal import Annotate, causal_sweep
from steerkit.layer_choice.forcing import Forced, forced_batches
from steerkit.layer_choice.foresight import area_intervals, foreseen
from steerkit.layer_choice.openers import opener_slopes
from steerkit.layer_choice.steps import step_effects
from steerkit.models import ThinkingModel
from steerkit.statistics import resampled_counts
from steerkit.tasks import Task
from steerkit.traces import Trace, Traces
from steerkit.vectors import Direction, SteeringVectors

if TYPE_CHECKING:
    import pandas as pd

CHEAP = ("auroc", "gradient", "gain", "effect", "published")
"""Scores that need no generation."""
SCORES = (*CHEAP, "sweep")
COLUMNS = ["behavior", "layer", "score", "value", "low", "high"]
_Sums = dict[str, dict[str, dict[str, NDArray[np.float64]]]]


def score_layers(
    model: ThinkingModel,
    vectors: SteeringVectors,
    traces: Iterable[Trace],
    *,
    scores: Sequence[str] = ("auroc", "gradient"),
    coefficient: float = 0.2,
    layers: Sequence[int] | None = None,
    tasks: Sequence[Task] = (),
    annotate: Annotate | None = None,
    chains: int = 48,
    tokens: int = 384,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Scores of every behaviour's direction at every layer.

    Parameters
    ----------
    model, vectors:
        The directions to be scored, and the model they are for.
    traces:
        Annotated chains of *select* tasks; chains of other sets are left out, as are those of
        tasks that the vectors were extracted from.
    scores:
        Some of ``auroc``, ``gradient``, ``gain``, ``effect``, ``published`` and ``sweep``.
    coefficient:
        Of the steps, in mean norms of each layer. ``gradient`` is the slope times it.
    layers:
        Those of the vectors by default.
    tasks, annotate, options:
        For ``sweep``: tasks of the *select* set, what labels the chains, and options of
        :func:`steerkit.generation.generate`.
    chains, tokens:
        How many chains, and how many tokens of each, all scores but ``auroc`` and ``sweep`` are
        taken from. The cost of ``gain`` and ``effect`` is a forward pass over them for every
        behaviour and layer.

    Returns
    -------
    Tidy: ``behavior``, ``layer``, ``score``, ``value``, ``low``, ``high`` (95 % bootstrap over
    tasks), and for ``sweep`` also ``up``, ``down``, ``base``, ``closed``, ``parsed``. Units:
    ``auroc`` 0 to 1; ``gradient`` and ``gain`` nats a boundary; ``effect`` nats a token in excess
    of random steps; ``published`` its absolute value per thinking position; ``sweep`` a share
    of spans.

    Raises :class:`ExtractionError` for unknown scores, for no chains of *select* tasks, and
    for a sweep without tasks or annotator.
    """
    import pandas as pd

    for name in scores:
        if name not in SCORES:
            raise ExtractionError(f"unknown score {name!r}", expected="one of " + ", ".join(SCORES))
    if "sweep" in scores and (not tasks or annotate is None):
        raise ExtractionError(
            "a causal sweep needs tasks and an annotator",
            fix="pass tasks=... of the select set and annotate=..., or leave the sweep out",
        )
    vectors.check(model)
    kept = select_chains(vectors, traces)
    few = Traces(sorted(kept, key=lambda trace: trace.task_key)[:chains])
    found = dict(vectors.items())
    first = next(iter(found.values()))
    chosen = list(first.layers) if layers is None else list(layers)
    tables = []
    if "auroc" in scores:
        tables.append(_auroc(model, found, kept, chosen, batch_tokens))
    forced = [name for name in scores if name in ("gradient", "gain", "effect", "published")]
    if forced:
        tables += _forced_scores(
            model, found, few, chosen, forced, coefficient, tokens, batch_tokens, progress
        )
    if "sweep" in scores:
        assert annotate is not None
        table = causal_sweep(model, tasks, found, chosen, coefficient, annotate, **options)
        table.insert(2, "score", "sweep")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def select_chains(vectors: SteeringVectors, traces: Iterable[Trace]) -> Traces:
    """Chains of *select* tasks that the vectors were not extracted from.

    Raises :class:`ExtractionError` where there are none with spans.
    """
    seen = set(vectors.provenance.get("extract_tasks", ()))
    kept = set(vectors.provenance.get("select_tasks", ()))
    traces = Traces(traces)
    chains = Traces(
        trace
        for trace in traces
        if trace.task_key not in seen and (trace.split == "select" or trace.task_key in kept)
    )
    if not any(trace.spans for trace in chains):
        raise ExtractionError(
            "no annotated chains of select tasks",
            expected="chains of tasks that were not extracted from",
            found=f"{len(traces)} chains, none of them",
            fix="pass the whole file that was extracted from: a quarter of it is kept for this",
        )
    return chains


def chosen_layers(table: pd.DataFrame, score: str) -> dict[str, int]:
    """For every behaviour the layer where ``score`` is largest; the lowest of equals.

    Of a sweep only layers at which text stays whole count (at least 90 % of chains closed
    and of spans parsed at both signs), unless there is none.
    """
    result = {}
    for name, part in table[table.score == score].groupby("behavior", sort=False):
        if score == "sweep":
            whole = part[(part.closed >= 0.9) & (part.parsed >= 0.9)]
            part = part if whole.empty else whole
        best = part.sort_values(["value", "layer"], ascending=[False, True]).iloc[0]
        result[str(name)] = int(best.layer)
    return result


def _auroc(
    model: ThinkingModel,
    directions: Mapping[str, Direction],
    chains: Traces,
    layers: Sequence[int],
    batch_tokens: int | None,
) -> pd.DataFrame:
    tensors = {n: d.tensor[[d.row(layer) for layer in layers]] for n, d in directions.items()}
    seen = foreseen(model, chains, tensors, layers, batch_tokens=batch_tokens)
    curves = area_intervals(seen, list(tensors))
    return _table(
        "auroc",
        layers,
        {name: curve for name, curve in zip(tensors, curves, strict=True) if curve is not None},
    )


def _forced_scores(
    model: ThinkingModel,
    directions: Mapping[str, Direction],
    chains: Traces,
    layers: Sequence[int],
    scores: Sequence[str],
    coefficient: float,
    tokens: int,
    batch_tokens: int | None,
    progress: Callable[[int, int], None] | None,
) -> list[pd.DataFrame]:
    batches = list(forced_batches(model, chains, tokens=tokens, batch_tokens=batch_tokens or 2048))
    slopes = {"gradient", "published"} & set(scores)
    steps = {"gain", "effect"} & set(scores)
    total = len(batches) * (bool(slopes) + bool(steps) * (1 + (len(directions) + 2) * len(layers)))
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    sums: _Sums = {}
    for forced in batches:
        if slopes:
            vectors = {
                n: coefficient * torch.stack([d.vector(layer) for layer in layers])
                for n, d in directions.items()
            }
            _note(sums, forced, "slopes", opener_slopes(model, forced, vectors, layers))
            positions = forced.thinking.sum(dim=1, keepdim=True).float()
            _note(sums, forced, "slopes", {n: {"positions": positions} for n in directions})
            told()
        if steps:
            effects = step_effects(model, forced, directions, layers, coefficient, told=told)
            _note(sums, forced, "steps", effects)
    makers: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
        "gradient": ("slopes", lambda w: w["own"] / w["n_own"] - w["other"] / w["n_other"]),
        "gain": ("steps", lambda w: w["own"] / w["n_own"] - w["other"] / w["n_other"]),
        "effect": ("steps", lambda w: (w["divergence"] - w["random"]) / w["positions"]),
        "published": ("slopes", lambda w: np.abs(w["published"]) / w["positions"]),
    }
    tables = []
    for score in scores:
        kind, make = makers[score]
        curves = {name: _interval(sums[kind][name], make) for name in directions}
        tables.append(_table(score, layers, curves))
    return tables


def _note(
    sums: dict[str, Any], forced: Forced, kind: str, found: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Add every row's sums to those of its task."""
    for name, parts in found.items():
        for part, rows in parts.items():
            tasks = sums.setdefault(kind, {}).setdefault(name, {}).setdefault(part, {})
            for task, row in zip(forced.tasks, rows.double().numpy(), strict=True):
                tasks[task] = tasks[task] + row if task in tasks else row


def _interval(
    sums: Mapping[str, Any], make: Callable[[dict[str, Any]], Any]
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


def _table(
    score: str, layers: Sequence[int], curves: Mapping[str, Float64[Tensor, "layer 3"]]
) -> pd.DataFrame:
    import pandas as pd

    rows = [
        (name, layer, score, *edges)
        for name, curve in curves.items()
        for layer, edges in zip(layers, curve.tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
