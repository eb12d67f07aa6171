"""Reading a judge's answer: a label for every number, or what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from steerkit.behaviors import UNPARSED, behavior

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(r'\{\s*"labels"')
_SHOWN = 40  # characters of a strange label that a message repeats


class Answer(NamedTuple):
    """What an answer says: a label for every sentence, ``None`` where its label is no label.

    ``labels`` is empty where numbers are missing, double or out of range, or nothing can be
    read: then no label can be trusted to belong to its sentence. ``problem`` is empty for
    an answer in which all is well.
    """

    labels: tuple[str | None, ...]
    problem: str = ""


def read_answer(text: str, count: int, labels: Sequence[str]) -> Answer:
    """The labels of sentences 1 to ``count``, or the first problem with them.

    Parameters
    ----------
    text:
        What the model wrote. Expected is one JSON object,
        ``{"labels": [{"sentence": 1, "label": "deduction"}, ...]}``. A thinking section before
        it, a code fence around it, prose beside it, and the bare list are understood too.
    count:
        How many sentences were asked for.
    labels:
        Names of the behaviours that were offered; ``unparsed`` always is.

    Case, spaces, underscores and a behaviour's short name make no difference to a label.
    Every number must occur exactly once. Nothing is mended beyond that, and never guessed.
    """
    rows = _rows(text)
    if rows is None:
        return Answer((), "it holds no complete JSON object with labels")
    names = _names(labels)
    found: dict[int, str | None] = {}
    strange = ""
    for row in rows:
        number = _number(row.get("sentence")) if isinstance(row, dict) else None
        if number is None:
            return Answer((), "an entry does not name its sentence by a whole number")
        if not 1 <= number <= count:
            return Answer((), f"sentence {number} does not exist")
        if number in found:
            return Answer((), f"sentence {number} is there twice")
        label = row.get("label")
        found[number] = names.get(_plain(label)) if isinstance(label, str) else None
        if found[number] is None and not strange:
            shown = repr(label)
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
            strange = f"sentence {number} has the unknown label {shown}"
    missing = [number for number in range(1, count + 1) if number not in found]
    if missing:
        return Answer((), f"sentence {missing[0]} is missing ({len(missing)} of {count} are)")
    return Answer(tuple(found[number] for number in range(1, count + 1)), strange)


def _rows(text: str) -> list[Any] | None:
    """The entries of the one answer that a text holds; ``None`` for none, or for several."""
    text = _THOUGHT.sub("", text, count=1)
    if text.lstrip().startswith("<think>"):
        return None  # it was still thinking: nothing in it is an answer
    fenced = _FENCED.match(text)
    found = _entries(_decoded(fenced[1] if fenced else text))
    if found is not None:
        return found
    decoder = json.JSONDecoder()
    answers = []
    for opened in _OPENED.finditer(text):
        try:
            value, _ = decoder.raw_decode(text, opened.start())
        except (ValueError, RecursionError):
            return None  # one is cut off: which of them is meant?
        answers.append(_entries(value))
    return answers[0] if len(answers) == 1 else None


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _entries(value: Any) -> list[Any] | None:
    rows = value.get("labels") if isinstance(value, dict) else value
    return rows if isinstance(rows, list) else None


def _number(value: Any) -> int | None:
    """A whole number, also one written as digits in quotes."""
    if type(value) is int:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}", value.strip()):
        return int(value)
    return None


def _names(labels: Sequence[str]) -> dict[str, str]:
    """Labels by what they look like without case and marks."""
    found = {_plain(UNPARSED): UNPARSED}
    for label in labels:
        known = behavior(label)
        found |= {_plain(name): known.name for name in (known.name, known.short) if name}
    return found


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", "-", label.strip().casefold())
