"""Answers: whether a chain's answer is right, where its task says how that is known."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, NamedTuple

from steerkit.errors import TaskError
from steerkit.tasks import Task
from steerkit.traces import Trace

if TYPE_CHECKING:
    from steerkit.puzzles.tasks import Puzzle

RULES, MATH, EXACT = "puzzle rules", "math-verify", "exact match"
"""Who may judge an answer."""

_BOXED = re.compile(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_MARKED = re.compile(
    r"(?:\*\*)?(?:final )?answer\s*(?:\*\*)?\s*[:=]\s*(?P<line>.+)"
    r"|\\boxed\{(?P<boxed>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}",
    re.IGNORECASE,
)
_LOOSE = re.compile(r"[^\w./%-]+")
# digits, signs and LaTeX commands, and at least one digit
_MATH = re.compile(r"(?=.*\d)(?:[\d\s+*/^().,%$!{}=<>-]|\\[a-zA-Z]+|\\[,;! ])+")
_SECONDS = 5


class Judgement(NamedTuple):
    """Whether an answer is right (``None``: nothing says what would be), and by whom."""

    correct: bool | None
    by: str


def judge(trace: Trace, task: Task | None = None) -> Judgement:
    """Whether the answer is right, and who says so; see :func:`correct`."""
    puzzle = _puzzle(trace)
    if puzzle is not None:
        return Judgement(bool(trace.closed and puzzle.verify(trace.answer).correct), RULES)
    if task is None or task.answer is None:
        return Judgement(None, "")
    by = MATH if _MATH.fullmatch(task.answer) and _installed() else EXACT
    if not trace.closed:
        return Judgement(False, by)
    given = _given(trace.answer)
    if given is not None and _plain(given) == _plain(task.answer):
        return Judgement(True, by)
    if by == EXACT:
        return Judgement(False, by)
    return Judgement(_equal(task.answer, trace.answer if given is None else given), by)


def correct(trace: Trace, task: Task | None = None) -> bool | None:
    """Whether the answer is right; ``None`` where nothing says what would be.

    Tasks of the bundled puzzles are verified by their own rules. Others need a gold answer
    (:attr:`Task.answer`), which is compared with what stands after ``Answer:`` or in
    ``\\boxed{}`` in the last such place of the answer section: words and numbers alone, and
    where the gold answer is a number or a formula, and ``math-verify`` is installed (the extra
    ``math``), by value (``0.5`` is ``1/2``); that also finds an answer which nothing marks. A
    chain that was cut off before its answer is wrong.
    """
    return judge(trace, task).correct


def _given(answer: str) -> str | None:
    """What the last marked place holds, or ``None`` where nothing is marked."""
    found = None
    for match in _MARKED.finditer(answer):
        line = match["line"]
        boxed = None if line is None else _BOXED.search(line)
        found = match["boxed"] if line is None else boxed[1] if boxed else line
    return found


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("math_verify") is not None


def _equal(gold: str, given: str) -> bool:
    """Whether two answers have the same value, as Hugging Face's math-verify reads them."""
    from math_verify import parse, verify

    # its clock is a signal, which only the main thread can set
    main = threading.current_thread() is threading.main_thread()
    seconds = _SECONDS if main else None
    read = [
        parse(_latex(text), parsing_timeout=seconds)  # what cannot be read gives no expression
        for text in (gold, given)
    ]
    return all(read) and bool(verify(*read, timeout_seconds=seconds))


def _latex(text: str) -> str:
    """LaTeX is read between dollars alone."""
    return f"${text}$" if "\\" in text and "$" not in text and "\\boxed" not in text else text


def _puzzle(trace: Trace) -> Puzzle | None:
    from steerkit.puzzles.tasks import parse_prompt

    try:
        return parse_prompt(trace.prompt or "")
    except TaskError:
        return None


def _plain(text: str) -> str:
    return _LOOSE.sub(" ", text.casefold().replace(",", "")).strip(" .*")
