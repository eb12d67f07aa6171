"""Trace: one task and one chain of thought, with its annotated spans; traces files."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from steerkit.behaviors import UNPARSED, behavior, behaviors
from steerkit.errors import BehaviorError, TraceError
from steerkit.files import read_jsonl, write_text_atomic
from steerkit.tasks import Split, split_of

if TYPE_CHECKING:
    import pandas as pd

THINK = ("<think>", "</think>")
"""Opening and closing think strings of a trace that names no others."""


@dataclass(frozen=True, order=True)
class Span:
    """A labelled stretch of a response: Unicode characters [start, end) and a behaviour."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Trace:
    """One task and one chain; what ``generate`` returns and every other stage reads.

    Attributes
    ----------
    id, task_id, category:
        Names of the chain, of its task, and of the task's kind.
    prompt:
        The user message, or ``None`` for a bare chain.
    response:
        What the model wrote, with its thinking section.
    spans:
        Annotated behaviours, sorted; offsets count characters of ``response``.
        Text in no span is unannotated; text an annotator could not place carries
        the label ``unparsed``.
    annotator, model, revision:
        Who labelled the chain, which model wrote it.
    token_ids:
        The response as the model wrote it, token by token, where known; it wins over
        tokenising ``response`` again.
    metadata:
        Anything else that JSON can hold. ``truncated: true`` marks a chain cut off by
        the token limit; ``think: [open, close]`` names think strings other than R1's.
    """

    id: str
    task_id: str
    response: str
    prompt: str | None = None
    category: str = ""
    spans: tuple[Span, ...] = ()
    annotator: str | None = None
    model: str | None = None
    revision: str | None = None
    token_ids: tuple[int, ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def think(self) -> tuple[str, str]:
        """Opening and closing think string."""
        opening, closing = self.metadata.get("think", THINK)
        return opening, closing

    @property
    def thinking_bounds(self) -> tuple[int, int]:
        """Characters [start, end) of the thinking section, without the think strings.

        The opening string may stand at the start of the response or, unseen here, at
        the end of the prompt. A chain that never closes thinks to its end.
        """
        opening, closing = self.think
        head = len(self.response) - len(self.response.lstrip())
        start = head + len(opening) if self.response.startswith(opening, head) else 0
        end = self.response.find(closing, start)
        return start, len(self.response) if end < 0 else end

    @property
    def thinking(self) -> str:
        """Text of the thinking section."""
        start, end = self.thinking_bounds
        return self.response[start:end]

    @property
    def closed(self) -> bool:
        """Whether the closing think string was written."""
        return self.thinking_bounds[1] < len(self.response)

    @property
    def answer(self) -> str:
        """Text after the closing think string, stripped; empty for a chain that never closed."""
        end = self.thinking_bounds[1]
        return self.response[end + len(self.think[1]) :].strip() if self.closed else ""

    @property
    def truncated(self) -> bool:
        """Whether the token limit cut the chain off: censored, not answerless."""
        return bool(self.metadata.get("truncated", False))

    @property
    def split(self) -> Split:
        """The set its task belongs to (:func:`steerkit.tasks.split_of`)."""
        return split_of(self.task_id if self.prompt is None else self.prompt)

    def with_spans(self, spans: Iterable[Span], annotator: str | None) -> Trace:
        """A copy with these spans, checked and sorted; short names of labels spelled out."""
        ordered = tuple(sorted(replace(span, label=_full_name(span.label)) for span in spans))
        check_spans(ordered, self.response, f"trace {self.id!r}")
        return replace(self, spans=ordered, annotator=annotator)

    def to_json(self) -> dict[str, Any]:
        """The trace as one object of a traces file."""
        record: dict[str, Any] = {
            "id": self.id,
            "task_id": self.task_id,
            "category": self.category,
            "prompt": self.prompt,
            "response": self.response,
            "spans": [{"start": s.start, "end": s.end, "label": s.label} for s in self.spans],
            "annotator": self.annotator,
            "model": self.model,
            "revision": self.revision,
            "metadata": dict(self.metadata),
        }
        if self.token_ids is not None:
            record["token_ids"] = list(self.token_ids)
        return record

    def _repr_html_(self) -> str:
        """Prompt and response with every span in its behaviour's colour, and a legend."""
        names = [*(b.name for b in behaviors()), UNPARSED]
        counts = Counter(span.label for span in self.spans)
        legend = " ".join(
            _marked(f"{label} {counts[label]}", label) for label in names if counts[label]
        )
        pieces, place = list[str](), 0
        for span in self.spans:
            pieces.append(html.escape(self.response[place : span.start]))
            pieces.append(_marked(self.response[span.start : span.end], span.label))
            place = span.end
        pieces.append(html.escape(self.response[place:]))
        # the chain's own line breaks, and its own dollars: a notebook would set formulas
        return (
            '<div class="tex2jax_ignore mathjax_ignore" '
            'style="white-space: pre-wrap; line-height: 1.7; max-width: 60em">'
            f"<b>{html.escape(self.prompt or self.task_id)}</b>\n{''.join(pieces)}\n"
            f"<small>{legend or 'no spans'}</small></div>"
        )


class Traces(Sequence[Trace]):
    """Traces in order: a sequence that slices, counts and turns into a table."""

    def __init__(self, traces: Iterable[Trace] = ()) -> None:
        self._traces = tuple(traces)

    @overload
    def __getitem__(self, index: int) -> Trace: ...
    @overload
    def __getitem__(self, index: slice) -> Traces: ...
    def __getitem__(self, index: int | slice) -> Trace | Traces:
        chosen = self._traces[index]
        return Traces(chosen) if isinstance(chosen, tuple) else chosen

    def __len__(self) -> int:
        return len(self._traces)

    def __iter__(self) -> Iterator[Trace]:
        return iter(self._traces)

    def __add__(self, other: Traces) -> Traces:
        return Traces((*self, *other))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traces) and self._traces == other._traces

    __hash__ = None  # type: ignore[assignment]

    @property
    def response(self) -> str:
        """The one response of a single trace; :class:`TraceError` when there are more."""
        return self._single.response

    @property
    def thinking(self) -> str:
        """The one thinking section of a single trace."""
        return self._single.thinking

    @property
    def answer(self) -> str:
        """The one answer of a single trace."""
        return self._single.answer

    @property
    def _single(self) -> Trace:
        if len(self) != 1:
            raise TraceError(
                "this holds more than one trace" if self else "this holds no trace",
                expected="exactly 1",
                found=len(self),
                fix="pick one by its index, as in traces[0].response",
            )
        return self[0]

    def split(self, name: Split) -> Traces:
        """The traces whose task belongs to *extract*, *select* or *evaluate*."""
        return Traces(trace for trace in self if trace.split == name)

    def counts(self) -> dict[str, int]:
        """Number of spans by label, ``unparsed`` included."""
        return dict(Counter(span.label for trace in self for span in trace.spans))

    def to_frame(self) -> pd.DataFrame:
        """One row a trace: ids, split, lengths in characters, closing, spans by label."""
        import pandas as pd

        rows = [
            {
                "id": trace.id,
                "task_id": trace.task_id,
                "category": trace.category,
                "split": trace.split,
                "model": trace.model,
                "annotator": trace.annotator,
                "thinking_characters": len(trace.thinking),
                "closed": trace.closed,
                "truncated": trace.truncated,
                "answer": trace.answer,
                **Counter(span.label for span in trace.spans),
            }
            for trace in self
        ]
        frame = pd.DataFrame(rows)
        labels = [label for label in self.counts() if label in frame]
        if labels:
            frame[labels] = frame[labels].fillna(0).astype(int)
        return frame

    def __repr__(self) -> str:
        tasks = len({trace.task_id for trace in self})
        spans = sum(len(trace.spans) for trace in self)
        return f"Traces({len(self)} chains of {tasks} tasks, {spans} spans)"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + (self.to_frame().head(20).to_html() or "")


