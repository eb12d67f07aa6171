"""Chain writing: what is missing is generated in large batches of many conditions, and stored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from steerkit.evaluation.chain_store import ChainStore
from steerkit.evaluation.conditions import Condition
from steerkit.evaluation.pace import Pace, duration
from steerkit.generation import generate
from steerkit.models import ThinkingModel
from steerkit.streaming import Progress
from steerkit.tasks import Task
from steerkit.traces import Trace, Traces

STORED_AFTER = 60.0
"""Seconds after which finished chains are stored, about: so much may be lost to a kill."""


class Row(NamedTuple):
    """A task under a condition; all its samples are written together."""

    condition: Condition
    task: Task


class Chains:
    """The chains of an evaluation: where they are kept, and which are missing.

    Parameters
    ----------
    conditions, tasks, samples:
        What is wanted: every condition's tasks, the first ones, each so many times.
    marks:
        By condition, the mark of the chains that count
        (:meth:`steerkit.evaluation.conditions.Condition.mark`).
    """

    def __init__(
        self,
        store: ChainStore,
        conditions: Sequence[Condition],
        tasks: Sequence[Task],
        samples: int,
        marks: Mapping[str, str],
    ) -> None:
        self._store, self._tasks, self.samples, self._marks = store, tasks, samples, marks
        self.conditions = list(conditions)

    def stored(self, condition: Condition) -> list[Trace | None]:
        """Chains of a condition by task, then sample; ``None`` for what is missing."""
        found = {
            (trace.task_id, trace.metadata["sample"]): trace
            for trace in self._store.read(condition.id, self._marks[condition.id])
        }
        wanted = self._tasks[: condition.tasks]
        return [found.get((task.id, n)) for task in wanted for n in range(self.samples)]

    def missing(self) -> list[Row]:
        """Tasks under conditions of which a chain is missing, in the order of the plan."""
        rows = []
        for condition in self.conditions:
            there = self.stored(condition)
            for number, task in enumerate(self._tasks[: condition.tasks]):
                first = number * self.samples
                if None in there[first : first + self.samples]:
                    rows.append(Row(condition, task))
        return rows

    def add(self, rows: Sequence[Row], traces: Traces) -> None:
        """Store what was written for these rows; a row that lacks a chain is left out."""
        by_key: dict[str, list[Trace]] = {}
        for trace in traces:
            by_key.setdefault(_key(trace.metadata["steering"], trace.prompt), []).append(trace)
        done: dict[str, list[Trace]] = {}
        for condition, task in rows:
            steering = [] if condition.term is None else [condition.term.to_json()]
            written = by_key.get(_key(steering, condition.prompt(task).prompt), [])
            if len(written) == self.samples:
                done.setdefault(condition.id, []).extend(written)
        for name, written in done.items():
            self._store.add(name, self._marks[name], written)


def write_chains(
    model: ThinkingModel,
    chains: Chains,
    pace: Pace,
    options: Mapping[str, Any],
    *,
    tell: Callable[[str], None],
    stored: Callable[[], object],
    progress: Progress | None = None,
) -> None:
    """Write the chains that are missing, rows of many conditions side by side.

    They are stored about every minute, and at an interrupt, which is passed on. ``stored`` is
    called then, and ``tell`` says how long the rest will take.
    """
    rows, samples = chains.missing(), chains.samples
    least, place = max(options["batch_size"] // samples, 1), 0
    pace.total = len(rows) * samples
    while place < len(rows):
        size = max(least, int(STORED_AFTER / max(pace.per_chain, 1e-6)) // samples)
        part, started = rows[place : place + size], time.perf_counter()
        before = pace.done

        def report(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, pace.total)

        written = generate(
            model,
            [row.condition.prompt(row.task) for row in part],
            steer=[row.condition.term for row in part],
            samples=samples,
            progress=report,
            on_interrupt="return",
            **options,
        )
        chains.add(part, written)
        pace.add(len(written), time.perf_counter() - started)
        stored()
        if written.interrupted:
            raise KeyboardInterrupt
        place += len(part)
        report(0, 0, pace.done)
        if place < len(rows):
            tell(f"{pace.done:,} of {pace.total:,} chains, {duration(pace.left)} left")


def _key(steering: Any, prompt: str | None) -> str:
    """By which a chain is known among those that were written with it."""
    return json.dumps([steering, prompt], sort_keys=True)
