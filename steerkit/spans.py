"""Span: a labelled stretch of a response; what makes the spans of one chain valid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import index

from steerkit.behaviors import UNPARSED, behavior, behaviors
from steerkit.errors import BehaviorError, TraceError


@dataclass(frozen=True, order=True)
class Span:
    """A labelled stretch of a response: Unicode characters [start, end) and a behaviour."""

    start: int
    end: int
    label: str


def checked_spans(spans: Iterable[Span], response: str, where: str) -> tuple[Span, ...]:
    """The spans sorted, with names of behaviours for short names and plain offsets.

    Raises :class:`TraceError` for what is no span, and for spans that are empty, leave the
    text or overlap, :class:`BehaviorError` for an unknown label; both name ``where`` and the
    span.
    """
    names = {b.short: b.name for b in behaviors()} | {b.name: b.name for b in behaviors()}
    names[UNPARSED] = UNPARSED
    resolved = []
    for span in spans:
        if not isinstance(span, Span):
            raise TraceError(
                "this is no span", expected="Span(start, end, label)", found=repr(span), where=where
            )
        name = names.get(span.label) if isinstance(span.label, str) else None
        if name is None:
            _refuse_label(span, where)
        elif name != span.label or type(span.start) is not int or type(span.end) is not int:
            span = Span(*_plain_offsets(span, where), name)
        resolved.append(span)
    resolved.sort(key=lambda span: (span.start, span.end, span.label))
    last: Span | None = None
    for span in resolved:
        if span.end <= span.start:
            raise TraceError(
                "the span is empty", where=_place(span, where), fix="drop it or mend its offsets"
            )
        if span.start < 0 or span.end > len(response):
            raise TraceError(
                "the span leaves the text",
                expected=f"offsets within 0 and {len(response)}, the length in characters",
                where=_place(span, where),
                fix="offsets count Unicode characters of the response, not bytes or tokens",
            )
        if last is not None and span.start < last.end:
            raise TraceError(
                f"the span overlaps the next one, [{span.start}, {span.end}) {span.label!r}",
                where=_place(last, where),
                fix="spans are half-open and must be disjoint",
            )
        last = span
    return tuple(resolved)


def _place(span: Span, where: str) -> str:
    return f"{where}, span [{span.start}, {span.end}) {span.label!r}"


def _refuse_label(span: Span, where: str) -> None:
    try:
        behavior(span.label)
    except BehaviorError as error:
        raise BehaviorError(
            error.problem, expected=error.expected, where=_place(span, where), fix=error.fix
        ) from None


def _plain_offsets(span: Span, where: str) -> tuple[int, int]:
    try:
        return index(span.start), index(span.end)
    except TypeError:
        raise TraceError(
            "offsets are whole numbers", expected="characters", where=_place(span, where)
        ) from None
