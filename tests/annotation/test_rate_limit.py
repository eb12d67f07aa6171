"""The rate limit keeps to what a minute allows, by a clock that does not tick by itself."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.annotation.rate_limit import Clock, RateLimit, retry_after
from steerkit.errors import AnnotationError


class Still(Clock):
    """A clock that moves by what is slept."""

    def __init__(self):
        self.time = 100.0
        self.slept = []
        self.lock = threading.Lock()

    def now(self):
        return self.time

    def sleep(self, seconds, stop):
        with self.lock:
            self.slept.append(seconds)
            self.time += seconds


@given(
    st.integers(1, 50),
    st.integers(100, 5000),
    st.lists(st.tuples(st.integers(1, 2000), st.floats(0, 30)), min_size=1, max_size=60),
)
def test_no_minute_sees_more_than_is_allowed(requests, tokens, asked):
    clock = Still()
    limit = RateLimit(requests, tokens, clock)
    starts = []
    for size, idle in asked:
        clock.time += idle
        start = clock.now() + limit.reserve(size)
        assert start >= clock.now()
        starts.append((start, size))
    for first, _ in starts:
        within = [size for start, size in starts if first <= start < first + 60 - 1e-6]
        assert len(within) <= requests
        assert sum(within[:-1]) <= tokens * (1 + 1e-9)


def test_it_is_as_fast_as_allowed():
    clock = Still()
    limit = RateLimit(60, None, clock)
    assert [limit.reserve(1e9) for _ in range(4)] == [0, 1, 2, 3]
    clock.time += 10
    assert limit.reserve(1) == 0
    assert [RateLimit(None, 600, clock).reserve(100) for _ in range(2)] == [0, 0]
    paced = RateLimit(None, 600, clock)
    assert [paced.reserve(100) for _ in range(3)] == [0, 10, 20]
    free = RateLimit(clock=clock)
    assert [free.reserve(1e9) for _ in range(3)] == [0, 0, 0]


def test_a_hold_ends_and_the_longest_counts():
    clock = Still()
    limit = RateLimit(clock=clock)
    assert limit.held() == 0
    limit.hold(7)
    limit.hold(3)
    assert limit.held() == 7
    clock.time += 5
    assert limit.held() == 2
    clock.time += 5
    assert limit.held() == 0


@pytest.mark.parametrize("options", [{"requests": 0}, {"tokens": -1.0}, {"requests": float("nan")}])
def test_limits_that_allow_nothing_are_refused(options):
    with pytest.raises(AnnotationError, match="a minute"):
        RateLimit(**options)


def test_the_clock_of_the_machine_can_be_stopped():
    clock, stop = Clock(), threading.Event()
    stop.set()
    before = time.monotonic()
    clock.sleep(60, stop)
    assert time.monotonic() - before < 5
    assert clock.now() <= clock.now()


NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
    ],
)
def test_what_servers_ask_for(headers, seconds):
    assert retry_after(headers, NOW) == seconds
