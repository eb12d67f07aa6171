"""Headline coefficients: where claims are tested, fixed before an evaluate task is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerkit.errors import EvaluationError
from steerkit.files import parse_json, write_text_atomic
from steerkit.models import ThinkingModel
from steerkit.places import Where, where_json
from steerkit.ranges import Range, find_ranges
from steerkit.tasks import Task, task_hash
from steerkit.traces import Traces
from steerkit.vectors import Direction, SteeringVectors, Unit

RANGES = "ranges.json"
_KEPT = ("fluent", "free", "found_on", "looked_to")


def headline_coefficients(
    coefficients: Iterable[float], fluent: Range | Sequence[float] | None
) -> list[float]:
    """The coefficients at which a behaviour's two claims are tested, suppression first.

    On either side of zero the one furthest from it at which text stays fluent; where none
    does, or no range is known, the one nearest to zero, so that the claim is tested and its
    verdict can say why it does not hold. A side without coefficients has no claim.

    >>> headline_coefficients([-0.4, -0.2, 0.2, 0.4], (-0.3, 0.5))
    [-0.2, 0.4]
    """
    found = []
    for side in (-1, 1):
        steps = sorted((float(c) for c in coefficients if c * side > 0), key=abs)
        inside = [c for c in steps if fluent is not None and fluent[0] <= c <= fluent[1]]
        found += inside[-1:] or steps[:1]
    return found


def checked_headline(
    asked: Mapping[str, Sequence[float]] | Sequence[float], names: Iterable[str]
) -> dict[str, list[float]]:
    """Coefficients named by the user, for every behaviour the same or each its own.

    Raises :class:`EvaluationError` for more than one coefficient on a side of zero.
    """
    made = {}
    for name in names:
        several = asked[name] if isinstance(asked, Mapping) else asked
        if not several or any(sum(c * side > 0 for c in several) > 1 for side in (-1, 1)):
            raise EvaluationError(
                f"claims about {name} are tested at one coefficient below zero and one above",
                expected="-0.3, 0.3, or one of them",
                found=list(several),
            )
        made[name] = sorted(float(c) for c in several if c)
    return made


def found_ranges(
    model: ThinkingModel,
    directions: Mapping[str, Direction],
    tasks: Sequence[Task],
    *,
    annotate: Callable[[Traces], Traces],
    unit: Unit | None,
    where: Where,
    limit: float,
    tolerance: float,
    folder: Path,
    tell: Callable[[str], None],
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Fluent and free range of directions, by behaviour, kept in ``folder`` once found.

    Returns ``fluent``, ``free`` (or ``None``), ``found_on``, the number of select tasks, and
    ``looked_to``, the limit: a border there is where the search ended, not the text.
    ``options`` are those of :func:`steerkit.generation.generate`.
    """
    path, kept = folder / RANGES, dict[str, Any]()
    if path.is_file():
        kept = parse_json(path.read_bytes(), EvaluationError, path, expected="ranges")
    made = {}
    for name, direction in directions.items():
        facts: list[Any] = [
            model.name,
            model.revision,
            direction.digest,
            direction.layer,
            unit,
            where_json(where),
            limit,
        ]
        facts += [sorted(task_hash(task.prompt) for task in tasks), options["seed"]]
        facts += [options[key] for key in ("temperature", "top_p", "max_new_tokens")]
        mark = json.dumps(facts)
        if kept.get(name, {}).get("mark") != mark:
            tell(f"looking how far {name} can be pushed, on {len(tasks)} select tasks")
            found = find_ranges(
                model,
                direction.at(layer=direction.layer, unit=unit, where=where),
                tasks,
                annotate=annotate,
                limit=limit,
                tolerance=tolerance,
                **options,
            )
            kept[name] = {
                "fluent": list(found.fluent),
                "free": None if found.free is None else list(found.free),
                "found_on": len(tasks),
                "looked_to": limit,
                "mark": mark,
            }
            write_text_atomic(path, json.dumps(kept, indent=1, sort_keys=True) + "\n")
        made[name] = {key: kept[name][key] for key in _KEPT}
    return made


def stored_range(direction: Direction) -> dict[str, Any] | None:
    """The range that the vectors file brings, or ``None``."""
    if direction.fluent is None:
        return None
    free = None if direction.free is None else list(direction.free)
    return {"fluent": list(direction.fluent), "free": free, "found_on": None, "looked_to": None}


def storable_ranges(
    ranges: Mapping[str, Mapping[str, Any]],
    vectors: SteeringVectors,
    unit: Unit | None,
    where: object,
) -> dict[str, Mapping[str, Any]]:
    """The ranges that a vectors file may hold: in its own unit, of pushes at every position."""
    return {
        name: found
        for name, found in ranges.items()
        if where == "all" and vectors[name].check_unit(unit) == vectors[name].default_unit
    }


def with_ranges(
    vectors: SteeringVectors, ranges: Mapping[str, Mapping[str, Any]]
) -> SteeringVectors:
    """The vectors with the ranges of an evaluation's settings, to be saved."""
    directions = dict(vectors.items())
    for name, found in ranges.items():
        if found["fluent"] is not None and name in directions:
            free = found["free"]
            directions[name] = replace(
                directions[name],
                fluent=(found["fluent"][0], found["fluent"][1]),
                free=None if free is None else (free[0], free[1]),
            )
    return SteeringVectors(directions, vectors.provenance, vectors.geometry)