def _marked(text: str, label: str) -> str:
    """Text on a light shade of its behaviour's colour; dashed where no annotator knew it."""
    known = {b.name: b.color for b in behaviors()}
    style = "border-bottom: 1px dashed currentColor"
    if color := known.get(label):
        style = f"background: {color}33; border-bottom: 2px solid {color}"
    return f'<span title="{html.escape(label)}" style="{style}">{html.escape(text)}</span>'


def _full_name(label: str) -> str:
    """The name of a behaviour given by name or short name; any other label as it is."""
    try:
        return behavior(label).name
    except BehaviorError:
        return label


def check_spans(spans: Sequence[Span], response: str, where: str) -> None:
    """Refuse spans that are empty, leave the text, overlap, or carry an unknown label.

    ``spans`` are sorted by start. Raises :class:`TraceError`, or
    :class:`BehaviorError` for a label; both name ``where`` and the span.
    """
    for span in spans:
        place = f"{where}, span [{span.start}, {span.end}) {span.label!r}"
        if span.label != UNPARSED:
            try:
                behavior(span.label)
            except BehaviorError as error:
                raise BehaviorError(
                    error.problem, expected=error.expected, where=place, fix=error.fix
                ) from None
        if span.end <= span.start:
            raise TraceError("the span is empty", where=place, fix="drop it or mend its offsets")
        if span.start < 0 or span.end > len(response):
            raise TraceError(
                "the span leaves the text",
                expected=f"offsets within 0 and {len(response)}, the length in characters",
                where=place,
                fix="offsets count Unicode characters of the response, not bytes or tokens",
            )
    for left, right in pairwise(spans):
        if right.start < left.end:
            raise TraceError(
                f"the span overlaps the next one, [{right.start}, {right.end}) {right.label!r}",
                where=f"{where}, span [{left.start}, {left.end}) {left.label!r}",
                fix="spans are half-open and must be disjoint",
            )


