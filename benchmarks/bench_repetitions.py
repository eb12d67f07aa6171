"""Repetitions of contenders in turns, and what they say: medians, spreads, ratios, verdicts.

The contenders of one case run A B C A B C ..., so that a machine that gets slower or faster
does so for all of them, and a ratio is taken repetition by repetition.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Spread(NamedTuple):
    """Median, quartiles and extremes of some repetitions."""

    median: float
    low: float
    high: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Of values that are there: at least one."""
    if not values:
        raise ValueError("no repetition was measured")
    low, high = (float(edge) for edge in np.percentile(values, [25, 75]))
    return Spread(statistics.median(values), low, high, min(values), max(values))


def ratio(own: Sequence[float], other: Sequence[float]) -> Spread:
    """Spread of own / other, each repetition divided by the one that ran beside it."""
    return spread([a / b for a, b in zip(own, other, strict=True)])


def fastest(seconds: Mapping[str, Sequence[float]]) -> str:
    """The contender of the smallest median; the first of equals."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))


def verdict(value: float, target: float | None, at_least: bool = False) -> str:
    """``met`` or ``missed``; without a target there is nothing to meet: ``context``."""
    if target is None:
        return "context"
    return "met" if (value >= target if at_least else value <= target) else "missed"


def interleave(
    contenders: Mapping[str, Callable[[], float]],
    repetitions: int,
    tell: Callable[[str], Any] = lambda _: None,
) -> dict[str, list[float]]:
    """Run every contender in turns, ``repetitions`` times; what each call returns, in order.

    The contenders measure themselves: what happens around them is not their time. ``tell``
    hears of every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(repetitions):
        for name, run in contenders.items():
            gc.collect()
            seconds[name].append(run())
        latest = ", ".join(f"{name} {row[-1]:.3g} s" for name, row in seconds.items())
        tell(f"{number + 1}/{repetitions}: {latest}")
    return seconds


def timed(run: Callable[[], Any], settle: Callable[[], Any] = lambda: None) -> float:
    """Seconds that ``run`` takes; ``settle`` waits for a device to finish what it was given."""
    settle()
    started = time.perf_counter()
    run()
    settle()
    return time.perf_counter() - started


def settler(device: str) -> Callable[[], Any]:
    """What waits for ``device``: nothing on a CPU."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return torch.cuda.synchronize


class Alike(NamedTuple):
    """How far two sets of token rows agree: the share of tokens before rows part; in words."""

    share: float
    text: str


def alike(rows: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> Alike:
    """Compare token rows one by one; sets of different numbers of rows do not agree at all."""
    if len(rows) != len(others):
        return Alike(0.0, f"{len(rows)} rows against {len(others)}")
    same = sum(list(a) == list(b) for a, b in zip(rows, others, strict=True))
    if same == len(rows):
        return Alike(1.0, f"{same} of {same} rows the same")
    before = sum(_shared(a, b) for a, b in zip(rows, others, strict=True))
    total = sum(max(len(a), len(b)) for a, b in zip(rows, others, strict=True))
    share = before / max(total, 1)
    found = f"{same} of {len(rows)} rows the same, {100 * share:.0f} % of tokens before they part"
    return Alike(share, found)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return min(len(a), len(b))
