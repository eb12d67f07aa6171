"""Sweep: one direction or several, at many coefficients and layers, as rows of one generation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.direction import Direction
from steerkit.errors import SteeringError
from steerkit.generation import generate
from steerkit.layers import Layers, layer_numbers
from steerkit.models import ThinkingModel
from steerkit.tasks import Task
from steerkit.terms import Term, Terms, as_terms
from steerkit.traces import Traces

if TYPE_CHECKING:
    import pandas as pd

Swept = Direction | Term | Mapping[str, Direction] | Iterable[Direction | Term]


@dataclass(frozen=True)
class Sweep:
    """What a sweep wrote.

    Attributes
    ----------
    traces:
        The chains, by task, then condition, then sample; the baseline comes first.
    table:
        One row a chain, in the same order: ``trace``, ``task``, ``category``, ``sample``,
        ``behavior`` (missing for the baseline), ``operator``, ``layer``, ``coefficient`` (0 for
        the baseline), ``tokens``, ``thinking`` (characters), ``closed``, ``truncated``. Chains of
        one task and sample saw the same noise, so they are paired by these two columns.
    """

    traces: Traces
    table: pd.DataFrame


def sweep(
    model: ThinkingModel,
    tasks: str | Task | Sequence[str | Task],
    steer: Swept,
    *,
    coefficients: Sequence[float],
    layers: Layers | None = None,
    beside: object = None,
    **options: Any,
) -> Sweep:
    """Chains of every task under every direction, layer and coefficient, and unsteered.

    All conditions are rows of one batched generation, and the unsteered chains are written once
    for all of them.

    Parameters
    ----------
    tasks:
        Prompts or tasks.
    steer:
        A direction, a term (its place, time, gate and operator are kept, and its coefficient
        multiplies those here), or several of either.
    coefficients:
        In units of each layer; 0 is the baseline, which is there in any case.
    layers:
        Each a condition of its own; by default each direction's suggested layer.
    beside:
        Terms that act in every condition, the baseline included.
    options:
        Those of :func:`steerkit.generation.generate`: ``samples``, ``temperature``, ``seed`` ...

    Raises :class:`SteeringError` for no coefficient or direction and for layers without one.
    """
    listed = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    conditions = _conditions(steer, coefficients, layers)
    common = as_terms(beside)
    terms = [common if term is None else term + common for term in conditions]
    traces = generate(
        model,
        [task for task in listed for _ in terms],
        steer=[entry for _ in listed for entry in terms],
        **options,
    )
    return Sweep(traces, _table(traces, common))


def _conditions(
    steer: Swept, coefficients: Sequence[float], layers: Layers | None
) -> list[Term | None]:
    if isinstance(steer, Direction | Term):
        several: list[Direction | Term] = [steer]
    else:
        several = list(steer.values() if isinstance(steer, Mapping) else steer)
    steps = list(dict.fromkeys(float(c) for c in coefficients if c != 0))
    if not several or not len(coefficients):
        raise SteeringError("a sweep needs a direction and a coefficient")
    found: list[Term | None] = [None]
    for entry in several:
        term = 1.0 * entry
        each = term.resolved_layers() if layers is None else layer_numbers(layers, SteeringError)
        places: list[Any] = [each] if layers is None else list(each)
        found += [c * term.at(layer=place) for place in places for c in steps]
    return found


def _table(traces: Traces, common: Terms) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for trace in traces:
        # the condition's own term comes first, what acts beside it after it
        steering = trace.metadata["steering"]
        own = steering[0] if len(steering) > len(common) else None
        layers = None if own is None else own["layers"]
        rows.append(
            {
                "trace": trace.id,
                "task": trace.task_id,
                "category": trace.category,
                "sample": trace.metadata["sample"],
                "behavior": None if own is None else own["behavior"],
                "operator": None if own is None else own["operator"],
                "layer": layers[0] if layers is not None and len(layers) == 1 else None,
                "coefficient": 0.0 if own is None else own["coefficient"],
                "tokens": len(trace.token_ids or ()),
                "thinking": len(trace.thinking),
                "closed": trace.closed,
                "truncated": trace.truncated,
            }
        )
    return pd.DataFrame(rows).astype({"layer": "Int64"})
