"""Sweep: one direction or several, at many coefficients and layers, as rows of one generation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.direction import Direction
from steerkit.errors import SteeringError
from steerkit.generation import generate
from steerkit.layers import Layers, layer_numbers
from steerkit.models import ThinkingModel
from steerkit.tasks import Task
from steerkit.terms import Term, Terms, as_terms, number
from steerkit.traces import Traces

if TYPE_CHECKING:
    import pandas as pd

Swept = (
    Direction
    | Term
    | Terms
    | Mapping[str, Direction | Term | Terms]
    | Iterable[Direction | Term | Terms | None]
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """What a sweep wrote.

    Attributes
    ----------
    traces:
        The chains, by task, then condition, then sample; the baseline comes first.
    table:
        One row a chain, in the same order: ``trace``, ``task``, ``category``, ``sample``,
        ``behavior`` (missing for the baseline; of a sum the sum as it prints), ``operator``,
        ``layer`` (missing where there are several), ``coefficient`` (0 for the baseline; of a
        sum its factor), ``tokens``, ``thinking`` (characters), ``closed``, ``truncated``. Chains of
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
        multiplies those here), a sum of terms, or several of these. A sum is one condition: its
        terms act together, each multiplied by the coefficient.
    coefficients:
        In units of each layer; 0 is the baseline, which is there in any case.
    layers:
        Each a condition of its own, all terms of a sum at it; by default each direction's
        suggested layer.
    beside:
        Terms that act in every condition, the baseline included. A surrounding ``model.steer``
        does not act in a sweep, and a warning says so: name its terms here.
    options:
        Those of :func:`steerkit.generation.generate`: ``samples``, ``temperature``, ``seed`` ...

    Raises :class:`SteeringError` for no coefficient or direction, for what is neither, and for
    layers without one.
    """
    listed = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    common = as_terms(beside)
    conditions = [_Condition(Terms(), None, 0.0)]
    conditions += [
        condition
        for entry in _several(steer)
        for condition in _conditions(entry, _steps(coefficients), layers)
    ]
    if model.steering:
        _log.warning(
            "%r of the surrounding model.steer does not act in a sweep: name it as beside",
            model.steering,
        )
    rows = [(task, condition) for task in listed for condition in conditions]
    traces = generate(
        model,
        [task for task, _ in rows],
        steer=[condition.terms + common for _, condition in rows],
        **options,
    )
    expected = [c for _, c in rows for _ in range(options.get("samples", 1))]
    return Sweep(traces, _table(traces, expected, common))


@dataclass(frozen=True)
class _Condition:
    """Terms that act together, and what the table calls them."""

    terms: Terms
    behavior: str | None
    coefficient: float

    @property
    def operator(self) -> str | None:
        return ", ".join(dict.fromkeys(term.operator for term in self.terms)) or None

    @property
    def layer(self) -> int | None:
        layers = {layer for term in self.terms for layer in term.resolved_layers()}
        return layers.pop() if len(layers) == 1 else None


def _several(steer: object) -> list[Terms]:
    """What is swept, one entry a condition."""
    # a sum of terms is a tuple, and yet one thing
    if isinstance(steer, Terms | str) or not isinstance(steer, Iterable):
        entries = [steer]
    else:
        entries = list(steer.values() if isinstance(steer, Mapping) else steer)
    found = [as_terms(entry) for entry in entries]
    if not found or not all(found):
        raise SteeringError(
            "a sweep needs a direction and a coefficient",
            expected="a direction, a term, a sum of terms, or several of these",
            found="none",
        )
    return found


def _steps(coefficients: object) -> list[float]:
    """The coefficients but for 0, each once."""
    if isinstance(coefficients, str) or not isinstance(coefficients, Iterable):
        raise SteeringError(
            "the coefficients of a sweep are a list",
            expected="numbers such as [-0.3, 0.3]",
            found=repr(coefficients),
        )
    listed = [number(c) for c in coefficients]
    if not listed:
        raise SteeringError("a sweep needs a direction and a coefficient", found="no coefficient")
    return list(dict.fromkeys(c for c in listed if c != 0))


def _conditions(terms: Terms, steps: Sequence[float], layers: Layers | None) -> list[_Condition]:
    if layers is None:
        placed = [Terms(term.at(layer=term.resolved_layers()) for term in terms)]
    else:
        numbers = layer_numbers(layers, SteeringError)
        placed = [Terms(term.at(layer=layer) for term in terms) for layer in numbers]
    found = []
    for here in placed:
        for c in steps:
            scaled = here * c
            if len(scaled) == 1:
                (term,) = scaled
                found.append(_Condition(scaled, term.direction.behavior, term.coefficient))
            else:
                found.append(_Condition(scaled, repr(terms), c))
    return found


def _table(traces: Traces, conditions: Sequence[_Condition], common: Terms) -> pd.DataFrame:
    """``conditions`` are those of the chains that were asked for, in order; an interrupted
    generation gives fewer."""
    import pandas as pd

    rows, remaining = [], iter(conditions)
    recorded = {id(c): [term.to_json() for term in c.terms + common] for c in conditions}
    for trace in traces:
        steering = trace.metadata["steering"]
        own = next(c for c in remaining if recorded[id(c)] == steering)
        rows.append(
            {
                "trace": trace.id,
                "task": trace.task_id,
                "category": trace.category,
                "sample": trace.metadata["sample"],
                "behavior": own.behavior,
                "operator": own.operator,
                "layer": own.layer,
                "coefficient": own.coefficient,
                "tokens": len(trace.token_ids or ()),
                "thinking": len(trace.thinking),
                "closed": trace.closed,
                "truncated": trace.truncated,
            }
        )
    return pd.DataFrame(rows).astype({"layer": "Int64"})
