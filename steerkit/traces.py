"""Trace: one task and one chain of thought, with its annotated spans; traces files."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from steerkit.errors import TraceError
from steerkit.files import read_jsonl, write_text_atomic
from steerkit.spans import Span as Span
from steerkit.spans import checked_spans
from steerkit.tasks import SPLITS, Split, split_of, task_hash
from steerkit.trace_html import trace_html

if TYPE_CHECKING:
    import pandas as pd

THINK = ("<think>", "</think>")
"""Opening and closing think strings of a trace that names no others."""


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
        Annotated behaviours; offsets count characters of ``response``. However the trace
        is made they are checked and sorted, and short names of labels spelled out.
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

    Raises :class:`TraceError` for spans that are empty, overlap or leave the text, and
    :class:`BehaviorError` for an unknown label.
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

    def __post_init__(self) -> None:
        if type(self.spans) is not tuple or self.spans:
            spans = checked_spans(self.spans, self.response, f"trace {self.id!r}")
            object.__setattr__(self, "spans", spans)

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
        return split_of(self._task_text)

    @property
    def task_key(self) -> str:
        """Hash by which its task is told from others (:func:`steerkit.tasks.task_hash`)."""
        return task_hash(self._task_text)

    @property
    def _task_text(self) -> str:
        """What names the task: the prompt, or the task id of a bare chain."""
        return self.task_id if self.prompt is None else self.prompt

    def with_spans(self, spans: Iterable[Span], annotator: str | None) -> Trace:
        """A copy with these spans, checked and sorted; short names of labels spelled out."""
        return replace(self, spans=tuple(spans), annotator=annotator)

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
        return trace_html(self)


class Traces(Sequence[Trace]):
    """Traces in order: a sequence that slices, counts and turns into a table.

    Raises :class:`TraceError` when made from what are no traces, such as a path.
    """

    def __init__(self, traces: Iterable[Trace] = ()) -> None:
        if isinstance(traces, str | os.PathLike):
            raise TraceError(
                "a path is no traces", found=repr(traces), fix="read it: sk.read_traces(path)"
            )
        listed = tuple(traces) if isinstance(traces, Iterable) else None
        strange = [traces] if listed is None else [t for t in listed if not isinstance(t, Trace)]
        if listed is None or strange:
            raise TraceError(
                "these are no traces",
                expected="a sequence of Trace",
                found=type(strange[0]).__name__,
            )
        self._traces = listed
        self.interrupted: bool = isinstance(traces, Traces) and traces.interrupted
        """Whether these are the chains that were finished when generation was interrupted.

        What is made of them says so too: slices, sums with others, splits, and their annotation.
        A file of traces does not (:func:`write_traces`)."""

    @overload
    def __getitem__(self, index: int) -> Trace: ...
    @overload
    def __getitem__(self, index: slice) -> Traces: ...
    def __getitem__(self, index: int | slice) -> Trace | Traces:
        chosen = self._traces[index]
        return self.derived(chosen) if isinstance(chosen, tuple) else chosen

    def __len__(self) -> int:
        return len(self._traces)

    def __iter__(self) -> Iterator[Trace]:
        return iter(self._traces)

    def __add__(self, other: Traces) -> Traces:
        both = self.derived((*self, *other))
        both.interrupted |= Traces(other).interrupted
        return both

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
        if name not in SPLITS:
            raise TraceError(f"unknown set {name!r}", expected="one of " + ", ".join(SPLITS))
        return self.derived(trace for trace in self if trace.split == name)

    def derived(self, traces: Iterable[Trace]) -> Traces:
        """What was made of these traces; ``interrupted`` where these are."""
        made = Traces(traces)
        made.interrupted = self.interrupted
        return made

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
        cut = ", interrupted" if self.interrupted else ""
        return f"Traces({len(self)} chains of {tasks} tasks, {spans} spans{cut})"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + (self.to_frame().head(20).to_html() or "")


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
        spans.append(Span(span["start"], span["end"], span["label"]))
    return Trace(
        id=record["id"],
        task_id=record.get("task_id") or record["id"],
        category=record.get("category") or "",
        prompt=record.get("prompt"),
        response=record["response"],
        spans=checked_spans(spans, record["response"], where),  # here the file is known
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
    """Write a traces file atomically; the same traces give the same bytes.

    The file holds the chains and nothing about them together: that others are missing because
    generation was interrupted (``traces.interrupted``) is not kept in it. Look before you write.
    """
    lines = (json.dumps(trace.to_json(), ensure_ascii=False) + "\n" for trace in traces)
    return write_text_atomic(path, "".join(lines))
