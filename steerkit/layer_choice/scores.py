"""Scores of layers, side by side in one table with intervals over tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float64
from torch import Tensor

from steerkit.annotation import Annotate
from steerkit.direction import Direction
from steerkit.errors import ExtractionError
from steerkit.layer_choice.causal import causal_sweep
from steerkit.layer_choice.curves import COEFFICIENT, FORCED, forced_curves
from steerkit.layer_choice.foresight import area_intervals, foreseen
from steerkit.models import ThinkingModel
from steerkit.streaming import TooLong
from steerkit.tasks import Task
from steerkit.traces import Trace, Traces
from steerkit.vectors import SteeringVectors

if TYPE_CHECKING:
    import pandas as pd

CHEAP = ("auroc", "gradient", "gain", "effect", "published")
"""Scores that need no generation."""
SCORES = (*CHEAP, "sweep")
COLUMNS = ["behavior", "layer", "score", "value", "low", "high"]


def score_layers(
    model: ThinkingModel,
    vectors: SteeringVectors,
    traces: Iterable[Trace],
    *,
    scores: Sequence[str] = ("auroc", "gradient"),
    coefficient: float = COEFFICIENT,
    layers: Sequence[int] | None = None,
    tasks: Sequence[Task] = (),
    annotate: Annotate | None = None,
    chains: int = 48,
    tokens: int = 384,
    batch_tokens: int | None = None,
    too_long: TooLong | None = None,
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
        Of the steps, in each direction's default unit: mean norms of the layer, or norms of the
        mean where the vectors are not calibrated. ``gradient`` is the slope times it.
    layers:
        Those of the vectors by default.
    tasks, annotate, options:
        For ``sweep``: tasks of the *select* set, what labels the chains (a name such as
        ``"rules"``, the path of a rules file or classifier, an annotator, or a function), and
        options of :func:`steerkit.generation.generate`.
    chains, tokens:
        How many chains, and how many tokens of each, all scores but ``auroc`` and ``sweep`` are
        taken from. The cost of ``gain`` and ``effect`` is a forward pass over them for every
        behaviour and layer.
    too_long:
        What ``auroc`` does with a chain longer than the context (as of
        :func:`steerkit.collection.collect`); by default what extraction did.
    progress:
        Called with steps done and steps in all, and for the sweep with chains.

    Returns
    -------
    Tidy: ``behavior``, ``layer``, ``score``, ``value``, ``low``, ``high`` (95 % bootstrap over
    tasks), and for ``sweep`` also ``up``, ``down``, ``base``, ``closed``, ``parsed``. Units:
    ``auroc`` 0 to 1; ``gradient`` and ``gain`` nats a boundary; ``effect`` nats a token in excess
    of random steps; ``published`` its absolute value per thinking position; ``sweep`` a share
    of spans. ``table.attrs["annotator"]`` names who labelled the sweep's chains.

    Raises :class:`ExtractionError` for unknown scores, for no chains of *select* tasks, and
    for a sweep without annotator or without two tasks; :class:`AnnotationError` for an unknown
    annotator.
    """

    for name in scores:
        if name not in SCORES:
            raise ExtractionError(f"unknown score {name!r}", expected="one of " + ", ".join(SCORES))
    swept = "sweep" in scores
    if swept and (not tasks or annotate is None):
        raise ExtractionError(
            "a causal sweep needs tasks and an annotator",
            fix="pass tasks=... of the select set and annotate=..., or leave the sweep out",
        )
    if swept and len(tasks) < 2:
        raise ExtractionError(
            "one task gives a causal sweep no interval",
            expected="two tasks or more",
            found=f"{len(tasks)} task",
            fix="allow more tasks: --count 2, or tasks=...",
        )
    vectors.check(model)
    kept = select_chains(vectors, traces)
    few = Traces(sorted(kept, key=lambda trace: trace.task_key)[:chains])
    found = dict(vectors.items())
    first = next(iter(found.values()))
    chosen = list(first.layers) if layers is None else list(layers)
    tables = []
    if "auroc" in scores:
        # chains that extraction cut or skipped are cut or skipped here as well
        told_too_long = too_long or vectors.provenance.get("too_long", "refuse")
        tables.append(_auroc(model, found, kept, chosen, batch_tokens, told_too_long))
    forced = [name for name in scores if name in FORCED]
    if forced:
        curves = forced_curves(
            model,
            found,
            few,
            chosen,
            forced,
            coefficient=coefficient,
            tokens=tokens,
            batch_tokens=batch_tokens,
            progress=progress,
        )
        tables += [_table(score, chosen, curves[score]) for score in forced]
    if swept and annotate is not None:
        told = {"progress": progress, **options}
        table = causal_sweep(model, tasks, found, chosen, coefficient, annotate, **told)
        table.insert(2, "score", "sweep")
        tables.append(table)
    return joined(tables)


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of scores as one, which names who labelled the chains of its sweep."""
    import pandas as pd

    annotators = [table.attrs.get("annotator") for table in tables]
    whole = pd.concat(tables, ignore_index=True)
    whole.attrs["annotator"] = next((name for name in annotators if name), None)
    return whole


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

    Of a sweep only layers at which text stays whole count (:func:`whole`), unless there is none.
    A behaviour that the score does not know anything about is left out, and so is one that a
    sweep raised at no layer: where pushing up and down made no difference, the first of equals
    would be a layer picked by its number.
    """
    result = {}
    for name, part in table[table.score == score].groupby("behavior", sort=False):
        if score == "sweep":
            kept = part[whole(part)]
            part = part if kept.empty else kept
        part = part[part.value.notna()]
        if len(part):
            best = part.sort_values(["value", "layer"], ascending=[False, True]).iloc[0]
            if score != "sweep" or best.value > 0:
                result[str(name)] = int(best.layer)
    return result


def whole(sweep: pd.DataFrame) -> Any:
    """Whether text stays whole at both signs: a boolean series, one entry a row of a sweep.

    At least 90 % of chains closed and of spans parsed; where unsteered text has less than 95 %
    (chains cut off by the token limit, an annotator that abstains), at most 5 points less than it.
    """
    result = sweep["value"].notna()
    for share in ("closed", "parsed"):
        least = sweep.get(f"base_{share}", sweep[share] * 0 + 1.0) - 0.05
        result &= sweep[share] >= least.clip(upper=0.9) - 1e-9
    return result


def _auroc(
    model: ThinkingModel,
    directions: Mapping[str, Direction],
    chains: Traces,
    layers: Sequence[int],
    batch_tokens: int | None,
    too_long: TooLong,
) -> pd.DataFrame:
    tensors = {n: d.tensor[[d.row(layer) for layer in layers]] for n, d in directions.items()}
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "too_long": too_long}
    seen = foreseen(model, chains, tensors, layers, **options)
    curves = area_intervals(seen, list(tensors))
    return _table(
        "auroc",
        layers,
        {name: curve for name, curve in zip(tensors, curves, strict=True) if curve is not None},
    )


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
