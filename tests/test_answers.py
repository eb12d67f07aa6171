"""Answers: puzzles by their rules, others by what stands after Answer."""

from __future__ import annotations

import pytest

from steerkit.answers import correct
from steerkit.tasks import Task
from steerkit.traces import Trace


def chain(answer: str, prompt: str = "How many?", closed: bool = True) -> Trace:
    end = "</think>" if closed else ""
    return Trace(id="a", task_id="a", prompt=prompt, response=f"<think>\nhm{end}{answer}")


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("Twelve eggs.\n\n**Answer: 12**", "12", True),
        ("Answer: 1,200 m", "1200 m", True),
        ("Answer: 13", "12", False),
        ("Answer: 12\nNo.\nFinal answer: 13", "12", False),
        ("So it is \\boxed{3/8}.", "3/8", True),
        ("It is 12.", "12", False),
        ("**Answer:** Tuesday.", "tuesday", True),
    ],
)
def test_gold_answers(answer: str, gold: str, expected: bool) -> None:
    assert correct(chain(answer), Task("a", "How many?", answer=gold)) is expected


def test_puzzles_are_verified_by_their_rules() -> None:
    prompt = "Use 3, 7, 8 to make 29."
    assert correct(chain(" 3 * 7 + 8 = 29", prompt)) is True
    assert correct(chain(" 3 * 8 + 7 = 31", prompt)) is False
    assert correct(chain("", prompt, closed=False)) is False


def test_nothing_is_claimed_where_nothing_is_known() -> None:
    assert correct(chain("Answer: 12")) is None
    assert correct(chain("Answer: 12"), Task("a", "How many?")) is None
    assert correct(chain("", closed=False), Task("a", "How many?", answer="12")) is False
