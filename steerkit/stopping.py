"""Stopping: when a chain is finished, and what happens when it thinks for too long."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from steerkit.decoding import Row
from steerkit.errors import GenerationError
from steerkit.models import ThinkingModel
from steerkit.positions import ANSWER, THINK
from steerkit.response import follow, spell

Until = Literal["end", "think", "answer"] | Callable[[str], bool]
"""``end`` is the model's own end token; ``think`` the closing think string; ``answer`` the first
line of the answer, or a closed ``\\boxed{...}`` in it; a function is asked of the response."""

NAMES = get_args(get_args(Until)[0])
_BOXED = re.compile(r"\\boxed\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")


@dataclass(frozen=True)
class Stop:
    """Notes every token of a row and says why the row is finished, if it is.

    Attributes
    ----------
    until:
        What ends a chain before its own end.
    budget:
        Tokens of thinking at most; ``None`` is as many as the model likes.
    closing:
        Token ids that are written for the model once the budget is spent; without them the
        chain is cut off there.
    """

    until: Until = "end"
    budget: int | None = None
    closing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.until) and self.until not in NAMES:
            raise GenerationError(
                f"unknown place to stop {self.until!r}",
                expected=", ".join(NAMES) + ", or a function of the response",
            )
        if self.budget is not None and self.budget < 1:
            raise GenerationError(
                "the budget of thinking is out of range", expected="at least 1", found=self.budget
            )

    def take(self, model: ThinkingModel, row: Row, token: int) -> None:
        """Append ``token`` to the row, follow its phase, and set ``row.ended`` at its end."""
        if token in model.eos_ids:
            row.ended = "end"
            return
        follow(model, row, token)
        if self._reached(model, row):
            row.ended = "until"
        elif len(row.ids) == len(row.begun) + row.limit:
            row.ended = "limit"
        elif self._spent(row):
            row.forced = list(self.closing)
            row.ended = "" if self.closing else "budget"
            row.closed_for_it = bool(self.closing)

    def to_json(self) -> dict[str, str | int]:
        """What is recorded with a chain, where it is not as usual."""
        found: dict[str, str | int] = {}
        if callable(self.until):
            name = getattr(self.until, "__qualname__", type(self.until).__name__)
            found["until"] = f"function {name}"
        elif self.until != "end":
            found["until"] = self.until
        if self.budget is not None:
            found["thinking_budget"] = int(self.budget)
        return found

    def _spent(self, row: Row) -> bool:
        """Whether the row still thinks although its budget is used up."""
        if self.budget is None or row.phases[-1] != THINK or row.closed_for_it:
            return False
        # a thought is a token that a thinking position predicted: all of them but the newest
        return row.phases[:-1].count(THINK) >= self.budget

    def _reached(self, model: ThinkingModel, row: Row) -> bool:
        if self.until == "end":
            return False
        if callable(self.until):
            return bool(self.until(spell(model, row.ids)))
        if row.phases[-1] != ANSWER:
            return False
        if self.until == "think":
            return True
        answer = spell(model, row.ids).rpartition(model.think[1])[2].lstrip()
        return "\n" in answer or _BOXED.search(answer) is not None


def closing_ids(model: ThinkingModel, text: str) -> tuple[int, ...]:
    """Token ids of what is written to end the thinking; it must hold the closing string."""
    if model.think[1] not in text:
        raise GenerationError(
            "what ends the thinking must hold the closing string",
            expected=f"a text with {model.think[1]!r}",
            found=repr(text),
        )
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tuple(ids)
