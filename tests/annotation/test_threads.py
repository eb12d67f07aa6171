"""Threads: all is done once, what fails is told, and nobody waits for what was given up."""

from __future__ import annotations

import threading
import time

import pytest

from steerkit.annotation.threads import as_done


@pytest.mark.parametrize("threads", [1, 3, 50])
def test_everything_is_done_once(threads):
    stop = threading.Event()
    found = list(as_done(lambda x: x * x, list(range(20)), threads, stop))
    assert sorted(found) == [(i, i * i) for i in range(20)]
    assert stop.is_set()
    assert list(as_done(lambda x: x, [], threads, threading.Event())) == []


def test_work_runs_side_by_side_and_no_more_than_asked():
    barrier = threading.Barrier(3, timeout=5)
    assert len(list(as_done(lambda x: barrier.wait(), range(6), 3, threading.Event()))) == 6
    alone = threading.Barrier(2, timeout=0.05)
    with pytest.raises(threading.BrokenBarrierError):
        list(as_done(lambda x: alone.wait(), range(2), 1, threading.Event()))


def test_what_work_raises_is_raised_here_and_ends_it():
    done = []

    def work(item):
        if item == 2:
            raise ValueError("two")
        done.append(item)

    with pytest.raises(ValueError, match="two"):
        list(as_done(work, list(range(1000)), 1, threading.Event()))
    assert done == [0, 1]


def test_nobody_waits_for_work_that_was_given_up():
    stop = threading.Event()
    slow = threading.Event()
    found = as_done(lambda x: x if x == 0 else slow.wait(30), [0, 1], 2, stop)
    assert next(found) == (0, 0)
    before = time.monotonic()
    found.close()
    assert time.monotonic() - before < 5 and stop.is_set()
    slow.set()
