"""Conditions: every behaviour at every coefficient, controls at the headline, each once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from steerkit.errors import SteeringError
from steerkit.evaluation.conditions import Condition, condition_name, plan
from steerkit.tasks import Task
from tests.test_steering import direction

A = direction(1, layer=1, name="backtracking")
B = direction(2, layer=1, name="deduction")
C = direction(3, layer=2, name="example-testing")
HEADLINE = {"backtracking": [-0.2, 0.3], "deduction": [-0.3, 0.3], "example-testing": [-0.2, 0.2]}


def planned(**options):
    directions = {d.behavior: d for d in (A, B, C)}
    settings = {"tasks": 10, "control_tasks": 4, "random": 3, **options}
    return plan(directions, [-0.3, -0.2, 0.0, 0.2, 0.3], HEADLINE, **settings)


def test_names() -> None:
    assert condition_name("backtracking", 0.3, 4) == "backtracking+0.30@4"
    assert condition_name("random-07", -0.125, 0) == "random-07-0.125@0"


def test_every_behaviour_is_steered_at_every_coefficient_once() -> None:
    found = planned()
    steered = [c for c in found if c.kind == "steered"]
    assert Counter((c.behavior, c.coefficient) for c in steered) == {
        (d.behavior, c): 1 for d in (A, B, C) for c in (-0.3, -0.2, 0.2, 0.3)
    }
    marked = {(c.behavior, c.coefficient) for c in steered if c.headline}
    assert marked == {(name, c) for name, pair in HEADLINE.items() for c in pair}
    assert all(c.tasks == 10 and c.term is not None for c in steered)
    assert {c.layer for c in steered if c.behavior == "example-testing"} == {2}
    assert found[0].id == "baseline" and found[0].term is None and found[0].coefficient == 0
    assert len({c.id for c in found}) == len(found)
    # what the claims are about comes first
    assert [c.headline for c in found[1:7]] == [True] * 6


def test_controls_are_pushed_where_the_directions_are() -> None:
    places = {c.id: c.term.where for c in planned(where="sentences") if c.term is not None}
    assert set(places.values()) == {"sentences"} and any("random" in name for name in places)
    everywhere = {c.id: c.mark({}) for c in planned()}
    marks = {c.id: c.mark({}) for c in planned(where="sentences")}
    # the same names, other chains: nothing of one is taken for the other
    assert marks.keys() == everywhere.keys()
    assert [name for name in marks if marks[name] == everywhere[name]] == ["baseline"]


def test_random_directions_serve_both_signs_and_every_behaviour_of_a_layer() -> None:
    random = [c for c in planned() if c.kind == "random"]
    assert Counter((c.layer, c.coefficient) for c in random) == {
        (1, 0.2): 3,
        (1, 0.3): 3,
        (2, 0.2): 3,
    }
    assert {c.behavior for c in random} == {None} and {c.tasks for c in random} == {4}
    one, other = (c for c in random if (c.layer, c.control) == (1, 0))
    assert one.term is not None and other.term is not None
    # the same direction at both sizes, as long as a behaviour's own
    assert one.term.direction.digest == other.term.direction.digest
    length = 0.2 * A.vector(1).norm()
    assert float((0.2 * one.term.direction.vector(1)).norm()) == pytest.approx(float(length))


def test_shuffled_directions_are_run_at_their_behaviour_s_signed_coefficients() -> None:
    twins = {"backtracking": [direction(s, layer=1) for s in (7, 8)]}
    shuffled = [c for c in planned(shuffled=twins, random=0) if c.kind == "shuffled"]
    assert [(c.id, c.control, c.coefficient) for c in shuffled] == [
        ("shuffled-backtracking-00-0.20@1", 0, -0.2),
        ("shuffled-backtracking-00+0.30@1", 0, 0.3),
        ("shuffled-backtracking-01-0.20@1", 1, -0.2),
        ("shuffled-backtracking-01+0.30@1", 1, 0.3),
    ]
    assert all(c.headline and c.tasks == 4 for c in shuffled)
    assert shuffled[2].term is not None
    torch.testing.assert_close(shuffled[2].term.direction.tensor, twins["backtracking"][1].tensor)


def test_a_prompt_asks_and_pushes_nothing() -> None:
    (asked,) = (c for c in planned(requests={"deduction": "Deduce."}) if c.kind == "prompt")
    assert asked.id == "prompt-deduction" and asked.term is None and asked.layer is None
    task = Task("a", "How many?", "sums", answer="3")
    assert asked.prompt(task) == Task("a", "How many? Deduce.", "sums", answer="3")
    assert Condition("baseline", "baseline", 3).prompt(task) is task


def test_marks_tell_chains_of_other_settings_apart() -> None:
    common = {"model": "m", "seed": 0}
    first = planned()[1]
    assert first.mark(common) == planned()[1].mark(dict(reversed(common.items())))
    others = [planned()[2].mark(common), first.mark({"model": "m", "seed": 1})]
    assert first.term is not None
    moved = replace(first, term=first.term.at(where="think"))
    others += [moved.mark(common), replace(first, request="Deduce.").mark(common)]
    assert len({first.mark(common), *others}) == 5
    # how many tasks there are changes no chain
    assert replace(first, tasks=99, headline=False).mark(common) == first.mark(common)


def test_a_unit_that_differs_between_directions_is_refused() -> None:
    with pytest.raises(SteeringError, match="unit 'raw'"):
        planned(unit="raw")
    with pytest.raises(SteeringError, match="no layer"):
        plan({"deduction": replace(B, layer=None)}, [0.1], HEADLINE, tasks=1, control_tasks=1)
