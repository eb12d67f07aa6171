"""Annotator: what labels chains; the one interface that all of them have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from steerkit.annotation.sentences import Bounds, trace_sentences
from steerkit.traces import Span, Trace


@runtime_checkable
class Annotator(Protocol):
    """Traces in, spans out.

    Anything with these two is an annotator: the exact grammar, rules, a classifier, a
    program of your own. Text that it does not know it labels ``unparsed`` and never guesses.
    """

    @property
    def name(self) -> str:
        """What traces record as their ``annotator``.

        Two annotators that may label differently have different names: one that depends on
        a file or on settings ends in ``@`` and a hash of them.
        """

    def spans(self, traces: Sequence[Trace], *, keep: bool = False) -> Iterator[list[Span]]:
        """The spans of each trace, in the order of ``traces``, one list a trace.

        Parameters
        ----------
        traces:
            All that are to be labelled, so that an annotator can work in batches. Labels
            they have already are not read.
        keep:
            Label the stretches that are spans already instead of finding stretches anew.

        Yields a trace's spans as soon as they are known, so that work can be shown, stored
        and gone on with.
        """


def units(trace: Trace, *, keep: bool) -> list[Bounds]:
    """What is labelled as one: the spans that are there, or the sentences of the thinking."""
    if keep:
        return [(span.start, span.end) for span in trace.spans]
    return trace_sentences(trace)
