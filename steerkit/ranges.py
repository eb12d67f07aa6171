"""Ranges: how far a direction can be pushed before the text, or the answers, fall apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

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

CLOSED, PARSED, ZLIB, REPEATED, ACCURACY = 0.05, 0.95, 0.9, 0.05, 0.05
"""What fluent and free text may lose: see :func:`find_ranges`."""
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
    unsteered: dict[str, float] | None = None,
    **options: Any,
) -> Ranges:
    """How far a direction can be pushed both ways, by bisection on the *select* tasks.

    A coefficient is *fluent* when, over the tasks, at most 5 points fewer chains close than
    unsteered, at least 95 % of the sentences are ones that the annotator knows (or, where it
    knows fewer of the unsteered ones, at most 5 points fewer than of those), the zlib ratio is
    at least 0.9 of the unsteered one, and at most 5 points more sentences are repeated. It is
    *free* when accuracy is at most 5 points below the unsteered one as well. Every side is
    bisected between 0 and ``limit`` until the border is known to ``tolerance``, and the last
    coefficient that passed is the border: what lies between two that passed is taken to pass.

    Parameters
    ----------
    direction:
        A direction at its suggested layer, or a term, whose coefficient multiplies those tried.
    tasks:
        Of the *select* set. With n tasks, differences of less than about 1 / sqrt(n) cannot be
        told from chance: a small set gives a rough range.
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
            tried[c] = _measures(traces[part], None if labelled is None else labelled[part], gold)
            base = tried[0.0]
            tried[c]["fluent"] = _fluent(tried[c], base)
            tried[c]["free"] = tried[c]["fluent"] and not (
                tried[c]["accuracy"] < base["accuracy"] - ACCURACY
            )

    if unsteered:
        tried[0.0] = dict(unsteered)
    run([0.0])
    if unsteered is not None:
        unsteered.update(tried[0.0])
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
    traces: Sequence[Trace], labelled: Sequence[Trace] | None, gold: dict[str, Task]
) -> dict[str, float]:
    known = [right for t in traces if (right := correct(t, gold.get(t.task_id))) is not None]
    parsed = float("nan")
    if labelled is not None:
        labels = [span.label for trace in labelled for span in trace.spans]
        parsed = 1 - labels.count(UNPARSED) / len(labels) if labels else 0.0
    return {
        "closed": _mean([trace.closed for trace in traces]),
        "parsed": parsed,
        "zlib": _mean([zlib_ratio(trace.response) for trace in traces]),
        "repeated": _mean([repeated_sentences(trace.response) for trace in traces]),
        "accuracy": _mean(known) if known else float("nan"),
    }


def _fluent(found: dict[str, float], base: dict[str, float]) -> bool:
    return (
        found["closed"] >= base["closed"] - CLOSED
        and not found["parsed"] < (PARSED if base["parsed"] >= PARSED else base["parsed"] - CLOSED)
        and found["zlib"] >= ZLIB * base["zlib"]
        and found["repeated"] <= base["repeated"] + REPEATED
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
