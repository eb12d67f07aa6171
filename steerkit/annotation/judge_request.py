"""RequestForm: what a request says, without what the server has refused; Reply: what came back."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from steerkit.annotation.judge_prompt import Message

_log = logging.getLogger(__name__)

FORMS = ("json_schema", "json_object", "text")
"""How an answer is asked for: the strictest first."""

_ABOUT_FORM = re.compile(r"response_format|json_schema|json_object|structured|grammar|schema")
_TOO_LONG = re.compile(r"context|too long|maximum")


@dataclass(eq=False)
class RequestForm:
    """What every request holds beside its messages; it learns from refusals.

    Attributes
    ----------
    model:
        Name of the model as the server knows it.
    temperature, max_tokens:
        Sent along unless ``None``, and until a server refuses them. A limit that is refused
        under the name ``max_tokens`` is sent as ``max_completion_tokens``.
    schema:
        JSON schema of the answer. Servers that refuse it are asked for any JSON object, and
        those that refuse that as well for plain text; some name it in an error 500, and some
        accept it and do not keep to it, so answers are checked in any case.
    """

    model: str
    temperature: float | None
    max_tokens: int | None
    schema: Mapping[str, Any]
    _form: int = field(default=0, init=False)
    _refused: set[str] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def body(self, messages: Sequence[Message]) -> dict[str, Any]:
        """A request as the chat protocol has it."""
        body: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        form = FORMS[self._form]
        if form == "json_schema":
            wanted = {"name": "labels", "strict": True, "schema": dict(self.schema)}
            body["response_format"] = {"type": form, "json_schema": wanted}
        elif form == "json_object":
            body["response_format"] = {"type": form}
        if self.temperature is not None and "temperature" not in self._refused:
            body["temperature"] = self.temperature
        if self.max_tokens is not None:
            renamed = "max_tokens" in self._refused
            body["max_completion_tokens" if renamed else "max_tokens"] = self.max_tokens
        return body

    def gives_way(
        self, status: int, message: str, body: Mapping[str, Any], *, answered: bool
    ) -> bool:
        """Whether a request was refused for something that can be left out; then it will be.

        ``message`` is the server's, ``body`` what was sent, and ``answered`` whether the
        server has answered any request yet. One that never did, and refuses without a reason,
        may mean the form of the answer.
        """
        if status not in (400, 404, 415, 422, 500, 501):
            return False
        said = message.lower()
        for option in ("temperature", "max_tokens"):
            too_long = option == "max_tokens" and _TOO_LONG.search(said)
            if option in said and option in body and not too_long:
                with self._lock:
                    if option not in self._refused:
                        self._refused.add(option)
                        _log.warning("the server refuses %s; asked without it", option)
                return True
        sent = body.get("response_format")
        unsaid = status not in (404, 500) and not answered and not _TOO_LONG.search(said)
        if sent is None or not (_ABOUT_FORM.search(said) or unsaid):
            return False
        with self._lock:  # several threads may have been refused at once
            if FORMS[self._form] == sent["type"]:
                self._form += 1
                _log.warning("the server refuses %s; asked for %s", sent["type"], FORMS[self._form])
        return True


class Reply(NamedTuple):
    """What came back: the text, or in ``problem`` why it is none; tokens; who answered."""

    text: str
    problem: str
    prompt_tokens: int
    answer_tokens: int
    served: str


def read_reply(completion: Any, model: str) -> Reply:
    """What of a chat completion is needed, whatever the server has left out of it."""
    choices = getattr(completion, "choices", None) or [None]
    message = getattr(choices[0], "message", None)
    ended = getattr(choices[0], "finish_reason", None)
    content = getattr(message, "content", None)
    refusal = getattr(message, "refusal", None)
    usage = getattr(completion, "usage", None)
    problem = ""
    if refusal or ended == "content_filter":
        problem = "the model refuses" + (f": {shortened(str(refusal))}" if refusal else "")
    elif ended == "length":
        problem = "it is cut off by a limit of tokens"
    elif not isinstance(content, str) or not content.strip():
        problem = "it is empty"
    return Reply(
        content if isinstance(content, str) else "",
        problem,
        _tokens(usage, "prompt_tokens"),
        _tokens(usage, "completion_tokens"),
        str(getattr(completion, "model", None) or model),
    )


def said_by(body: Any) -> str:
    """What a server says of a refusal, from the body of its error, whatever that looks like."""
    message = body.get("message") if isinstance(body, dict) else None
    if not isinstance(message, str):
        return body if isinstance(body, str) else json.dumps(body, default=str)
    more = [str(body[k]) for k in ("code", "type", "param") if body.get(k)]
    more = [detail for detail in dict.fromkeys(more) if detail not in message]
    return f"{message} ({', '.join(more)})" if more else message


def shortened(text: str) -> str:
    """The beginning of a server's message, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:200] + "..."


def _tokens(usage: Any, name: str) -> int:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) else 0
