"""Streamed answers: the pieces that a server sent one by one, put together again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

TEXTS = ("content", "reasoning_content", "reasoning")
"""Fields of a delta whose pieces are joined."""


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
    before them, up to the reason to finish. Of every choice the texts are joined in order, and
    the last ``finish_reason`` stands. What else the first piece holds is kept, such as
    ``model`` and the request's ``messages``. The completion stands where its first piece stood;
    records that are no pieces go through as they are.
    """
    order: list[tuple[str, Any]] = []
    open_now: dict[Any, dict[str, Any]] = {}
    for where, record in records:
        pieces = chunk_choices(record)
        key = record.get("id") if pieces is not None else None
        if pieces is None:
            open_now.pop(None, None)
            order.append((where, record))
            continue
        if key not in open_now:
            open_now[key] = {**record, "choices": {}}
            order.append((where, open_now[key]))
        choices = open_now[key]["choices"]
        for piece in pieces:
            _add(choices.setdefault(piece.get("index", 0), _empty()), piece)
        if key is None and any(choice["finish_reason"] for choice in choices.values()):
            del open_now[None]
    for where, record in order:
        if isinstance(record, dict) and isinstance(record.get("choices"), dict):
            record = {**record, "choices": list(record["choices"].values())}
        yield where, record


def _empty() -> dict[str, Any]:
    return {"message": {"role": "assistant"}, "finish_reason": None}


def _add(choice: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Append a piece to the choice that it is of."""
    message, delta = choice["message"], piece["delta"]
    for name in TEXTS:
        if isinstance(delta.get(name), str):
            message[name] = message.get(name, "") + delta[name]
        elif delta.get(name) is not None:
            # no text: left as it is, for the reader to report
            message[name] = delta[name]
    if delta.get("tool_calls"):
        message["tool_calls"] = [*message.get("tool_calls", ()), *delta["tool_calls"]]
    choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
