"""Work in threads: results as they come, and nothing that keeps a process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def as_done(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int, stop: threading.Event
) -> Iterator[tuple[int, Result]]:
    """(number of the item, what ``work`` made of it), in the order in which work ends.

    Parameters
    ----------
    work:
        Called with one item, in several threads at once.
    items, threads:
        What is to be done, begun in this order, and by how many threads at most.
    stop:
        Set when the caller is through or gives up: no further item is begun. Work that is
        waiting should look at it too.

    What ``work`` raises is raised here, and nothing more is begun. The threads are daemons,
    unlike those of ``concurrent.futures``: after Ctrl-C nobody waits for a slow server.
    """
    todo = iter(enumerate(items))
    lock = threading.Lock()
    done: SimpleQueue[tuple[int, Result | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        while not stop.is_set():
            with lock:
                entry = next(todo, None)
            if entry is None:
                return
            number, item = entry
            try:
                done.put((number, work(item), None))
            except BaseException as problem:
                stop.set()
                done.put((number, None, problem))

    workers = [threading.Thread(target=run, daemon=True) for _ in range(min(threads, len(items)))]
    for worker in workers:
        worker.start()
    try:
        for _ in items:
            number, result, problem = done.get()
            if problem is not None:
                raise problem
            yield number, result  # type: ignore[misc]
        for worker in workers:
            worker.join()
    finally:
        stop.set()