_FIELDS: dict[str, tuple[type, ...]] = {
    "task_id": (str,),
    "category": (str, type(None)),
    "prompt": (str, type(None)),
    "annotator": (str, type(None)),
    "model": (str, type(None)),
    "revision": (str, type(None)),
    "token_ids": (list, type(None)),
    "spans": (list, type(None)),
    "metadata": (dict, type(None)),
}


def trace_from_json(record: Mapping[str, Any], where: str) -> Trace:
    """One object of a traces file as a :class:`Trace`; errors name ``where``."""
    # a response may be empty: a steered model may end at once
    for key, required in (("id", "a non-empty string"), ("response", "a string")):
        if not isinstance(record.get(key), str) or (key == "id" and not record[key]):
            raise TraceError(
                f"a trace has no {key}",
                expected=f'"{key}": {required}',
                found=json.dumps(record.get(key)),
                where=where,
            )
    for key, types in _FIELDS.items():
        if not isinstance(record.get(key), (*types, type(None))):
            raise TraceError(
                f"the field {key!r} has the wrong type",
                expected=" or ".join("null" if t is type(None) else t.__name__ for t in types),
                found=type(record[key]).__name__,
                where=where,
            )
    token_ids = record.get("token_ids")
    if token_ids is not None and not all(type(i) is int and i >= 0 for i in token_ids):
        raise TraceError("token_ids must be non-negative integers", where=where)
    think = (record.get("metadata") or {}).get("think", THINK)
    if (
        not isinstance(think, list | tuple)
        or len(think) != 2
        or not all(isinstance(text, str) and text.strip() for text in think)
    ):
        raise TraceError(
            "the think strings in metadata are unusable",
            expected='"think": [opening, closing]',
            found=json.dumps(think),
            where=where,
        )
    spans = []
    for span in record.get("spans") or ():
        if (
            not isinstance(span, dict)
            or type(span.get("start")) is not int
            or type(span.get("end")) is not int
            or not isinstance(span.get("label"), str)
        ):
            raise TraceError(
                "a span is ill-formed",
                expected='{"start": int, "end": int, "label": str}',
                found=json.dumps(span),
                where=where,
            )
        spans.append(Span(span["start"], span["end"], _full_name(span["label"])))
    spans.sort()
    check_spans(spans, record["response"], where)
    return Trace(
        id=record["id"],
        task_id=record.get("task_id") or record["id"],
        category=record.get("category") or "",
        prompt=record.get("prompt"),
        response=record["response"],
        spans=tuple(spans),
        annotator=record.get("annotator"),
        model=record.get("model"),
        revision=record.get("revision"),
        token_ids=None if token_ids is None else tuple(token_ids),
        metadata=record.get("metadata") or {},
    )


def read_traces(*paths: str | Path) -> Traces:
    """Read one or more traces files (JSONL, one trace a line).

    Raises :class:`ResourceError` for a missing file, :class:`TraceError` and
    :class:`BehaviorError` with file, line and reason for everything else: malformed
    JSON, missing fields, spans that are empty, overlap or leave the text, unknown
    labels, an id that occurs twice.
    """
    traces: list[Trace] = []
    seen: dict[str, str] = {}
    for path in paths:
        found = False
        for line, record in read_jsonl(path, TraceError):
            where = f"{path}, line {line}"
            trace = trace_from_json(record, where)
            if trace.id in seen:
                raise TraceError(
                    f"trace id {trace.id!r} occurs twice (first in {seen[trace.id]})",
                    where=where,
                    fix="give every chain an id of its own",
                )
            seen[trace.id] = where
            traces.append(trace)
            found = True
        if not found:
            raise TraceError("the file holds no traces", where=path)
    return Traces(traces)


def write_traces(traces: Iterable[Trace], path: str | Path) -> Path:
    """Write a traces file atomically; the same traces give the same bytes."""
    lines = (json.dumps(trace.to_json(), ensure_ascii=False) + "\n" for trace in traces)
    return write_text_atomic(path, "".join(lines))
