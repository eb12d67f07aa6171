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
    file holds chains of one mark; those of other settings are moved to
    ``traces/earlier/CONDITION.MARK.jsonl`` and come back when the settings do.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "traces"

    def path(self, condition: str) -> Path:
        """The traces file of a condition."""
        return self._folder / f"{condition}.jsonl"

    def read(self, condition: str, mark: str) -> Traces:
        """Chains of a condition that were made under these settings; empty where none was."""
        path = self.path(condition)
        traces = read_traces(path) if path.is_file() else Traces()
        if all(trace.metadata.get(_MARK) == mark for trace in traces):
            return traces
        return self._swapped(condition, mark, str(traces[0].metadata.get(_MARK)))

    def add(self, condition: str, mark: str, traces: Iterable[Trace]) -> None:
        """Store further chains of a condition, atomically."""
        marked = [replace(t, metadata={**t.metadata, _MARK: mark}) for t in traces]
        there = self.read(condition, mark)
        new = {(trace.task_id, trace.metadata["sample"]) for trace in marked}
        kept = [t for t in there if (t.task_id, t.metadata["sample"]) not in new]
        write_traces([*kept, *marked], self.path(condition))

    def _swapped(self, condition: str, mark: str, other: str) -> Traces:
        """Put aside what was made otherwise, and bring back what was put aside before."""
        earlier = self._folder / "earlier"
        earlier.mkdir(exist_ok=True)
        path = self.path(condition)
        path.replace(earlier / f"{condition}.{other}.jsonl")
        _log.info("%s was made under other settings: kept in %s", condition, earlier)
        before = earlier / f"{condition}.{mark}.jsonl"
        if not before.is_file():
            return Traces()
        before.replace(path)
        return read_traces(path)
