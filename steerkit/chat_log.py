"""Chat logs: chains of thought in what OpenAI-compatible servers answer and clients keep."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.chat_chunks import join_chunks
from steerkit.chat_messages import (
    CUT_OFF,
    Answer,
    NoChainError,
    answers_of,
    is_chat_record,
    places_within,
    prompt_of,
    response_of,
)
from steerkit.errors import ResourceError, TraceError
from steerkit.files import parse_json, refuse_surrogates
from steerkit.traces import Trace, Traces

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unread:
    """A part of a chat log that is no chain, and why.

    ``reason`` is ``no reasoning`` (an answer without a chain), ``no answer`` (a record without
    an assistant's message, such as a request alone), ``error`` (a server's), ``two
    reasonings`` (fields that contradict each other), ``think string inside`` (a chain that
    holds ``</think>``), ``no text`` (content that is none), ``not JSON`` or ``no chat record``.
    ``text`` is its beginning.
    """

    where: str
    reason: str
    text: str


def read_chat_log(path: str | Path) -> tuple[Traces, list[Unread]]:
    """Read chains of thought from a chat log: JSON lines, a JSON list, or one JSON object.

    A record is one of

    - a conversation, ``{"messages": [...]}`` or the bare list of messages: every message of
      the assistant that holds a chain becomes a trace;
    - a chat completion, ``{"choices": [{"message": ..., "finish_reason": ...}]}``, alone or
      under ``response`` (as ``response.body`` in batch files), with the request's
      ``messages`` beside it or under ``request`` or ``body``, where they were kept: every
      choice becomes a trace;
    - a piece of a streamed completion, ``{"choices": [{"delta": ...}]}``, also as a server
      sent it (``data: {...}``): the pieces of one answer are put together
      (:func:`steerkit.chat_chunks.join_chunks`).

    The chain is the message's ``reasoning_content`` (DeepSeek, vLLM) or ``reasoning`` (newer
    vLLM, OpenRouter), a content part of type ``thinking``, or stands between think strings in
    its ``content``. The response is spelled as R1 does, ``<think>``, chain, ``</think>``,
    content, each on lines of its own: servers drop the think strings, and often the white space
    around them, so that it can differ from what the model wrote in white space.

    The prompt is the last message of the user before the answer. A trace holds no more, so
    system messages, earlier turns and parts that are no text are counted by role or type
    under ``metadata.left_out``, and a model that reads the trace again does not see them.
    ``finish_reason`` is kept there too; by it a chain that was cut off is marked as such.

    Ids are the record's ``custom_id`` or ``id``, or else the file's name and the record's
    number; where several chains have one they get numbers too. ``task_id``, ``category`` and
    ``model`` are taken over.

    Returns the traces, and everything that is no chain. Raises :class:`ResourceError` for a
    missing file and :class:`TraceError` for one without any chain.
    """
    file = Path(path)
    unread: list[Unread] = []
    traces: list[Trace] = []
    taken: set[str] = set()
    for number, (where, record) in enumerate(join_chunks(_records(file, unread))):
        found = list(_chains(record, where, unread))
        facts = record if isinstance(record, dict) else {}
        base = _word(facts, "custom_id", "id") or f"{file.stem}-{number}"
        for count, (response, answer, metadata) in enumerate(found):
            name = _free(base if len(found) == 1 else f"{base}-{count}", taken)
            prompt, left_out = prompt_of(answer.context)
            if left_out:
                metadata["left_out"] = left_out
            traces.append(
                Trace(
                    id=name,
                    task_id=_word(facts, "task_id") or base,
                    category=_word(facts, "category") or "",
                    prompt=prompt,
                    response=response,
                    model=_model(facts),
                    metadata=metadata,
                )
            )
    reasons = ", ".join(f"{n:,} {r}" for r, n in Counter(u.reason for u in unread).items())
    if not traces:
        raise TraceError(
            "the chat log holds no chain of thought",
            expected="an assistant's message with reasoning_content or reasoning",
            found=reasons or "no record",
            where=path,
        )
    if unread:
        _log.warning(
            "%s: %d chains read, %d parts are no chains (%s); the first: %s",
            *(path, len(traces), len(unread), reasons, unread[0].where),
        )
    partial = sum("left_out" in trace.metadata for trace in traces)
    if partial:
        _log.warning(
            "%s: %d of %d chains saw more than their prompt: system messages, earlier turns or "
            "parts that are no text (metadata.left_out)",
            *(path, partial, len(traces)),
        )
    return Traces(traces), unread


def _records(file: Path, unread: list[Unread]) -> Iterator[tuple[str, Any]]:
    """Every record with its place; lines that are no JSON are reported."""
    if not file.is_file():
        raise ResourceError(
            "no such file" if not file.exists() else "not a file",
            where=file,
            fix="check the path; relative paths start at the current folder",
        )
    content = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        whole = parse_json(content, TraceError, file, expected="JSON")
    except TraceError:
        records = list(_lines(content, file, unread))
    else:
        several = isinstance(whole, list) and not is_chat_record(whole)
        listed = whole if several else [whole]
        records = [(f"{file}, record {number}", record) for number, record in enumerate(listed)]
    for where, record in records:
        try:
            refuse_surrogates(record, TraceError, where)
        except TraceError as problem:
            unread.append(Unread(where, "no text", problem.problem))
            continue
        yield where, record


def _lines(content: bytes, file: Path, unread: list[Unread]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        # what a server streams: comments, events' names, a mark of the end
        line = line.strip().removeprefix(b"data:").strip()
        if not line or line == b"[DONE]" or line.startswith((b":", b"event:")):
            continue
        where = f"{file}, line {number}"
        try:
            yield where, parse_json(line, TraceError, where, expected="JSON")
        except TraceError:
            beginning = line[:80].decode("utf-8", errors="replace")
            unread.append(Unread(where, "not JSON", beginning))


def _chains(
    record: Any, where: str, unread: list[Unread]
) -> Iterator[tuple[str, Answer, dict[str, Any]]]:
    """Response, answer and metadata of every chain in a record; what is none is reported."""
    beginning = json.dumps(record, ensure_ascii=False)[:80]
    if not is_chat_record(record):
        reason = "error" if isinstance(record, dict) and record.get("error") else "no chat record"
        unread.append(Unread(where, reason, beginning))
        return
    answers = list(answers_of(record))
    if not answers:
        failed = isinstance(record, dict) and record.get("error")
        reason = "error" if failed else "no answer"
        unread.append(Unread(where, reason, beginning))
    for answer in answers:
        try:
            response = response_of(answer)
        except NoChainError as problem:
            text = json.dumps(answer.message, ensure_ascii=False)[:80]
            unread.append(Unread(where, str(problem), text))
            continue
        metadata: dict[str, Any] = {}
        if answer.finish is not None:
            metadata["finish_reason"] = answer.finish
        if answer.finish in CUT_OFF:
            metadata["truncated"] = True
        yield response, answer, metadata


def _word(facts: Mapping[str, Any], *keys: str) -> str | None:
    """The first of these fields that holds a name."""
    for key in keys:
        value = facts.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return None


def _model(facts: Mapping[str, Any]) -> str | None:
    places = places_within(facts, "response", "completion", "request", "body")
    return next((name for place in places if (name := _word(place, "model"))), None)


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where another chain has it."""
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}-{count}"
    taken.add(free)
    return free
