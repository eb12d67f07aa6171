"""RateLimit: when the next request may start; Clock: the time it goes by; what servers ask for."""

from __future__ import annotations

import email.utils
import math
import threading
import time
from collections.abc import Mapping

from steerkit.errors import AnnotationError


class Clock:
    """Time as it passes; tests bring one of their own, so that nothing really waits."""

    def now(self) -> float:
        """Seconds from some moment on; never backwards."""
        return time.monotonic()

    def sleep(self, seconds: float, stop: threading.Event) -> None:
        """Wait, or less where ``stop`` is set meanwhile."""
        stop.wait(seconds)


class RateLimit:
    """At most so many requests and tokens a minute, evenly paced, over all threads.

    A request takes up 60 / requests or 60 tokens / tokens-a-minute seconds, whichever is
    longer, and the next may not start before. So no minute sees more requests than allowed,
    nor more tokens than allowed beyond those of its last request. Tokens are those expected.

    Parameters
    ----------
    requests, tokens:
        A minute; ``None`` is no limit.
    clock:
        What time is.
    """

    def __init__(
        self, requests: float | None = None, tokens: float | None = None, clock: Clock | None = None
    ) -> None:
        for name, value in (("requests", requests), ("tokens", tokens)):
            if value is not None and not value > 0:
                raise AnnotationError(
                    f"no work gets done at {value:g} {name} a minute", expected="more than 0"
                )
        self.requests, self.tokens = requests, tokens
        self._clock = clock or Clock()
        self._free = self._held = float("-inf")
        self._lock = threading.Lock()

    def reserve(self, tokens: float) -> float:
        """Take the next place for a request of so many tokens; seconds until its start."""
        taken = 0.0
        if self.requests is not None:
            taken = 60 / self.requests
        if self.tokens is not None:
            taken = max(taken, 60 * tokens / self.tokens)
        with self._lock:
            now = self._clock.now()
            start = max(now, self._free)
            self._free = start + taken
            return start - now

    def hold(self, seconds: float) -> None:
        """Let nobody start for so long: the server has asked for it."""
        with self._lock:
            self._held = max(self._held, self._clock.now() + seconds)

    def held(self) -> float:
        """Seconds until a :meth:`hold` ends; 0 where there is none."""
        with self._lock:
            return max(self._held - self._clock.now(), 0.0)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that ``Retry-After`` (or ``Retry-After-Ms``) asks for, at Unix time ``now``.

    It may be a number or a date (RFC 9110, 10.2.3); ``None`` where there is nothing to go by.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            date = email.utils.parsedate_tz(value)
            if date is None:
                continue
            seconds = email.utils.mktime_tz(date) - now
        if not math.isnan(seconds):
            return max(seconds, 0.0)
    return None
