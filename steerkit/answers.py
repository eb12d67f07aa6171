"""Answers: whether a chain's answer is right, where its task says how that is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from steerkit.errors import TaskError
from steerkit.tasks import Task
from steerkit.traces import Trace

if TYPE_CHECKING:
    from steerkit.puzzles.tasks import Puzzle

_MARKED = re.compile(r"(?:\*\*)?(?:final )?answer\s*(?:\*\*)?\s*[:=]\s*(.+)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_LOOSE = re.compile(r"[^\w./%-]+")


def correct(trace: Trace, task: Task | None = None) -> bool | None:
    """Whether the answer is right; ``None`` where nothing says what would be.

    Tasks of the bundled puzzles are verified by their own rules. Others need a gold answer
    (:attr:`Task.answer`), which is compared with what stands after ``Answer:`` or in
    ``\\boxed{}`` in the last such place of the answer section, words and numbers alone. A chain
    that was cut off before its answer is wrong.
    """
    puzzle = _puzzle(trace)
    if puzzle is not None:
        return bool(trace.closed and puzzle.verify(trace.answer).correct)
    if task is None or task.answer is None:
        return None
    if not trace.closed:
        return False
    marked = [*_MARKED.findall(trace.answer), *_BOXED.findall(trace.answer)]
    return bool(marked) and _plain(marked[-1]) == _plain(task.answer)


def _puzzle(trace: Trace) -> Puzzle | None:
    from steerkit.puzzles.tasks import parse_prompt

    try:
        return parse_prompt(trace.prompt or "")
    except TaskError:
        return None


def _plain(text: str) -> str:
    return _LOOSE.sub(" ", text.casefold().replace(",", "")).strip(" .*")
