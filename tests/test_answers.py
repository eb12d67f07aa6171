"""Answers: puzzles by their rules, formulas by value, others by what stands after Answer."""

from __future__ import annotations

import threading

import pytest

from steerkit import answers
from steerkit.answers import correct, judge
from steerkit.tasks import Task
from steerkit.traces import Trace


def chain(answer: str, prompt: str = "How many?", closed: bool = True) -> Trace:
    end = "</think>" if closed else ""
    return Trace(id="a", task_id="a", prompt=prompt, response=f"<think>\nhm{end}{answer}")


@pytest.fixture
def without_math(monkeypatch) -> None:
    """As where the extra is not installed."""
    monkeypatch.setattr(answers, "_installed", lambda: False)


CASES = [
    ("Twelve eggs.\n\n**Answer: 12**", "12", True),
    ("Answer: 1,200 m", "1200 m", True),
    ("Answer: 13", "12", False),
    ("Answer: 12\nNo.\nFinal answer: 13", "12", False),
    ("\\boxed{12}\nNo.\nFinal answer: 13", "13", True),  # the last place counts
    ("So it is \\boxed{3/8}.", "3/8", True),
    ("Answer: \\boxed{3/8}", "3/8", True),
    ("**Answer:** Tuesday.", "tuesday", True),
    ("Answer: HY", "HY", True),
    ("Answer: YH", "HY", False),  # letters are a word, not a product
    ("Answer: 7:20", "7:20", True),
]


@pytest.mark.parametrize(("answer", "gold", "expected"), CASES)
def test_gold_answers(answer: str, gold: str, expected: bool) -> None:
    assert correct(chain(answer), Task("a", "How many?", answer=gold)) is expected


@pytest.mark.usefixtures("without_math")
@pytest.mark.parametrize(("answer", "gold", "expected"), CASES)
def test_gold_answers_word_by_word(answer: str, gold: str, expected: bool) -> None:
    found = judge(chain(answer), Task("a", "How many?", answer=gold))
    assert found == (expected, "exact match")


BY_VALUE = [
    ("It is 12.", "12"),
    ("Answer: 12 eggs", "12"),
    ("Answer: 0.375", "3/8"),
    ("\\boxed{\\frac{3}{8}}", "3/8"),
    ("Answer: $\\frac{6}{16}$", "3/8"),
    ("Answer: 2\\sqrt{3}", "\\sqrt{12}"),
]


@pytest.mark.parametrize(("answer", "gold"), BY_VALUE)
def test_formulas_are_compared_by_value(answer: str, gold: str, request) -> None:
    pytest.importorskip("math_verify", reason="needs the extra: steerkit-thinking[math]")
    task = Task("a", "How many?", answer=gold)
    assert judge(chain(answer), task) == (True, "math-verify")
    wrong = answer.replace("3", "5").replace("12", "15").replace("16", "17")
    assert judge(chain(wrong), task) == (False, "math-verify")
    # the check can fail: word by word none of these is right
    request.getfixturevalue("without_math")
    assert judge(chain(answer), task) == (False, "exact match")


def test_formulas_are_read_in_any_thread() -> None:
    pytest.importorskip("math_verify", reason="needs the extra: steerkit-thinking[math]")
    found = []
    task = Task("a", "How many?", answer="3/8")
    worker = threading.Thread(target=lambda: found.append(judge(chain("Answer: 0.375"), task)))
    worker.start()
    worker.join()
    assert found == [(True, "math-verify")]


def test_puzzles_are_verified_by_their_rules() -> None:
    prompt = "Use 3, 7, 8 to make 29."
    assert judge(chain(" 3 * 7 + 8 = 29", prompt)) == (True, "puzzle rules")
    assert correct(chain(" 3 * 8 + 7 = 31", prompt)) is False
    assert correct(chain("", prompt, closed=False)) is False


def test_nothing_is_claimed_where_nothing_is_known() -> None:
    assert judge(chain("Answer: 12")) == (None, "")
    assert correct(chain("Answer: 12"), Task("a", "How many?")) is None
    assert correct(chain("", closed=False), Task("a", "How many?", answer="12")) is False
