"""Held-out tasks: those that an evaluation may use, and a refusal of all others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from steerkit.errors import EvaluationError
from steerkit.models import ThinkingModel
from steerkit.resources import bundled_models
from steerkit.tasks import Split, Task, split_of, task_hash
from steerkit.vectors import SteeringVectors

_DRAWN = 1600
"""Puzzles of the held-out pool, a quarter of which is of each of the sets select and evaluate."""


def bundled_tasks(model: ThinkingModel, vectors: SteeringVectors, split: Split) -> list[Task]:
    """Puzzles that neither a bundled model was trained on nor the vectors have seen.

    Of the *select* or the *evaluate* set, in the order of their hashes. Raises
    :class:`EvaluationError` for a model that does not come with steerkit: it needs tasks of
    its own.
    """
    from steerkit.puzzles.tasks import generate_tasks

    if model.name not in bundled_models():
        raise EvaluationError(
            f"no tasks to evaluate {model.name} on",
            expected="held-out tasks",
            fix="pass them: tasks=sk.read_tasks(file), or --tasks FILE",
        )
    seen = _seen(vectors)
    tasks = (puzzle.to_task() for puzzle in generate_tasks("heldout", count=_DRAWN))
    return by_hash(
        task
        for task in tasks
        if split_of(task.prompt) == split and task_hash(task.prompt) not in seen
    )


def by_hash(tasks: Iterable[Task]) -> list[Task]:
    """Tasks in the order of their hashes, each normalised prompt once.

    So the first n of them are the same n whatever the order of a file was. Raises
    :class:`EvaluationError` for different tasks with the same id.
    """
    found: dict[str, Task] = {}
    for task in tasks:
        found.setdefault(task_hash(task.prompt), task)
    names: dict[str, str] = {}
    for task in found.values():
        if names.setdefault(task.id, task.prompt) != task.prompt:
            raise EvaluationError(
                f"two tasks have the id {task.id!r}", fix="give every task an id of its own"
            )
    return [found[key] for key in sorted(found)]


def overlap(
    tasks: Iterable[Task], vectors: SteeringVectors, select: Iterable[Task] = ()
) -> list[Task]:
    """The tasks that the vectors, their layers or their ranges have seen already.

    These are the tasks whose normalised prompt was extracted from or chosen on
    (:func:`steerkit.tasks.task_hash`), those in ``select``, and, where layers were chosen or
    ranges found on tasks whose names nobody wrote down, all that belong to the *select* set.
    """
    seen = _seen(vectors) | {task_hash(task.prompt) for task in select}
    chosen = "layer_choice" in vectors.provenance or any(
        direction.fluent is not None for direction in vectors.values()
    )
    return [
        task
        for task in tasks
        if task_hash(task.prompt) in seen or (chosen and split_of(task.prompt) == "select")
    ]


def check_held_out(shared: Sequence[Task], total: int, *, force: bool) -> None:
    """Refuse tasks that were seen already, unless that is forced: see :func:`overlap`."""
    if shared and not force:
        raise EvaluationError(
            "an evaluation needs tasks that the vectors were not made with",
            expected="tasks of the evaluate set",
            found=f"{len(shared)} of {total} were or may have been extracted from or chosen on, "
            f"{shared[0].id!r} among them",
            fix="leave them out (steerkit.tasks.split_of tells the sets), or force it (force=True, "
            "--force), which the report will say",
        )


def set_facts(
    vectors: SteeringVectors, select: Iterable[Task], tasks: Iterable[Task]
) -> dict[str, dict[str, Any]]:
    """How many tasks each of the three sets has, and a digest of their hashes."""
    chosen = {task_hash(task.prompt) for task in select}
    facts = vectors.provenance
    known = {
        "extract": facts.get("extract_tasks"),
        "select": sorted({*facts.get("select_tasks", ()), *chosen}),
        "evaluate": sorted(task_hash(task.prompt) for task in tasks),
    }
    return {
        name: {
            "tasks": None if keys is None else len(keys),
            "digest": None if keys is None else digest(keys),
        }
        for name, keys in known.items()
    }


def digest(keys: Iterable[str]) -> str:
    """Twelve digits that name a set of hashes, in any order."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:12]


def _seen(vectors: SteeringVectors) -> set[str]:
    facts = vectors.provenance
    return {*facts.get("extract_tasks", ()), *facts.get("select_tasks", ())}
