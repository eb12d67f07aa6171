"""Expression: exact reading and evaluation of arithmetic, without ``eval``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from steerkit.errors import TaskError

_TOKEN = re.compile(r"\s*(\d+|[-+*/()])")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class Expression:
    """An arithmetic expression as it was read.

    Attributes
    ----------
    value:
        The exact value.
    numbers:
        The integers used, in the order of the text.
    results:
        The value of every operation in the order of evaluation; the last one is ``value``.
        Empty for a lone integer.
    """

    value: Fraction
    numbers: tuple[int, ...]
    results: tuple[Fraction, ...]

    @property
    def whole(self) -> bool:
        """Whether every operation gave a whole number that is not negative."""
        return all(result.denominator == 1 and result >= 0 for result in self.results)


def parse_expression(text: str) -> Expression:
    """Read integers, ``+ - * /`` and parentheses with the usual precedence.

    Operators of one precedence group from the left; there is no unary minus. Raises
    :class:`TaskError` for any other text and :class:`ZeroDivisionError` for a division
    by zero.
    """
    tokens = _tokens(text)
    numbers: list[int] = []
    results: list[Fraction] = []
    position = 0

    def fail(found: str) -> TaskError:
        return TaskError(
            f"{text!r} is not an arithmetic expression",
            expected="integers joined by + - * / and parentheses",
            found=found,
        )

    def peek() -> str:
        return tokens[position] if position < len(tokens) else "the end"

    def operand() -> Fraction:
        nonlocal position
        token = peek()
        if token == "(":
            position += 1
            value = operation(1)
            if peek() != ")":
                raise fail(peek())
            position += 1
            return value
        if not token.isdigit():
            raise fail(token)
        position += 1
        numbers.append(int(token))
        return Fraction(int(token))

    def operation(lowest: int) -> Fraction:
        nonlocal position
        left = operand()
        while _PRECEDENCE.get(peek(), 0) >= lowest:
            operator = peek()
            position += 1
            right = operation(_PRECEDENCE[operator] + 1)
            left = apply(operator, left, right)
            results.append(left)
        return left

    value = operation(1)
    if position != len(tokens):
        raise fail(peek())
    return Expression(value, tuple(numbers), tuple(results))


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """``left operator right`` for one of ``+ - * /``, exactly; zero may raise as division does."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right


def _tokens(text: str) -> list[str]:
    tokens = []
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise TaskError(
                f"{text!r} is not an arithmetic expression",
                expected="integers joined by + - * / and parentheses",
                found=repr(stripped[position]),
            )
        tokens.append(match.group(1))
        position = match.end()
    return tokens
