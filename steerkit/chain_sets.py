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
    """Chains to extract from, and chains of other tasks to choose on.

    ``elsewhere`` are behaviours without a span in the former, and why they are left out.
    """

    used: Traces
    kept: Traces
    elsewhere: dict[str, str]


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
    for wanted in asked or ():
        if wanted not in counts:
            raise ExtractionError(
                f"no spans of {wanted!r} in the chains to extract from",
                expected="a behaviour with spans",
                found=", ".join(f"{label} {n}" for label, n in counts.items()),
                fix="annotate more chains or ask for one of these",
            )
    seen = _labelled(traces)
    for name, n in _labelled(kept).items():
        seen[name] = max(seen.get(name, 0), n)  # kept may be a part of traces
    lacking = {
        name: f"no span in the chains to extract from, {n} in others"
        for name, n in seen.items()
        if name not in counts and asked is None
    }
    return ChainSets(used, kept, lacking), asked, full_contrast(contrast, tuple(counts))


class Passes:
    """Progress over several passes over chains, told as one.

    ``sizes`` are the chains of every pass; each pass gets its own callback by :meth:`next`.
    """

    def __init__(self, progress: Progress | None, sizes: Sequence[int]) -> None:
        self._progress, self._sizes = progress, list(sizes)
        self._number = -1

    def next(self) -> Progress:
        """Tell of the pass that begins now: what is done of what there is, in any unit."""
        self._number += 1
        before, size = sum(self._sizes[: self._number]), self._sizes[self._number]

        def told(done: int, total: int) -> None:
            if self._progress is not None:
                share = done * size // total if total else size
                self._progress(before + share, sum(self._sizes))

        return told

    def end(self) -> None:
        """All is done, whatever was skipped."""
        if self._progress is not None:
            self._progress(sum(self._sizes), sum(self._sizes))


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
