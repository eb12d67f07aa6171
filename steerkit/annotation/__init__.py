"""Annotators: chains in, chains with labelled spans out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from steerkit.annotation.grammar import annotate_grammar
from steerkit.annotation.shuffled import shuffle_labels
from steerkit.annotation.tagged import Unplaced, read_tagged
from steerkit.errors import TraceError
from steerkit.traces import Trace, Traces

__all__ = [
    "ANNOTATORS",
    "Unplaced",
    "annotate",
    "annotate_grammar",
    "read_tagged",
    "shuffle_labels",
]

ANNOTATORS: dict[str, Callable[[Iterable[Trace]], Traces]] = {"grammar": annotate_grammar}
"""Annotators by name."""


def annotate(traces: Trace | Iterable[Trace], annotator: str = "grammar") -> Traces:
    """Label the thinking sections of chains; spans that were there before are replaced.

    ``grammar`` is the exact annotator of the bundled models' chains. Raises
    :class:`TraceError` for a name that is no annotator.
    """
    if annotator not in ANNOTATORS:
        raise TraceError(
            f"unknown annotator {annotator!r}", expected="one of " + ", ".join(ANNOTATORS)
        )
    return ANNOTATORS[annotator]([traces] if isinstance(traces, Trace) else traces)
