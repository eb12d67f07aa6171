"""Chain store: the chains of every condition, kept so that none is written twice."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from steerkit.traces import Trace, Traces, read_traces, write_traces

_MARK = "made_as"
_log = logging.getLogger(__name__)


class ChainStore:
    """Traces files of an evaluation, ``traces/CONDITION.jsonl``.

    Every chain carries a mark that says under which settings it was made
    (:meth:`steerkit.evaluation.conditions.Condition.mark`), in its metadata as ``made_as``. A
    file holds chains of one mark; when others are written, they move to
    ``traces/earlier/CONDITION.MARK.jsonl`` and are found there when the settings come back.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "traces"

    def path(self, condition: str) -> Path:
        """The traces file of a condition."""
        return self._folder / f"{condition}.jsonl"

    def read(self, condition: str, mark: str) -> Traces:
        """Chains of a condition that were made under these settings; empty where none was."""
        for path in (self.path(condition), self._earlier(condition, mark)):
            traces = read_traces(path) if path.is_file() else Traces()
            if traces and _mark(traces) == mark:
                return traces
        return Traces()

    def add(self, condition: str, mark: str, traces: Iterable[Trace]) -> None:
        """Store further chains of a condition, atomically."""
        marked = [replace(t, metadata={**t.metadata, _MARK: mark}) for t in traces]
        new = {(trace.task_id, trace.metadata["sample"]) for trace in marked}
        there = self.read(condition, mark)
        kept = [t for t in there if (t.task_id, t.metadata["sample"]) not in new]
        path = self.path(condition)
        if path.is_file() and (other := _mark(read_traces(path))) != mark:
            aside = self._earlier(condition, other)
            aside.parent.mkdir(exist_ok=True)
            path.replace(aside)
            _log.info("chains that were made under other settings are kept as %s", aside)
        write_traces([*kept, *marked], path)
        self._earlier(condition, mark).unlink(missing_ok=True)

    def _earlier(self, condition: str, mark: str) -> Path:
        return self._folder / "earlier" / f"{condition}.{mark}.jsonl"


def _mark(traces: Traces) -> str:
    return str(traces[0].metadata.get(_MARK, "unmarked"))
