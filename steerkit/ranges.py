"""Ranges: how far a direction can be pushed before the text, or the answers, fall apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from steerkit.annotation import Annotate, labelled_by, labeller
from steerkit.answers import correct
from steerkit.behaviors import UNPARSED
from steerkit.direction import Direction
from steerkit.errors import SteeringError
from steerkit.generation import generate
from steerkit.models import ThinkingModel
from steerkit.repetition import repeated_sentences, zlib_ratio
from steerkit.tasks import Task
from steerkit.terms import Term
from steerkit.traces import Trace

if TYPE_CHECKING:
    import pandas as pd

PARSED, ZLIB, POINTS = 0.95, 0.9, 0.05
"""What fluent and free text may lose: see :func:`find_ranges`."""
ByTask = Float64[np.ndarray, " task"]
_ROUNDING = 1e-9
FINEST = 1e-4
"""The smallest tolerance: coefficients are tried to four digits, and finer ones never settle."""


def _nothing() -> ByTask:
    return np.zeros(0)


@dataclass
class Measured:
    """What was measured of the chains under one coefficient.

    Attributes
    ----------
    closed, repeated, accuracy:
        By task, means over its chains; an accuracy that nobody can check is no number.
    known, sentences:
        By task, sentences that the annotator knows, of how many; ``None`` without one.
    texts:
        The responses, task by task.
    """

    closed: ByTask = field(default_factory=_nothing)
    repeated: ByTask = field(default_factory=_nothing)
    accuracy: ByTask = field(default_factory=_nothing)
    known: ByTask | None = None
    sentences: ByTask | None = None
    texts: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.texts)


class Range(NamedTuple):
    """Coefficients from ``low`` (0 or less) to ``high`` (0 or more)."""

    low: float
    high: float

    def __contains__(self, coefficient: object) -> bool:
        return isinstance(coefficient, int | float) and self.low <= coefficient <= self.high


@dataclass(frozen=True)
class Ranges:
    """What :func:`find_ranges` found.

    Attributes
    ----------
    fluent:
        Coefficients between which text stays as whole as unsteered text.
    free:
        Those between which accuracy stays as well; ``None`` where no answer can be checked.
    table:
        One row a coefficient that was tried, 0 among them: ``closed``, ``parsed``, ``zlib`` (over
        the unsteered one, at equal length), ``repeated``, ``accuracy`` (missing where not
        measured), ``fluent``, ``free``.
    annotator:
        Who told which sentences are known; empty where nobody did.
    """

    fluent: Range
    free: Range | None
    table: pd.DataFrame
    annotator: str = ""


def find_ranges(
    model: ThinkingModel,
    direction: Direction | Term,
    tasks: Sequence[Task],
    *,
    annotate: Annotate | None = None,
    limit: float = 1.0,
    tolerance: float = 0.05,
    unsteered: Measured | None = None,
    **options: Any,
) -> Ranges:
    """How far a direction can be pushed both ways, by bisection on the *select* tasks.

    A coefficient is *fluent* when, over the tasks, at most 5 points fewer chains close than
    unsteered, at least 95 % of the sentences are ones that the annotator knows (or, where it
    knows fewer of the unsteered ones, at most 5 points fewer than of those), the zlib ratio is
    at least 0.9 of the unsteered one, both over as much text as the shorter of the two chains of a
    task has (long texts compress better), and at most 5 points more sentences are repeated. It is
    *free* when accuracy is at most 5 points below the unsteered one as well. Instead of 5 points
    it is one standard error of the difference, paired by task, where that is more: else chance
    would set the border where few tasks are had or half of the chains are cut off. Every side is
    bisected between 0 and ``limit`` until the border is known to ``tolerance``, and the last
    coefficient that passed is the border: what lies between two that passed is taken to pass.

    Parameters
    ----------
    direction:
        A direction at its suggested layer, or a term, whose coefficient multiplies those tried.
    tasks:
        Of the *select* set. A small set gives a rough range: with n tasks, a fall of a share by
        less than about 0.7 / sqrt(n) is not seen.
    annotate:
        Who tells which sentences are known: a name, a file, an annotator or a function
        (:func:`steerkit.annotation.labeller`).
    unsteered:
        What was measured on unsteered chains of the same model, tasks, annotator and options:
        taken where it holds something, filled where it is empty, so that several directions can
        share it.
    options:
        Of :func:`steerkit.generation.generate`.

    Raises :class:`SteeringError` for no tasks, for limits that are not positive and for
    tolerances below 0.0001.
    """
    import pandas as pd

    if not tasks or limit <= 0 or tolerance < FINEST:
        raise SteeringError(
            f"a range needs tasks, a positive limit and a tolerance of at least {FINEST}",
            found=f"{len(tasks)} tasks, limit {limit}, tolerance {tolerance}",
        )
    term, gold = 1.0 * direction, {task.id: task for task in tasks}
    # what is tried here may leave the range of an earlier search, which is no news
    term = replace(term, direction=replace(term.direction, fluent=None, free=None))
    label, annotators = None if annotate is None else labeller(annotate), set[str]()
    measured: dict[float, Measured] = {}
    tried: dict[float, dict[str, float]] = {}

    def run(coefficients: Iterable[float]) -> None:
        new = [c for c in dict.fromkeys(coefficients) if c not in tried]
        if not new:
            return
        traces = generate(
            model,
            [task for _ in new for task in tasks],
            steer=[c * term if c else None for c in new for _ in tasks],
            **{"on_interrupt": "raise", **options},
        )
        labelled = None if label is None else label(traces)
        annotators.add("" if labelled is None else labelled_by(labelled))
        size = len(traces) // len(new)
        for number, c in enumerate(new):
            part = slice(number * size, (number + 1) * size)
            labels = None if labelled is None else labelled[part]
            measured[c] = _measures(traces[part], labels, gold, len(tasks))
            note(c)

    def note(coefficient: float) -> None:
        found, base = measured[coefficient], measured[0.0]
        fluent = _fluent(found, base)
        free = fluent and not _falls(found.accuracy, base.accuracy)
        tried[coefficient] = _numbers(found, base) | {"fluent": fluent, "free": free}

    if unsteered:
        measured[0.0] = unsteered
        note(0.0)
    run([0.0])
    if unsteered is not None:
        for each in fields(Measured):
            setattr(unsteered, each.name, getattr(measured[0.0], each.name))
    run([-limit, limit])
    fluent = _bisected(run, tried, "fluent", {-1: limit, 1: limit}, tolerance)
    free = None
    if tried[0.0]["accuracy"] == tried[0.0]["accuracy"]:  # measured: not NaN
        free = Range(*_bisected(run, tried, "free", {-1: -fluent[0], 1: fluent[1]}, tolerance))
    rows = [{"coefficient": c, **found} for c, found in sorted(tried.items())]
    return Ranges(Range(*fluent), free, pd.DataFrame(rows), ", ".join(sorted(annotators - {""})))


def _bisected(
    run: Callable[[Iterable[float]], None],
    tried: dict[float, dict[str, float]],
    what: str,
    limits: dict[int, float],
    tolerance: float,
) -> tuple[float, float]:
    """The last coefficient that passed on each side; both sides are run side by side."""
    good, bad = dict.fromkeys(limits, 0.0), {}
    for sign, limit in limits.items():
        run([sign * limit])
        if tried[sign * limit][what]:
            good[sign] = limit
        else:
            bad[sign] = limit
    while unsettled := [sign for sign in bad if bad[sign] - good[sign] > tolerance]:
        middle = {sign: round((good[sign] + bad[sign]) / 2, 4) for sign in unsettled}
        run(sign * c for sign, c in middle.items())
        for sign, c in middle.items():
            (good if tried[sign * c][what] else bad)[sign] = c
    return -good[-1], good[1]


def _measures(
    traces: Sequence[Trace],
    labelled: Sequence[Trace] | None,
    gold: dict[str, Task],
    tasks: int,
) -> Measured:
    nan = float("nan")

    def by_task(values: Sequence[float]) -> ByTask:
        # the samples of a task stand side by side
        return np.array(values, dtype=float).reshape(tasks, -1).mean(axis=1)

    right = [correct(trace, gold.get(trace.task_id)) for trace in traces]
    found = Measured(
        by_task([trace.closed for trace in traces]),
        by_task([repeated_sentences(trace.response) for trace in traces]),
        by_task([nan if answer is None else answer for answer in right]),
        texts=[trace.response for trace in traces],
    )
    if labelled is not None:
        labels = [[span.label for span in trace.spans] for trace in labelled]
        found.known = by_task([len(one) - one.count(UNPARSED) for one in labels])
        found.sentences = by_task([len(one) for one in labels])
    return found


def _numbers(found: Measured, base: Measured) -> dict[str, float]:
    """Means over the tasks; ``parsed`` is the share of all sentences that the annotator knows."""
    parsed = float("nan")
    if found.known is not None and found.sentences is not None:
        sentences = found.sentences.sum()
        parsed = float(found.known.sum() / sentences) if sentences else 0.0
    return {
        "closed": _mean(found.closed),
        "parsed": parsed,
        "zlib": _compressed(found.texts, base.texts),
        "repeated": _mean(found.repeated),
        "accuracy": _mean(found.accuracy),
    }


def _compressed(found: Sequence[str], base: Sequence[str]) -> float:
    """Mean zlib ratio over that of the unsteered chains, pair by pair over equal lengths."""
    ratios = []
    for text, other in zip(found, base, strict=True):
        common = min(len(text), len(other))
        ratios.append((zlib_ratio(text[:common]), zlib_ratio(other[:common])))
    return float(np.divide(*np.mean(ratios, axis=0)))


def _fluent(found: Measured, base: Measured) -> bool:
    now, before = _numbers(found, base), _numbers(base, base)
    parsed = PARSED if before["parsed"] >= PARSED else before["parsed"] - POINTS
    return bool(
        not _falls(found.closed, base.closed)
        and not now["parsed"] < parsed
        and now["zlib"] >= ZLIB
        and not _falls(-found.repeated, -base.repeated)
    )


def _falls(found: ByTask, base: ByTask) -> bool:
    """Whether a share is lower by more than 5 points and more than a standard error."""
    lost = (base - found)[~np.isnan(base - found)]
    error = lost.std(ddof=1) / np.sqrt(len(lost)) if len(lost) > 1 else 0.0
    return bool(len(lost) and lost.mean() > max(POINTS, error) + _ROUNDING)


def _mean(values: ByTask) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
