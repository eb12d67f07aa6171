"""Choice: the layer of every behaviour, by one score, and what it is stored with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steerkit.annotation import Annotate
from steerkit.errors import ExtractionError
from steerkit.layer_choice.scores import chosen_layers
from steerkit.models import ThinkingModel
from steerkit.ranges import Measured, Ranges, find_ranges
from steerkit.tasks import Task, split_of, task_hash
from steerkit.traces import Trace
from steerkit.vectors import SteeringVectors

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerChoice:
    """Layers chosen by one score.

    Attributes
    ----------
    score:
        By which they were chosen.
    layers:
        Layer of every behaviour that has one.
    vectors:
        The vectors with these layers, and with their ranges where they were measured.
    ranges:
        Of every behaviour, where they were measured (:func:`steerkit.ranges.find_ranges`).
    """

    score: str
    layers: Mapping[str, int]
    vectors: SteeringVectors
    ranges: Mapping[str, Ranges]


def choose_layers(
    vectors: SteeringVectors,
    table: pd.DataFrame,
    score: str,
    facts: Mapping[str, Any] | None = None,
) -> LayerChoice:
    """Set every behaviour's layer to the one where a score is largest.

    Parameters
    ----------
    table:
        Of :func:`steerkit.layer_choice.scores.score_layers`.
    facts:
        What the vectors file shall say of it beside the score, such as coefficient and tasks.

    Behaviours without that score, or that a sweep raised nowhere, keep their layer. With a sweep
    provenance also names the annotator that counted. Ranges of a behaviour whose layer changes
    are forgotten. Raises :class:`ExtractionError` for a score that the table does not hold.
    """
    if score not in set(table.score):
        raise ExtractionError(
            f"layers were not scored by {score!r}", expected=", ".join(dict.fromkeys(table.score))
        )
    chosen = chosen_layers(table, score)
    directions = {}
    for name, direction in vectors.items():
        if name not in chosen:
            directions[name] = direction
            continue
        moved = chosen[name] != direction.layer
        directions[name] = replace(
            direction,
            layer=chosen[name],
            chosen_by=score,
            fluent=None if moved else direction.fluent,
            free=None if moved else direction.free,
        )
    known = {"score": score, **(facts or {})}
    if score == "sweep" and table.attrs.get("annotator"):
        known["annotator"] = table.attrs["annotator"]
    provenance = {**vectors.provenance, "layer_choice": known}
    return LayerChoice(score, chosen, SteeringVectors(directions, provenance, vectors.geometry), {})


def with_ranges(
    choice: LayerChoice,
    model: ThinkingModel,
    tasks: Sequence[Task],
    annotate: Annotate | None,
    **options: Any,
) -> LayerChoice:
    """The choice with the fluent and the free range of every behaviour at its layer.

    ``options`` are those of :func:`steerkit.ranges.find_ranges`. Ranges are in each direction's
    default unit. Provenance says on which model and how many tasks they were found, and who told
    which sentences are known.
    """
    ranges, directions, unsteered = {}, {}, Measured()
    for name, direction in choice.vectors.items():
        directions[name] = direction
        if direction.layer is None:
            continue
        shared = {"annotate": annotate, "unsteered": unsteered, **options}
        found = find_ranges(model, direction, tasks, **shared)
        ranges[name] = found
        directions[name] = replace(
            direction,
            fluent=(found.fluent.low, found.fluent.high),
            free=None if found.free is None else (found.free.low, found.free.high),
        )
    annotators = {found.annotator for found in ranges.values() if found.annotator}
    facts = {
        "model": model.name,
        "tasks": len(tasks),
        "annotator": ", ".join(sorted(annotators)) or None,
    }
    provenance = {**choice.vectors.provenance, **({"ranges": facts} if ranges else {})}
    vectors = SteeringVectors(directions, provenance, choice.vectors.geometry)
    return replace(choice, vectors=vectors, ranges=ranges)


def select_tasks(
    vectors: SteeringVectors, traces: Iterable[Trace], tasks: Iterable[Task], count: int
) -> list[Task]:
    """Tasks of the *select* set that the vectors were not extracted from, at most ``count``.

    ``tasks`` where there are any, else the prompts of ``traces``. Raises
    :class:`ExtractionError` where none is left.
    """
    listed = list(tasks) or [
        Task(trace.task_id, trace.prompt, trace.category or "") for trace in traces if trace.prompt
    ]
    seen = set(vectors.provenance.get("extract_tasks", ()))
    found: dict[str, Task] = {}
    for task in listed:
        key = task_hash(task.prompt)
        if split_of(task.prompt) == "select" and key not in seen:
            found.setdefault(key, task)
    if not found:
        raise ExtractionError(
            "no select tasks to generate on",
            expected="prompts of tasks that were not extracted from",
            found=f"{len(listed)} prompts, none of them",
            fix="name a tasks file: --tasks FILE",
        )
    # by hash: files often go by category, and the first tasks would be all of one
    return [found[key] for key in sorted(found)][:count]
