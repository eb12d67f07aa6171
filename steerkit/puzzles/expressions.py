"""Expression: exact reading and evaluation of arithmetic, without ``eval``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from steerkit.errors import TaskError

LONGEST = 200
"""Characters of the longest text that is read; integers have at most 9 digits."""

_TOKEN = re.compile(r"\s*([0-9]{1,9}(?![0-9])|[-+*/()])")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_END = "the end"


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
    :class:`TaskError` for any other text, also one of more than ``LONGEST`` characters, and
    :class:`ZeroDivisionError` for a division by zero.
    """
    reader = _Reader(text)
    value = reader.operation(1)
    if reader.token != _END:
        raise reader.failure()
    return Expression(value, tuple(reader.numbers), tuple(reader.results))


class _Reader:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [*_tokens(text), _END]
        self._position = 0
        self.numbers: list[int] = []
        self.results: list[Fraction] = []

    @property
    def token(self) -> str:
        """The next token."""
        return self._tokens[self._position]

    def failure(self) -> TaskError:
        """The error that the next token is."""
        return TaskError(
            f"{self._text!r} is not an arithmetic expression",
            expected="integers joined by + - * / and parentheses",
            found=self.token,
        )

    def operand(self) -> Fraction:
        """An integer, or an expression in parentheses."""
        token = self.token
        if token == "(":
            self._position += 1
            value = self.operation(1)
            if self.token != ")":
                raise self.failure()
        elif token.isdigit():
            value = Fraction(int(token))
            self.numbers.append(int(token))
        else:
            raise self.failure()
        self._position += 1
        return value

    def operation(self, lowest: int) -> Fraction:
        """Operands joined by operators that bind at least as tightly as ``lowest``."""
        left = self.operand()
        while _PRECEDENCE.get(self.token, 0) >= lowest:
            operator = self.token
            self._position += 1
            right = self.operation(_PRECEDENCE[operator] + 1)
            left = apply(operator, left, right)
            self.results.append(left)
        return left


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
    if len(text) > LONGEST:
        raise TaskError(
            "too long for an arithmetic expression",
            expected=f"at most {LONGEST} characters",
            found=len(text),
        )
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
