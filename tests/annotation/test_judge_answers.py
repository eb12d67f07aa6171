"""Answers: what is whole is read, what is not is named, and nothing is guessed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.annotation.judge_answers import Answer, read_answer
from steerkit.behaviors import UNPARSED, Behavior, behaviors, declare

NAMES = [b.name for b in behaviors()[:6]]
D, B, U = "deduction", "backtracking", "uncertainty-estimation"


def rows(*labels):
    return [{"sentence": i, "label": label} for i, label in enumerate(labels, start=1)]


def read(value, count=2):
    text = value if isinstance(value, str) else json.dumps(value)
    return read_answer(text, count, NAMES)


GOOD = json.dumps({"labels": rows(D, B)})


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n```json\n{GOOD}\n```\n",
        f"```\n{GOOD}\n```",
        f"<think>\nIt is {{'labels': 1}} maybe.\n</think>\n\n{GOOD}",
        f"Here you are: {GOOD} Anything else?",
        json.dumps(rows(D, B)),
        json.dumps({"labels": rows(D, B), "note": "fine"}),
        json.dumps({"labels": [{"sentence": "2", "label": B}, {"sentence": "1", "label": D}]}),
    ],
)
def test_whole_answers_are_read_in_any_wrapping(text):
    assert read(text) == Answer((D, B))


@pytest.mark.parametrize(
    "label",
    ["Uncertainty-Estimation", "uncertainty_estimation", " uncertainty estimation ", "uncertainty"],
)
def test_labels_may_be_spelled_as_people_do(label):
    assert read({"labels": rows(label, "UNPARSED")}) == Answer((U, UNPARSED))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (GOOD[:-4], "no complete JSON object"),
        (GOOD[: len(GOOD) // 2], "no complete JSON object"),
        (f"<think>{GOOD}", "no complete JSON object"),
        (f"First {GOOD}, or rather {GOOD[:-3]}", "no complete JSON object"),
        (f"{GOOD} or {GOOD}", "no complete JSON object"),
        ("", "no complete JSON object"),
        ("I cannot do that.", "no complete JSON object"),
        ("[" * 100_000, "no complete JSON object"),
        ({"answer": rows(D, B)}, "no complete JSON object"),
        ({"labels": {"1": D, "2": B}}, "no complete JSON object"),
        ({"labels": rows(D)}, "sentence 2 is missing (1 of 2 are)"),
        ({"labels": []}, "sentence 1 is missing (2 of 2 are)"),
        ({"labels": rows(D, B, D)}, "sentence 3 does not exist"),
        ({"labels": [{"sentence": 0, "label": D}, *rows(D, B)]}, "sentence 0 does not exist"),
        ({"labels": [{"sentence": -1, "label": D}]}, "sentence -1 does not exist"),
        ({"labels": [*rows(D, B), rows(D)[0]]}, "sentence 1 is there twice"),
        ({"labels": [{"label": D}, {"label": B}]}, "does not name its sentence"),
        ({"labels": [{"sentence": True, "label": D}]}, "does not name its sentence"),
        ({"labels": [{"sentence": 1.0, "label": D}]}, "does not name its sentence"),
        ({"labels": [{"sentence": "one", "label": D}]}, "does not name its sentence"),
        ({"labels": [D, B]}, "does not name its sentence"),
    ],
)
def test_answers_whose_numbers_are_not_right_give_no_label(value, problem):
    found = read(value)
    assert found.labels == () and problem in found.problem


@pytest.mark.parametrize("label", ["daydreaming", "", None, 3, ["deduction"], "deduction-ish"])
def test_a_label_that_is_none_costs_its_own_sentence_alone(label):
    found = read({"labels": rows(D, label)})
    assert found.labels == (D, None) and "sentence 2 has the unknown label" in found.problem


def test_a_long_strange_label_is_not_repeated_in_full():
    assert len(read({"labels": rows(D, "x" * 5000)}).problem) < 100


def test_labels_that_were_not_offered_are_none():
    declare(Behavior("checking", "verifies a result"))
    answer = json.dumps({"labels": rows("checking", D)})
    assert read_answer(answer, 2, ["checking", D]).labels == ("checking", D)
    assert read_answer(answer, 2, [D]).labels == (None, D)


@given(st.data())
def test_any_answer_gives_right_labels_or_none(data):
    """Whatever rows are dropped, doubled or renumbered, no label lands on a wrong sentence."""
    truth = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))
    good = rows(*truth)
    kept = data.draw(st.permutations(good))
    extra = data.draw(st.lists(st.sampled_from([*good, {"sentence": 9, "label": D}]), max_size=2))
    dropped = data.draw(st.integers(0, 2))
    found = read({"labels": [*kept[dropped:], *extra]}, len(truth))
    numbers = [row["sentence"] for row in (*kept[dropped:], *extra)]
    if sorted(numbers) == list(range(1, len(truth) + 1)):
        assert found == Answer(tuple(truth))
    else:
        assert found.labels == () and found.problem


@given(st.text(max_size=80))
def test_no_text_is_too_strange(text):
    assert read(text).problem
