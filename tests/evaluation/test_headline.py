"""Headline coefficients: the furthest at which text stays fluent, and never one of chance."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import steerkit as sk
from steerkit.errors import EvaluationError
from steerkit.evaluation import headline
from steerkit.evaluation.headline import (
    checked_headline,
    found_ranges,
    headline_coefficients,
    stored_range,
    with_ranges,
)
from steerkit.ranges import Range, Ranges
from steerkit.tasks import Task
from tests.test_steering import direction
from tests.tiny import tiny_model

STEPS = [-0.4, -0.2, 0.2, 0.4]


@pytest.mark.parametrize(
    ("fluent", "expected"),
    [
        ((-0.3, 0.5), [-0.2, 0.4]),
        ((-0.4, 0.4), [-0.4, 0.4]),
        ((-0.1, 0.2), [-0.2, 0.2]),  # nothing is fluent below zero: the least, whose claim fails
        (None, [-0.2, 0.2]),
    ],
)
def test_the_furthest_fluent_coefficient_of_either_sign(fluent, expected) -> None:
    assert headline_coefficients(STEPS, fluent) == expected


def test_a_side_without_coefficients_has_no_claim() -> None:
    assert headline_coefficients([0.1, 0.3], (-1.0, 1.0)) == [0.3]
    assert headline_coefficients([0.0], (-1.0, 1.0)) == []


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    st.tuples(st.floats(-1, 0), st.floats(0, 1)),
)
def test_it_is_one_of_them_and_the_furthest_that_is_fluent(steps, fluent) -> None:
    for found in headline_coefficients(steps, fluent):
        same_side = [c for c in steps if c and (c > 0) == (found > 0)]
        inside = [c for c in same_side if fluent[0] <= c <= fluent[1]]
        assert found in same_side
        assert abs(found) == (max(map(abs, inside)) if inside else min(map(abs, same_side)))


def test_a_choice_of_the_user_is_checked() -> None:
    names = ["a", "b"]
    assert checked_headline([0.3, -0.2], names) == {"a": [-0.2, 0.3], "b": [-0.2, 0.3]}
    assert checked_headline({"a": [0.1], "b": [-0.1, 0.3]}, names)["a"] == [0.1]
    for wrong in ([0.1, 0.3], [], {"a": [0.1], "b": []}):
        with pytest.raises(EvaluationError, match="one coefficient below zero and one above"):
            checked_headline(wrong, names)


def test_ranges_are_found_once(monkeypatch, tmp_path) -> None:
    asked = []

    def find(model, term, tasks, *, annotate, limit, tolerance, **options):
        asked.append((term.direction.behavior, term.unit, term.where, limit, len(tasks)))
        return Ranges(Range(-0.25, 0.45), None, pd.DataFrame())

    monkeypatch.setattr(headline, "find_ranges", find)
    options = {"seed": 0, "temperature": 1.0, "top_p": None, "max_new_tokens": 9}

    def found(tasks=2, where="all", **changed):
        return found_ranges(
            tiny_model(),
            {"backtracking": direction()},
            [Task(f"t{i}", f"Use {i} to make {i}.") for i in range(tasks)],
            annotate=lambda traces: traces,
            unit="paper",
            where=where,
            limit=0.6,
            tolerance=0.1,
            folder=tmp_path,
            tell=lambda text: None,
            **{**options, **changed},
        )

    found_now = {"fluent": [-0.25, 0.45], "free": None, "found_on": 2, "looked_to": 0.6}
    expected = {"backtracking": found_now}
    assert found() == expected and found() == expected
    assert asked == [("backtracking", "paper", "all", 0.6, 2)]
    assert found(batch_size=3) == expected and len(asked) == 1  # changes no chain
    found(seed=1)
    found(tasks=3)
    found(where="sentences")
    assert len(asked) == 4 and asked[-1][2] == "sentences"


def test_ranges_go_into_the_vectors_and_come_back() -> None:
    vectors = sk.SteeringVectors({"backtracking": direction()}, {"model": "m"})
    assert stored_range(vectors["backtracking"]) is None
    ranges = {"backtracking": {"fluent": [-0.2, 0.3], "free": [-0.1, 0.1], "found_on": 9}}
    after = with_ranges(vectors, ranges)
    assert after["backtracking"].fluent == (-0.2, 0.3) and after.provenance == {"model": "m"}
    assert stored_range(after["backtracking"]) == {
        "fluent": [-0.2, 0.3],
        "free": [-0.1, 0.1],
        "found_on": None,
        "looked_to": None,
    }
    assert vectors["backtracking"].fluent is None
