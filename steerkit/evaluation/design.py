"""Design: everything that is decided about an evaluation before its first chain is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from steerkit.annotation import Annotator, find_annotator
from steerkit.behaviors import behavior
from steerkit.errors import EvaluationError
from steerkit.evaluation.conditions import Condition, plan
from steerkit.evaluation.controls import extracted_from, requests
from steerkit.evaluation.headline import checked_headline, headline_coefficients
from steerkit.evaluation.held_out import bundled_tasks, by_hash, check_held_out, overlap
from steerkit.models import ThinkingModel
from steerkit.places import Where, check_where
from steerkit.resources import bundled_models, data
from steerkit.tasks import Task
from steerkit.traces import Trace, Traces, read_traces
from steerkit.vectors import Direction, SteeringVectors, Unit

TASKS, SELECT = 120, 24
"""Puzzles to evaluate on, and select tasks to find ranges on, unless more are asked for."""
_SMALL, _WIDE, _NARROW = 100e6, 256, 64
_TRIED = 8
"""Coefficients that finding a range tries, about."""
_LEAST = 0.4

Ranges = Mapping[str, Mapping[str, Any]]
"""By behaviour ``fluent``, ``free`` (or ``None``) and ``found_on``."""


@dataclass(frozen=True, eq=False)
class Design:
    """An evaluation before it runs: who is steered how, on what, judged by whom.

    Attributes are those of :func:`steerkit.evaluation.experiment.evaluate`, all resolved, and:

    Attributes
    ----------
    source, vectors:
        All vectors, and those of the behaviours that are steered.
    shared:
        Tasks that the vectors have seen; none, unless that was forced.
    unreadable:
        Words of the requests that the model cannot read; there are no requests then.
    options:
        Of :func:`steerkit.generation.generate`.
    """

    model: ThinkingModel
    source: SteeringVectors
    vectors: SteeringVectors
    tasks: list[Task]
    select: list[Task]
    shared: list[Task]
    chains: Traces
    annotators: list[Annotator]
    coefficients: list[float]
    headline: dict[str, list[float]] | None
    find_range: bool | None
    samples: int
    control_tasks: int
    random: int
    shuffled: int
    requests: dict[str, str]
    unreadable: list[str]
    unit: Unit | None
    where: Where
    options: dict[str, Any]

    def directions(self) -> dict[str, Direction]:
        """What is steered. Curves go beyond the fluent range on purpose, without a warning."""
        return {name: replace(d, fluent=None, free=None) for name, d in self.vectors.items()}

    def without_range(self) -> dict[str, Direction]:
        """Directions whose range is to be found: that of a vectors file is in their unit, and of
        pushes at every position."""
        if self.find_range is False:
            return {}
        return {
            name: direction
            for name, direction in self.directions().items()
            if self.find_range
            or self.vectors[name].fluent is None
            or direction.check_unit(self.unit) != direction.default_unit
            or self.where != "all"
        }

    @property
    def limit(self) -> float:
        """How far ranges are looked for: up to the largest coefficient, and 0.4 in any case."""
        every = (*self.coefficients, *(c for several in self._widest.values() for c in several))
        return max(_LEAST, *map(abs, every))

    @property
    def tolerance(self) -> float:
        """How exactly borders of ranges are to be known: to the finest step of the curves."""
        steps = sorted({0.0, *self.coefficients})
        gaps = [right - left for left, right in pairwise(steps)]
        return min([0.1, *gaps])

    @property
    def _widest(self) -> dict[str, list[float]]:
        """Headline coefficients as they are if everything is fluent."""
        if self.headline is not None:
            return self.headline
        wide = headline_coefficients(self.coefficients, (-float("inf"), float("inf")))
        return dict.fromkeys(self.vectors, wide)

    def tested(self, ranges: Ranges) -> dict[str, list[float]]:
        """By behaviour the coefficients at which its claims are tested."""
        if self.headline is not None:
            return self.headline
        return {
            name: headline_coefficients(
                self.coefficients, ranges[name]["fluent"] if name in ranges else None
            )
            for name in self.vectors
        }

    def conditions(
        self, tested: Mapping[str, Sequence[float]], shuffled: Mapping[str, Sequence[Direction]]
    ) -> list[Condition]:
        """The plan (:func:`steerkit.evaluation.conditions.plan`)."""
        return plan(
            self.directions(),
            self.coefficients,
            tested,
            tasks=len(self.tasks),
            control_tasks=self.control_tasks,
            random=self.random,
            shuffled=shuffled,
            requests=self.requests,
            unit=self.unit,
            where=self.where,
        )

    def size(self) -> int:
        """Chains to be written at most, those to find ranges on among them."""
        stand_ins = {name: [d] * self.shuffled for name, d in self.directions().items()}
        chains = sum(c.tasks for c in self.conditions(self._widest, stand_ins)) * self.samples
        return chains + _TRIED * len(self.select) * len(self.without_range())


def design(
    model: ThinkingModel,
    vectors: SteeringVectors,
    tasks: Iterable[Task] | None,
    *,
    traces: Iterable[Trace] | None,
    select: Iterable[Task] | None,
    behaviors: str | Iterable[str] | None,
    coefficients: Sequence[float],
    headline: Mapping[str, Sequence[float]] | Sequence[float] | None,
    find_range: bool | None,
    samples: int,
    control_tasks: int | None,
    random: int,
    shuffled: int,
    prompt: bool,
    annotators: str | Path | Annotator | Sequence[str | Path | Annotator] | None,
    unit: Unit | None,
    where: Where,
    batch_size: int | None,
    force: bool,
    **options: Any,
) -> Design:
    """The design that the arguments of ``evaluate`` make; raises what it raises."""
    for name, value, least in (
        ("samples", samples, 1),
        ("control_tasks", control_tasks, 1),
        ("random", random, 0),
        ("shuffled", shuffled, 0),
    ):
        if value is not None and value < least:
            raise EvaluationError(
                f"{name} is out of range", expected=f"at least {least}", found=value
            )
    steps = sorted({float(c) for c in coefficients if c})
    if not steps and headline is None:
        raise EvaluationError("there is no coefficient but 0", expected="at least one other")
    check_where(where)
    vectors.check(model)
    chosen = vectors.subset(_steered(vectors, behaviors))
    if tasks is None:
        pool = by_hash(bundled_tasks(model, vectors, "evaluate"))[:TASKS]
    else:
        pool = by_hash(tasks)
    if not pool:
        raise EvaluationError("there are no tasks to evaluate on", expected="at least one")
    if select is None and tasks is None:
        select = bundled_tasks(model, vectors, "select")
    kept = by_hash(select or ())[:SELECT]
    made = Design(
        model,
        vectors,
        chosen,
        pool,
        kept,
        overlap(pool, vectors, kept),
        _chains(model, vectors, traces, shuffled),
        _annotators(model, annotators),
        steps,
        None if headline is None else checked_headline(headline, chosen),
        find_range,
        samples,
        min(control_tasks or len(pool), len(pool)),
        random,
        shuffled,
        *(requests(model, chosen) if prompt else ({}, [])),
        unit,
        where,
        options | {"batch_size": batch_size or _batch_size(model)},
    )
    check_held_out(made.shared, len(pool), force=force)
    if not kept and made.without_range():
        raise EvaluationError(
            "how far text stays fluent is not known, and there are no tasks to find out on",
            expected="tasks of the select set",
            fix="pass them (select=...); or find the range before (steerkit layers); or do "
            "without (find_range=False): no claim can hold then",
        )
    return made


def _steered(vectors: SteeringVectors, asked: str | Iterable[str] | None) -> list[str]:
    """Behaviours whose directions are steered, by their full names."""
    if asked is None:
        names = [name for name, direction in vectors.items() if direction.layer is not None]
    else:
        names = [behavior(name).name for name in ([asked] if isinstance(asked, str) else asked)]
    for name in names:
        if vectors[name].layer is None:
            raise EvaluationError(
                f"no layer was chosen for {name}",
                fix="choose one: steerkit layers, or dataclasses.replace(direction, layer=...)",
            )
    if not names:
        raise EvaluationError("there is no direction with a layer to steer")
    return list(dict.fromkeys(names))


def _chains(
    model: ThinkingModel, vectors: SteeringVectors, traces: Iterable[Trace] | None, shuffled: int
) -> Traces:
    """Annotated chains that the vectors were extracted from, where shuffled labels need them."""
    if traces is None and model.name in bundled_models():
        traces = read_traces(data("traces/countdown.jsonl"))
    return extracted_from(traces or (), vectors) if shuffled else Traces(traces or ())


def _annotators(
    model: ThinkingModel,
    asked: str | Path | Annotator | Sequence[str | Path | Annotator] | None,
) -> list[Annotator]:
    """Annotators by name, from their files or as they are, each once."""
    if asked is None:
        asked = ("grammar",) if model.name in bundled_models() else ("classifier", "rules")
    elif isinstance(asked, str | Path | Annotator):
        asked = (asked,)
    found: dict[str, Annotator] = {}
    for entry in asked:
        annotator = find_annotator(entry)
        found[annotator.name] = annotator
    if not found:
        raise EvaluationError("nobody labels the chains", expected="at least one annotator")
    return list(found.values())


def _batch_size(model: ThinkingModel) -> int:
    """Rows side by side: a small model's steps cost little more for many of them."""
    size = sum(parameter.numel() for parameter in model.hf.parameters())
    return _WIDE if size < _SMALL else _NARROW
