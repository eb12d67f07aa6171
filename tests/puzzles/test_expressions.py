import ast
import operator
import random
from fractions import Fraction

import pytest

from steerkit.errors import TaskError
from steerkit.puzzles.expressions import parse_expression

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def by_syntax_tree(text):
    """Oracle: Python's own grammar, evaluated over Fractions."""

    def value(node):
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        return Fraction(node.value)

    return value(ast.parse(text, mode="eval").body)


def random_expression(dice, depth):
    if depth == 0 or dice.random() < 0.2:
        return str(dice.randint(0, 30))
    left, right = (random_expression(dice, depth - 1) for _ in range(2))
    text = f"{left} {dice.choice('+-*/')} {right}"
    return f"({text})" if dice.random() < 0.5 else text


def test_agrees_with_pythons_grammar():
    dice = random.Random(0)
    values, divisions_by_zero = set(), 0
    for _ in range(2000):
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
        assert list(read.numbers) == [
            node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)
        ] or sorted(read.numbers) == sorted(
            node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)
        )
        values.add(expected)
    assert len(values) > 500 and divisions_by_zero > 20


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
    "text", ["", "3 +", "+ 3", "3 7", "(3", "3)", "3 ** 7", "-3", "3.5", "x", "__import__('os')"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(TaskError, match="not an arithmetic expression"):
        parse_expression(text)
