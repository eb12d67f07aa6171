"""Messages of chats: where records keep them, and the response that an answer stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from steerkit.traces import THINK

REASONING = ("reasoning_content", "reasoning")
"""Fields of an assistant's message that hold its chain: DeepSeek and vLLM, newer vLLM."""
CUT_OFF = ("length", "max_tokens")
"""Reasons to finish by which the token limit cut a chain off."""


class Answer(NamedTuple):
    """An assistant's message, what came before it, and why it ended."""

    message: Mapping[str, Any]
    context: Sequence[Any]
    finish: str | None


class NoChainError(Exception):
    """Why a message gives no chain; reported as :class:`Unread`."""


def is_chat_record(record: Any) -> bool:
    """Whether a JSON value is a conversation, a completion or a request of a chat."""
    if isinstance(record, list):
        return bool(record) and all(isinstance(m, dict) and "role" in m for m in record)
    return isinstance(record, dict) and (
        _completion(record) is not None or _context(record) is not None
    )


def answers_of(record: Any) -> Iterator[Answer]:
    """Every message of the assistant in a record, with what came before it."""
    choices = None if isinstance(record, list) else _completion(record)
    context = record if isinstance(record, list) else _context(record) or []
    if choices is not None:
        for choice in choices:
            message = choice.get("message") if isinstance(choice, dict) else None
            if isinstance(message, dict):
                finish = choice.get("finish_reason")
                yield Answer(message, context, finish if isinstance(finish, str) else None)
        return
    for number, message in enumerate(context):
        if isinstance(message, dict) and message.get("role") == "assistant":
            finish = message.get("finish_reason")
            yield Answer(message, context[:number], finish if isinstance(finish, str) else None)


def _completion(record: Mapping[str, Any]) -> list[Any] | None:
    """The choices of a completion, wherever clients and batch files keep it."""
    for place in places_within(record, "response", "completion", "body"):
        if isinstance(place.get("choices"), list):
            return list(place["choices"])
    return None


def _context(record: Mapping[str, Any]) -> list[Any] | None:
    """The messages of a conversation, or of the request."""
    for place in places_within(record, "request", "body"):
        messages = place.get("messages")
        if isinstance(messages, list) and is_chat_record(messages):
            return list(messages)
    return None


def places_within(record: Mapping[str, Any], *names: str) -> Iterator[Mapping[str, Any]]:
    """The record, and what it holds under these names, also one in another."""
    yield record
    for name in names:
        if isinstance(record.get(name), dict):
            yield from places_within(record[name], *names)


def response_of(answer: Answer) -> str:
    """The response as R1 would have written it; :class:`NoChainError` says why there is none."""
    message = answer.message
    content, thoughts = _parts(message.get("content"))
    for key in REASONING:
        value = message.get(key)
        if value is not None and not isinstance(value, str):
            raise NoChainError("no text")
        if value and value.strip() and value not in thoughts:
            thoughts.append(value)
    opening, closing = THINK
    if not thoughts:
        if closing in content or content.lstrip().startswith(opening):
            return content
        raise NoChainError("no reasoning")
    if len({thought.strip() for thought in thoughts}) > 1:
        raise NoChainError("two reasonings")
    chain = thoughts[0]
    if closing in chain:
        raise NoChainError("think string inside")
    response = f"{opening}{_line(chain)}{chain}"
    # without an answer only the reason to finish tells whether the model closed its thinking
    calls = bool(message.get("tool_calls"))
    finished = answer.finish is not None and answer.finish not in CUT_OFF
    if not (content.strip() or calls or finished):
        return response
    response += ("" if chain.endswith("\n") else "\n") + closing
    if not content:
        return response
    return response + ("" if content.startswith("\n") else "\n\n") + content


def _line(text: str) -> str:
    return "" if text.startswith("\n") else "\n"


def _parts(content: Any) -> tuple[str, list[str]]:
    """Text of a message's content, and its parts of type ``thinking``."""
    if content is None or isinstance(content, str):
        return content or "", []
    if not isinstance(content, list):
        raise NoChainError("no text")
    texts, thoughts = list[str](), list[str]()
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "thinking":
            inner = part.get("thinking")
            text = inner if isinstance(inner, str) else _parts(inner)[0]
            thoughts += [text] if text.strip() else []
        else:
            raise NoChainError("no text")
    return "".join(texts), ["\n".join(thoughts)] if thoughts else []


def prompt_of(context: Sequence[Any]) -> tuple[str | None, dict[str, int]]:
    """The last user message before an answer, and what else the model saw, counted."""
    messages = [m for m in context if isinstance(m, dict)]
    left_out: Counter[str] = Counter()
    last = max((n for n, m in enumerate(messages) if m.get("role") == "user"), default=None)
    prompt: str | None = None
    for number, message in enumerate(messages):
        if number != last:
            left_out[str(message.get("role"))] += 1
            continue
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        texts: list[str] = []
        for part in parts:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(str(part["text"]))
            else:
                left_out[str(kind or "part")] += 1
        prompt = "\n".join(texts) if texts else None
    return prompt, dict(left_out)
