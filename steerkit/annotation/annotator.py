"""Annotator: what labels chains; the one interface that all of them have, and their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from steerkit.annotation.sentences import Bounds, trace_sentences
from steerkit.traces import Span, Trace


@runtime_checkable
class Annotator(Protocol):
    """Traces in, spans out.

    Anything with these two is an annotator: the exact grammar, rules, a classifier, a judge,
    a program of your own. Text that it does not know it labels ``unparsed`` and never guesses.
    """

    @property
    def name(self) -> str:
        """What traces record as their ``annotator``.

        Two annotators that may label differently have different names. One that depends on
        a file has ``@`` and a hash of it in its name. Settings that do not make another
        annotator of it, such as a threshold or how sentences are split, follow after ``#``,
        as they are or hashed: names that agree before the ``#`` count as one annotator where
        independence is asked for (:mod:`steerkit.independence`).
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


def fingerprint(content: Any, size: int = 4) -> str:
    """A hash of bytes, or of what JSON can hold, in ``size`` bytes as hexadecimal digits."""
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=size).hexdigest()
