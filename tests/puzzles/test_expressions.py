import random

import pytest

from steerkit.errors import TaskError
from steerkit.puzzles.expressions import LONGEST, parse_expression
from tests.puzzles.oracles import by_syntax_tree, constants


def random_expression(dice, depth):
    if depth == 0 or dice.random() < 0.2:
        return str(dice.randint(0, 30))
    left, right = (random_expression(dice, depth - 1) for _ in range(2))
    text = f"{left} {dice.choice('+-*/')} {right}"
    return f"({text})" if dice.random() < 0.5 else text


def test_agrees_with_pythons_grammar():
    dice = random.Random(0)
    values, divisions_by_zero = set(), 0
    for _ in range(1200):
        text = random_expression(dice, 3)
        try:
            expected = by_syntax_tree(text)
        except ZeroDivisionError:
            divisions_by_zero += 1
            with pytest.raises(ZeroDivisionError):
                parse_expression(text)
            continue
        read = parse_expression(text)
        assert read.value == expected, text
        assert sorted(read.numbers) == constants(text)
        values.add(expected)
    assert len(values) > 300 and divisions_by_zero > 10


def test_numbers_and_results_stand_in_order():
    read = parse_expression("8 - (7 - 3) * 2")
    assert read.numbers == (8, 7, 3, 2)
    assert read.results == (4, 8, 0)
    assert read.whole


@pytest.mark.parametrize(
    ("text", "whole"), [("3 - 7 + 8", False), ("7 / 2 * 2", False), ("9", True)]
)
def test_whole_looks_at_every_result(text, whole):
    assert parse_expression(text).whole is whole


@pytest.mark.parametrize(
    "text",
    [
        *("", "3 +", "+ 3", "3 7", "(3", "3)", "()", "3 ** 7", "9 ** 9 ** 9", "-3", "3 - -3"),
        *("3.5", "1e9", "0x10", "1_000", "x", "3 * x", "__import__('os')", "[3]", "3, 7", "3; 7"),
        # digits to Python's str.isdigit or to a pattern's \d, and none to us
        *("\u0663 + 7", "3 + \u00b2", "3\u00b2", "\uff13 + 7", "\u0967"),
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(TaskError, match="not an arithmetic expression"):
        parse_expression(text)


@pytest.mark.parametrize("text", ["9" * 10, "9" * 199, "3 + " + "9" * 12])
def test_integers_without_end_are_refused(text):
    with pytest.raises(TaskError, match="not an arithmetic expression"):
        parse_expression(text)


def test_depth_and_length_are_bounded():
    deep = LONGEST // 2 - 1
    assert parse_expression("(" * deep + "3" + ")" * deep).value == 3
    assert parse_expression("999999999 * 999999999").value == 999999999**2
    for text in ("(" * 5000 + "3" + ")" * 5000, "3 + " * 5000 + "3", "9" * 10_000, " " * 10_000):
        with pytest.raises(TaskError, match="too long"):
            parse_expression(text)
