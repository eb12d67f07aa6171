"""Streamed answers: the pieces that a server sent one by one, put together again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

TEXTS = ("content", "reasoning_content", "reasoning")
"""Fields of a delta whose pieces are joined."""
_SAID_IN = {"text": "text", "output_text": "text", "thinking": "thinking"}
"""By the type of a part of a list, its field with what it says."""


def chunk_choices(record: Any) -> list[dict[str, Any]] | None:
    """The choices of one streamed piece (``{"choices": [{"delta": ...}]}``), else None.

    A last piece that only counts tokens has no choices; it is one all the same where its
    ``object`` says so.
    """
    if not isinstance(record, dict) or not isinstance(record.get("choices"), list):
        return None
    choices = [choice for choice in record["choices"] if isinstance(choice, dict)]
    if not choices:
        return [] if record.get("object") == "chat.completion.chunk" else None
    return choices if all(isinstance(choice.get("delta"), dict) for choice in choices) else None


def join_chunks(records: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Records with their places, in which the pieces of one answer are one completion.

    Pieces belong together by their ``id``, wherever they stand, since a client that asks for
    several answers at once writes down what comes; pieces without one belong to those right
    before them, up to the reason to finish. Of every choice the texts are joined in order, lists
    of parts too, of which neighbours of one type become one part; and the last
    ``finish_reason`` stands. What else the first piece holds is kept, such as
    ``model`` and the request's ``messages``. The completion stands where its first piece stood;
    records that are no pieces go through as they are.
    """
    order: list[tuple[str, Any]] = []
    open_now: dict[str | None, dict[str, Any]] = {}
    for where, record in records:
        pieces = chunk_choices(record)
        key = _key(record.get("id")) if pieces is not None else None
        if pieces is None:
            open_now.pop(None, None)
            order.append((where, record))
            continue
        if key not in open_now:
            open_now[key] = {**record, "choices": {}}
            order.append((where, open_now[key]))
        choices = open_now[key]["choices"]
        for piece in pieces:
            _add(choices.setdefault(_key(piece.get("index", 0)), _empty()), piece)
        if key is None and any(choice["finish_reason"] for choice in choices.values()):
            del open_now[None]
    for where, record in order:
        if isinstance(record, dict) and isinstance(record.get("choices"), dict):
            record = {**record, "choices": list(record["choices"].values())}
        yield where, record


def _key(value: Any) -> str | None:
    """What an id or index is found by, whatever JSON it is; ``None`` for none."""
    return None if value is None else json.dumps(value, sort_keys=True)


def _empty() -> dict[str, Any]:
    return {"message": {"role": "assistant"}, "finish_reason": None}


def _add(choice: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Append a piece to the choice that it is of."""
    message, delta = choice["message"], piece["delta"]
    for name in TEXTS:
        if delta.get(name) is not None:
            message[name] = _joined(message.get(name, ""), delta[name])
    if calls := delta.get("tool_calls"):
        several = calls if isinstance(calls, list) else [calls]
        message["tool_calls"] = [*message.get("tool_calls", ()), *several]
    choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]


def _joined(before: Any, piece: Any) -> Any:
    """A text or list of parts with the next piece of it behind it.

    What is neither stays from then on, for the reader to report.
    """
    if isinstance(before, str) and isinstance(piece, str):
        return before + piece
    for value in (before, piece):
        if not isinstance(value, str | list):
            return value
    parts = _parts(before)
    for part in _parts(piece):
        field = _field(part)
        if field is not None and not part[field]:
            continue  # says nothing, and must not part its neighbours
        if field is not None and parts and _field(parts[-1]) == field:
            parts[-1] = {**parts[-1], **part, field: _said(parts[-1][field], part[field])}
        else:
            parts.append(part)
    return parts


def _field(part: Any) -> str | None:
    """The field of a part with what it says; ``None`` for a part that says nothing known."""
    kind = part.get("type") if isinstance(part, dict) else None
    field = _SAID_IN.get(kind) if isinstance(kind, str) else None
    return field if field and isinstance(part.get(field), str | list) else None


def _said(before: str | list[Any], piece: str | list[Any]) -> str | list[Any]:
    """What a part says, and the next one of its type; thoughts may be lists of parts again."""
    if isinstance(before, str) and isinstance(piece, str):
        return before + piece
    return [*_parts(before), *_parts(piece)]


def _parts(value: str | list[Any]) -> list[Any]:
    if isinstance(value, list):
        return list(value)
    return [{"type": "text", "text": value}] if value else []
