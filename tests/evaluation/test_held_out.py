"""Held-out tasks: what was seen is refused, whatever its wording's order, unless forced."""

from __future__ import annotations

from dataclasses import replace

import pytest

import steerkit as sk
from steerkit.errors import EvaluationError
from steerkit.evaluation.held_out import (
    bundled_tasks,
    by_hash,
    check_held_out,
    digest,
    overlap,
    set_facts,
)
from steerkit.puzzles.tasks import parse_prompt
from steerkit.tasks import Task, split_of, task_hash
from tests.test_steering import direction
from tests.tiny import tiny_model

TASKS = [Task(f"t{i}", f"Use {i}, 7, 8 to make 29.") for i in range(40)]


def vectors(extract=(), select=(), **more) -> sk.SteeringVectors:
    facts = {
        "extract_tasks": sorted(task_hash(t.prompt) for t in extract),
        "select_tasks": sorted(task_hash(t.prompt) for t in select),
        **more,
    }
    return sk.SteeringVectors({"backtracking": direction()}, facts)


def test_tasks_that_were_seen_are_found_and_refused() -> None:
    made = vectors(extract=TASKS[:3], select=TASKS[3:5])
    assert overlap(TASKS, made, select=TASKS[7:8]) == [*TASKS[:5], TASKS[7]]
    # the same task in other words' order is the same task
    again = Task("other", "Use 8, 7, 0 to make 29.")
    assert overlap([again], made) == [again]
    with pytest.raises(EvaluationError, match=r"2 of 9 .*'t0'.*--force"):
        check_held_out(TASKS[:2], 9, force=False)
    check_held_out(TASKS[:2], 9, force=True)
    check_held_out([], 9, force=False)


def test_select_tasks_count_as_seen_once_layers_or_ranges_were_chosen() -> None:
    of_select = [task for task in TASKS if split_of(task.prompt) == "select"]
    assert 0 < len(of_select) < len(TASKS)
    assert overlap(TASKS, vectors()) == []
    assert overlap(TASKS, vectors(layer_choice={"score": "sweep"})) == of_select
    found = sk.SteeringVectors({"backtracking": replace(direction(), fluent=(-0.3, 0.3))}, {})
    assert overlap(TASKS, found) == of_select


def test_the_first_tasks_are_the_same_whatever_the_order() -> None:
    listed = by_hash(TASKS)
    assert listed == by_hash(reversed(TASKS)) and len(listed) == len(TASKS)
    keys = [task_hash(task.prompt) for task in listed]
    assert keys == sorted(keys)
    twice = Task("again", "Use 7, 0, 8 to make 29.")
    assert len(by_hash([*TASKS, twice])) == len(TASKS)
    with pytest.raises(EvaluationError, match="two tasks have the id 't0'"):
        by_hash([*TASKS, Task("t0", "Why?")])


def test_bundled_tasks_are_puzzles_that_the_vectors_have_not_seen() -> None:
    model = tiny_model()
    model.name = "countdown-thinking"
    every = bundled_tasks(model, vectors(), "evaluate")
    assert len(every) > 300 and {split_of(t.prompt) for t in every} == {"evaluate"}
    assert {parse_prompt(t.prompt).pool for t in every[:20]} == {"heldout"}
    rest = bundled_tasks(model, vectors(extract=every[:5]), "evaluate")
    assert rest == every[5:]
    with pytest.raises(EvaluationError, match="no tasks to evaluate tiny"):
        bundled_tasks(tiny_model(), vectors(), "select")


def test_sets_are_counted_and_named() -> None:
    facts = set_facts(vectors(TASKS[:3], TASKS[3:5]), TASKS[4:6], TASKS[10:])
    assert {name: found["tasks"] for name, found in facts.items()} == {
        "extract": 3,
        "select": 3,
        "evaluate": 30,
    }
    assert facts["extract"]["digest"] == digest(task_hash(t.prompt) for t in TASKS[2::-1])
    unknown = set_facts(sk.SteeringVectors({}, {}), [], TASKS)
    assert unknown["extract"] == {"tasks": None, "digest": None}
