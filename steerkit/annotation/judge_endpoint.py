"""Endpoint: an OpenAI-compatible server, asked patiently, by a key that is never shown."""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from steerkit.annotation.judge_prompt import Message
from steerkit.annotation.judge_request import (
    Reply,
    RequestForm,
    read_reply,
    said_by,
    shortened,
)
from steerkit.annotation.rate_limit import Clock, RateLimit, retry_after
from steerkit.errors import AnnotationError

_log = logging.getLogger(__name__)

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY = "OPENAI_API_KEY"
LONGEST_WAIT = 600.0
"""Seconds: a server that asks for a longer wait ends the run instead."""

_LONGEST_BACKOFF = 60.0
_NO_KEY = "none"  # the client wants one; servers that need none do not read it
_SPENT = re.compile(r"insufficient_quota|billing")
_FATAL = {
    401: "check the key; --key-variable names the environment variable that holds it",
    402: "check the account",
    403: "check what the key allows",
    404: "check the name of the model, and the address, which mostly ends in /v1",
}


class RequestError(AnnotationError):
    """One request that failed for good; others may succeed.

    ``lost`` says that there was no reply at all, so that maybe none will.
    """

    lost = False


@dataclass(eq=False)
class Endpoint:
    """A server that speaks OpenAI's chat protocol, and how it is to be asked.

    Attributes
    ----------
    url:
        Address up to and with ``/v1``; ``None`` is what ``OPENAI_BASE_URL`` says, else OpenAI.
    key_variable:
        Environment variable that holds the key. ``None`` is ``OPENAI_API_KEY``, and only for
        an address that is not given here: a key goes nowhere that it was not meant for.
    form:
        What every request holds beside its messages.
    timeout:
        Seconds without a byte after which a request has failed.
    attempts, backoff:
        How often a request is sent at most. Time-outs, lost connections, and the states 408,
        409, 425, 429 and 500 and above are tried again after min(60, backoff 2^n) seconds,
        times a random share from a half to 1, or after what ``Retry-After`` says.
    limit, clock, stop:
        The rate limit, what time is, and what ends all waiting.
    sent:
        Requests sent so far.
    """

    url: str | None = field(repr=False)
    key_variable: str | None = field(repr=False)
    form: RequestForm
    timeout: float = 120.0
    attempts: int = 6
    backoff: float = 1.0
    limit: RateLimit = field(default_factory=RateLimit)
    clock: Clock = field(default_factory=Clock)
    stop: threading.Event = field(default_factory=threading.Event)
    sent: int = field(default=0, init=False)
    _client: Any = field(default=None, init=False, repr=False)
    _secrets: tuple[str, ...] = field(default=(), init=False, repr=False)
    _answered: bool = field(default=False, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def shown_url(self) -> str:
        """The address without credentials; :class:`AnnotationError` for what is none."""
        return without_credentials(self._address)

    def open(self) -> None:
        """Make the client; :class:`AnnotationError` without ``openai``, or without a key."""
        try:
            import openai
        except ImportError:
            raise AnnotationError(
                "the annotator judge needs the package openai",
                fix="pip install openai; it is what the extra steerkit-thinking[judge] brings",
            ) from None
        key = self._key()
        password = urlsplit(self._address).password
        self._secrets = tuple(secret for secret in (key, password) if secret)
        self._client = openai.OpenAI(
            base_url=self._address, api_key=key or _NO_KEY, max_retries=0, timeout=self.timeout
        )

    def close(self) -> None:
        """End all waiting and close the client's connections."""
        self.stop.set()
        if self._client is not None:
            self._client.close()

    def ask(self, messages: Sequence[Message], tokens: float) -> Reply:
        """Send messages and wait for the reply, trying again where that may help.

        ``tokens`` are those expected of the request and its answer, for the rate limit.
        Raises :class:`RequestError` where this request fails for good, and
        :class:`AnnotationError` where every other would too: a wrong key, no such model, a
        quota that is used up, a wait of more than ten minutes asked for.
        """
        import openai

        failures = 0
        while True:
            self._take_turn(tokens)
            body = self.form.body(messages)
            wait = None
            try:
                completion = self._client.chat.completions.create(**body)
            except openai.APIStatusError as problem:
                said = self._scrubbed(said_by(problem.body))
                status = problem.status_code
                if self.form.gives_way(status, said, body, answered=self._answered):
                    continue
                self._check_status(status, said)
                wait = self._asked_wait(problem.response.headers)
                reason = f"HTTP {status}: {shortened(said)}"
            except openai.APITimeoutError:
                reason = f"no answer within {self.timeout:g} s"
            except openai.APIConnectionError as problem:
                cause = self._scrubbed(str(problem.__cause__ or problem))
                reason = f"no connection: {shortened(cause)}"
            except (openai.APIError, ValueError) as problem:
                reason = f"no reply of this protocol: {shortened(self._scrubbed(str(problem)))}"
            else:
                self._answered = True
                reply = read_reply(completion, self.form.model)
                return reply._replace(
                    text=self._scrubbed(reply.text), problem=self._scrubbed(reply.problem)
                )
            failures += 1
            if failures >= self.attempts:
                raise self._lost(failures, reason) from None
            delay = min(self.backoff * 2 ** (failures - 1), _LONGEST_BACKOFF)
            delay *= 0.5 + random.random() / 2
            if wait is not None:
                self.limit.hold(wait)
                delay = max(wait, delay)
            _log.debug("%s; sent again in %.1f s", reason, delay)
            self._sleep(delay)

    @property
    def _address(self) -> str:
        return self.url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL

    def _key(self) -> str | None:
        name = self.key_variable
        if name is None:
            if self.url is not None:
                return None
            name = DEFAULT_KEY
        key = os.environ.get(name, "").strip()
        if not key or not all("!" <= character <= "~" for character in key):
            raise AnnotationError(
                "there is no usable key",
                expected=f"one in the environment variable {name}",
                fix="set it; or name a server that needs none with base_url=, or --base-url",
            )
        return key

    def _scrubbed(self, text: str) -> str:
        """A text without the key, in case a server repeats it."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text

    def _take_turn(self, tokens: float) -> None:
        self._sleep(self.limit.reserve(tokens))
        while (held := self.limit.held()) > 0:
            self._sleep(held)
        with self._lock:
            self.sent += 1

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.clock.sleep(seconds, self.stop)
        if self.stop.is_set():
            raise RequestError("stopped before a reply came")

    def _check_status(self, status: int, said: str) -> None:
        """Raise where sending the same again is of no use."""
        if status in _FATAL or (status == 429 and _SPENT.search(said)):
            raise AnnotationError(
                "the server refuses every request",
                found=f"HTTP {status}: {shortened(said)}",
                where=self.shown_url,
                fix=_FATAL.get(status, "the account's quota is used up"),
            ) from None
        if status < 500 and status not in (408, 409, 425, 429):
            raise RequestError(f"refused with HTTP {status}: {shortened(said)}") from None

    def _asked_wait(self, headers: Mapping[str, str]) -> float | None:
        wait = retry_after(headers, time.time())
        if wait is not None and wait > LONGEST_WAIT:
            raise AnnotationError(
                f"the server asks to wait {wait:,.0f} seconds",
                where=self.shown_url,
                fix="run the same again later; what has been answered is kept",
            ) from None
        return wait

    def _lost(self, failures: int, reason: str) -> RequestError:
        error = RequestError(f"no reply in {failures} attempts: {reason}")
        error.lost = True
        return error


def without_credentials(url: str) -> str:
    """An address without user and password; :class:`AnnotationError` for what is none.

    One with a query is refused, unseen: it may hold a key, and no request could use it.
    """
    host, port = None, None
    parts = urlsplit("")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        pass
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise AnnotationError(
            "the address of the server cannot be used",
            expected="such as http://localhost:8000/v1, without ? and #",
            fix="keys belong in an environment variable, named by --key-variable",
        )
    host = f"[{host}]" if ":" in host else host
    return urlunsplit(
        (parts.scheme, f"{host}:{port}" if port else host, parts.path.rstrip("/"), "", "")
    )
