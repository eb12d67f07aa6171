"""Pace: how long chains take to write, from a short timed run, and how long is left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from steerkit.generation import generate
from steerkit.models import ThinkingModel
from steerkit.tasks import Task
from steerkit.traces import Trace
from steerkit.writing import LONGEST

_STEPS = 16
_UNKNOWN = 0.6
"""Share of the longest chain that one is taken to be long where no chain is known."""


def seconds_per_token(
    model: ThinkingModel, tasks: Sequence[Task], rows: int, **options: Any
) -> float:
    """Seconds that a token takes, in a batch of so many rows: a timed run of a few steps.

    ``options`` are those of :func:`steerkit.generation.generate`. Reading the prompts is
    timed along, which makes short runs look a little slower than long ones.
    """
    short = {**options, "max_new_tokens": _STEPS, "on_interrupt": "raise"}
    generate(model, tasks[:1], **{**short, "max_new_tokens": 2})  # what happens only once
    prompts = [tasks[i % len(tasks)] for i in range(rows)]
    started = time.perf_counter()
    written = generate(model, prompts, **short)
    tokens = sum(len(trace.token_ids or ()) for trace in written)
    return (time.perf_counter() - started) / max(tokens, 1)


def expected_tokens(
    model: ThinkingModel, traces: Iterable[Trace], max_new_tokens: int | None
) -> float:
    """Tokens of a chain: the mean of known unsteered ones of the model, else a guess."""
    limit = max_new_tokens or LONGEST
    known = [len(t.token_ids) for t in traces if t.model == model.name and t.token_ids]
    if not known:
        return _UNKNOWN * limit
    return sum(min(n, limit) for n in known) / len(known)


class Pace:
    """How long is left, from what was written so far."""

    def __init__(self, total: int, seconds_per_chain: float) -> None:
        self.total, self.done = total, 0
        self.seconds = 0.0
        self._guess = seconds_per_chain

    def add(self, chains: int, seconds: float) -> None:
        """So many chains were written in so many seconds."""
        self.done += chains
        self.seconds += seconds

    @property
    def per_chain(self) -> float:
        """Seconds a chain: the guess, until chains were written."""
        return self.seconds / self.done if self.done else self._guess

    @property
    def left(self) -> float:
        """Seconds that the rest will take."""
        return self.per_chain * (self.total - self.done)


def duration(seconds: float) -> str:
    """Seconds as a reader wants them: ``40 seconds``, ``3 minutes``, ``2.5 hours``."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
