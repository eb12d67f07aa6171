"""What the puzzles compute, computed in another way: by Python's grammar and by brute force."""

from __future__ import annotations

import ast
import operator
from fractions import Fraction
from functools import cache

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def by_syntax_tree(text: str) -> Fraction:
    """The value of an expression by Python's own grammar, over Fractions."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant)
        return Fraction(node.value)

    return value(ast.parse(text, mode="eval").body)


def constants(text: str) -> list[int]:
    """The integers of an expression, sorted."""
    return sorted(n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant))


State = tuple[int, ...]
"""Numbers that are left, sorted."""


@cache
def moves(state: State) -> frozenset[tuple[str, State]]:
    """Every ``a + b = c`` that two numbers of a state allow, and the numbers left after it.

    Results are whole and from 1 to 99; sums and products are named with the larger number first.
    """
    found = set()
    for i, a in enumerate(state):
        for j, b in enumerate(state):
            if i == j:
                continue
            rest = [n for k, n in enumerate(state) if k not in (i, j)]
            for sign, exact in (
                ("+", Fraction(a + b)),
                ("-", Fraction(a - b)),
                ("*", Fraction(a * b)),
                ("/", Fraction(a, b)),
            ):
                if (sign in "+*" and a < b) or exact.denominator != 1 or not 1 <= exact <= 99:
                    continue
                found.add((f"{a} {sign} {b} = {exact}", tuple(sorted([*rest, int(exact)]))))
    return frozenset(found)


@cache
def outcomes(state: State) -> frozenset[int]:
    """What can be made of all numbers of a state."""
    if len(state) == 1:
        return frozenset(state)
    return frozenset().union(*(outcomes(left) for left in {left for _, left in moves(state)}))


def derivations(state: State, target: int) -> set[tuple[str, ...]]:
    """Every way to the target, each as its equations in order."""
    if len(state) == 1:
        return {()} if state[0] == target else set()
    return {
        (equation, *later) for equation, left in moves(state) for later in derivations(left, target)
    }


@cache
def rule_space() -> dict[tuple[int, ...], tuple[str, int, int]]:
    """Every rule that may stand behind a task, by what it gives for 1 to 12."""
    named = [("shift", 1, b) for b in [*range(-9, 0), *range(1, 21)]]
    named += [("line", a, b) for a in (2, 3, 4, 5, 6) for b in range(-9, 13)]
    named += [("line", a, 0) for a in (7, 8, 9)]
    named += [("square", 0, b) for b in range(-9, 10)]
    found = {}
    for form, a, b in named:
        outputs = tuple(x**2 + b if form == "square" else a * x + b for x in range(1, 13))
        assert outputs not in found
        found[outputs] = (form, a, b)
    return found


def rules_of(examples: tuple[tuple[int, int], ...]) -> list[tuple[int, ...]]:
    """The outputs for 1 to 12 of every rule that fits all examples."""
    return [outputs for outputs in rule_space() if all(outputs[x - 1] == y for x, y in examples)]
