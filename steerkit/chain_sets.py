"""Chain sets: which chains are extracted from and which are chosen on, never sharing a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from steerkit.behaviors import behavior
from steerkit.behaviors import behaviors as known_behaviors
from steerkit.directions import full_contrast
from steerkit.errors import ExtractionError
from steerkit.provenance import task_keys
from steerkit.streaming import Progress
from steerkit.traces import Trace, Traces


class ChainSets(NamedTuple):
    """Chains to extract from, and chains of other tasks to choose on."""

    used: Traces
    kept: Traces


def chain_sets(
    traces: Iterable[Trace],
    select: Iterable[Trace] | None,
    behaviors: str | Iterable[str] | None,
    contrast: str,
) -> tuple[ChainSets, list[str] | None, str]:
    """Chains to extract from and to choose on, the behaviours asked for, the contrast's full name.

    Raises :class:`ExtractionError` for shared tasks, and for behaviours without spans.
    """
    traces = Traces(traces)
    select = None if select is None else Traces(select)
    behaviors = [behaviors] if isinstance(behaviors, str) else behaviors
    asked = None if behaviors is None else [behavior(name).name for name in behaviors]
    used = traces.split("extract") if select is None else traces
    kept = traces.split("select") if select is None else select
    _check_disjoint(used, kept)
    counts = _labelled(used)
    if not counts:
        elsewhere = f"; the whole file has {sum(_labelled(traces).values())}"
        raise ExtractionError(
            "no annotated spans in the chains to extract from",
            expected="spans labelled with behaviours",
            found=f"{len(used)} chains without any{elsewhere if select is None else ''}",
            fix="annotate them first: sk.annotate(traces), or steerkit annotate FILE; "
            "to use every chain, pass other chains (or sk.Traces()) as select",
        )
    for name in asked or ():
        if name not in counts:
            raise ExtractionError(
                f"no spans of {name!r} in the chains to extract from",
                expected="a behaviour with spans",
                found=", ".join(f"{label} {n}" for label, n in counts.items()),
                fix="annotate more chains or ask for one of these",
            )
    return ChainSets(used, kept), asked, full_contrast(contrast, tuple(counts))


class TwoPasses:
    """Progress over both passes, told as one."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total = progress, total
        self.before = 0

    def __call__(self, done: int, _: int) -> None:
        """Tell of ``done`` chains of the pass that is running."""
        if self._progress is not None:
            self._progress(self.before + done, self._total)

    def end(self) -> None:
        """All is done, whatever was skipped."""
        if self._progress is not None:
            self._progress(self._total, self._total)


def _labelled(traces: Traces) -> dict[str, int]:
    counts = traces.counts()
    return {b.name: counts[b.name] for b in known_behaviors() if b.name in counts}


def _check_disjoint(used: Sequence[Trace], kept: Sequence[Trace]) -> None:
    shared = set(task_keys(used)) & set(task_keys(kept))
    if shared:
        name = next(t.task_id for t in kept if task_keys([t])[0] in shared)
        raise ExtractionError(
            f"{len(shared)} tasks are both extracted from and used to choose layers",
            expected="chains of other tasks as select",
            found=f"task {name!r} in both",
        )
