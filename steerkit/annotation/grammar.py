"""The exact annotator of the bundled puzzles' chains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from steerkit.behaviors import BUILT_IN
from steerkit.errors import AnnotationError
from steerkit.puzzles.grammar import parse_chain
from steerkit.traces import Span, Trace, Traces

ANNOTATOR = "grammar"


@dataclass(frozen=True)
class Grammar:
    """Labels every sentence by the grammar that the bundled models' chains are written in.

    It knows every sentence of that grammar and nothing else: a sentence of any other kind
    is ``unparsed``, never guessed, so on natural language it labels next to nothing.
    """

    name: str = ANNOTATOR

    @property
    def labels(self) -> tuple[str, ...]:
        """The behaviours that it can give: the six built in."""
        return tuple(known.name for known in BUILT_IN)

    def spans(self, traces: Sequence[Trace], *, keep: bool = False) -> Iterator[list[Span]]:
        """The sentences of each trace; see :class:`steerkit.annotation.Annotator`.

        Raises :class:`AnnotationError` when spans are to be kept: the grammar cuts its own.
        """
        if keep:
            raise AnnotationError(
                "the grammar cuts sentences itself",
                fix="annotate without keeping spans, or use another annotator",
            )
        return map(grammar_spans, traces)


def grammar_spans(trace: Trace) -> list[Span]:
    """A span for every sentence of the thinking section, ``unparsed`` ones included.

    Offsets are characters of ``trace.response``. Answer and prompt are not read.
    """
    offset = trace.thinking_bounds[0]
    return [
        Span(offset + sentence.start, offset + sentence.end, sentence.label)
        for sentence in parse_chain(trace.thinking)
    ]


def annotate_grammar(traces: Iterable[Trace]) -> Traces:
    """Label traces by :class:`Grammar`; spans that were there before are replaced."""
    return Traces(trace.with_spans(grammar_spans(trace), ANNOTATOR) for trace in traces)
