"""Ranges: how far a direction can be pushed before the text, or the answers, fall apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
Measured = dict[str, Float64[np.ndarray, " task"]]
"""By measure, its mean over the chains of every task; not a number where it is not known."""
_ROUNDING = 1e-9
FINEST = 1e-4
"""The smallest tolerance: coefficients are tried to four digits, and finer ones never settle."""


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
        One row a coefficient that was tried, 0 among them: ``closed``, ``parsed``, ``zlib``,
        ``repeated``, ``accuracy`` (missing where not measured), ``fluent``, ``free``.
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
    at least 0.9 of the unsteered one, and at most 5 points more sentences are repeated. It is
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
        By measure and task, what was measured on unsteered chains of the same model, tasks,
        annotator and options: taken where it holds something, filled where it is empty, so that
        several directions can share it.
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
        free = fluent and not _falls(found["accuracy"], base["accuracy"])
        tried[coefficient] = _means(found) | {"fluent": fluent, "free": free}

    if unsteered:
        measured[0.0] = dict(unsteered)
        note(0.0)
    run([0.0])
    if unsteered is not None:
        unsteered.update(measured[0.0])
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
    """By task; ``known`` and ``sentences`` count what the annotator knows, of how many."""
    nan = float("nan")
    right = [correct(trace, gold.get(trace.task_id)) for trace in traces]
    rows: dict[str, list[float]] = {
        "closed": [trace.closed for trace in traces],
        "zlib": [zlib_ratio(trace.response) for trace in traces],
        "repeated": [repeated_sentences(trace.response) for trace in traces],
        "accuracy": [nan if answer is None else answer for answer in right],
    }
    if labelled is not None:
        labels = [[span.label for span in trace.spans] for trace in labelled]
        rows["known"] = [len(found) - found.count(UNPARSED) for found in labels]
        rows["sentences"] = [len(found) for found in labels]
    # the samples of a task stand side by side
    by_task = {name: np.array(row, dtype=float).reshape(tasks, -1) for name, row in rows.items()}
    return {name: row.mean(axis=1) for name, row in by_task.items()}


def _means(measured: Measured) -> dict[str, float]:
    """Over the tasks; ``parsed`` is the share of all sentences that the annotator knows."""
    found = {name: _mean(measured[name]) for name in ("closed", "zlib", "repeated", "accuracy")}
    parsed = float("nan")
    if "sentences" in measured:
        sentences = measured["sentences"].sum()
        parsed = float(measured["known"].sum() / sentences) if sentences else 0.0
    return {"closed": found["closed"], "parsed": parsed} | found


def _fluent(found: Measured, base: Measured) -> bool:
    now, before = _means(found), _means(base)
    parsed = PARSED if before["parsed"] >= PARSED else before["parsed"] - POINTS
    return bool(
        not _falls(found["closed"], base["closed"])
        and not now["parsed"] < parsed
        and now["zlib"] >= ZLIB * before["zlib"]
        and not _falls(-found["repeated"], -base["repeated"])
    )


def _falls(found: Float64[np.ndarray, " task"], base: Float64[np.ndarray, " task"]) -> bool:
    """Whether a share is lower by more than 5 points and more than a standard error."""
    lost = (base - found)[~np.isnan(base - found)]
    error = lost.std(ddof=1) / np.sqrt(len(lost)) if len(lost) > 1 else 0.0
    return bool(len(lost) and lost.mean() > max(POINTS, error) + _ROUNDING)


def _mean(values: Float64[np.ndarray, " task"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
