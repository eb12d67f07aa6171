"""Side effects: what steering does to accuracy, length, endings and repetition."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import NDArray

from steerkit.evaluation.pooled import CONDITION, Pooled, alike, cells, pool, stacked
from steerkit.evaluation.resampling import ends, rates_drawn
from steerkit.statistics import share_interval

SIDES = {
    "accuracy": "correct",
    "closed": "closed",
    "truncated": "truncated",
    "thinking_tokens": "thinking_tokens",
    "zlib": "zlib",
    "repeated": "repeated",
    "loop": "loop",
    "parsed": "parsed",
    "kl": "kl",
    "perplexity": "perplexity",
}
"""Measures, and the columns of the generations table that they are taken from."""
_YES_OR_NO = ("accuracy", "closed", "truncated")
_NUMBERS = ["value", "low", "high", "change", "change_low", "change_high"]
COLUMNS = ["annotator", *CONDITION, "measure", *_NUMBERS, "tasks", "chains"]


def side_effects(generations: pd.DataFrame) -> pd.DataFrame:
    """Side effects of every condition, with changes against the baseline on the same tasks.

    A value is the mean over chains in which it is known, tasks being resampled for its interval;
    ``parsed`` is the share of sentences that the annotator could label, over all chains;
    ``perplexity`` is a geometric mean. Where every chain has a yes, or every chain a no, the
    interval is Wilson's, one outcome a task (:func:`steerkit.statistics.share_interval`): 20
    tasks that all close say no more than that at least 84 % do.

    Parameters
    ----------
    generations:
        One row a generation and annotator, with the columns of ``generations.csv``.

    Returns
    -------
    Tidy, one row an annotator, condition and measure: ``annotator``, ``condition``, ``kind``,
    ``behavior``, ``control``, ``layer``, ``coefficient``, ``headline``, ``measure`` (``accuracy``,
    ``closed``, ``truncated``, ``zlib``, ``repeated``, ``parsed``: 0 to 1; ``thinking_tokens``,
    ``loop``: tokens, the former a lower bound for chains that were cut off; ``kl``: nats a
    token; ``perplexity``; those that no chain of any condition has a value of are left out),
    ``value``, ``low``, ``high`` (95 %), ``change``, ``change_low``, ``change_high`` (against the
    baseline, paired by task; missing for the baseline, and where it has no value), ``tasks`` and
    ``chains`` (those with a value). Only ``parsed`` depends on the annotator.

    Raises :class:`StatisticsError` for what is no table of generations, and without a baseline.
    """
    return stacked((_side_effects(pooled) for pooled in pool(generations)), COLUMNS)


def _side_effects(pooled: Pooled) -> pd.DataFrame:
    tables = []
    for measure, column in SIDES.items():
        if f"n:{column}" not in pooled.sums:
            continue
        sums, known = pooled.sums[f"sum:{column}"], pooled.sums[f"n:{column}"]
        chains = pooled.sums["chains"] if column == "parsed" else known
        tables.append(
            pooled.conditions.assign(
                annotator=pooled.annotator,
                measure=measure,
                **dict(zip(_NUMBERS, _numbers(measure, sums, known, pooled.baseline), strict=True)),
                tasks=(known > 0).sum(axis=1),
                chains=chains.sum(axis=1).astype(np.int64),
            )
        )
    return stacked(tables, COLUMNS)


def _numbers(
    measure: str,
    sums: Float64[np.ndarray, "condition task"],
    known: Float64[np.ndarray, "condition task"],
    base: int,
) -> Float64[np.ndarray, "number condition"]:
    """Values and changes with their ends, in the order of the table's columns."""
    found = np.full((len(_NUMBERS), len(sums)), np.nan)
    there = known > 0
    for rows, tasks in alike(there, range(len(sums))):
        at = cells(rows, tasks)
        value, drawn = rates_drawn(sums[at], known[at])
        low, high = ends(drawn, len(tasks))
        if measure in _YES_OR_NO:
            for i in np.flatnonzero((value == 0) | (value == 1)):
                _, low[i], high[i] = share_interval(round(value[i]) * len(tasks), len(tasks))
        found[:3, rows] = _unit(measure, np.stack([value, low, high]))
    for rows, tasks in alike(there & there[base], [i for i in range(len(sums)) if i != base]):
        at = cells([base, *rows], tasks)
        value, drawn = (_unit(measure, values) for values in rates_drawn(sums[at], known[at]))
        found[3:, rows] = value[1:] - value[0], *ends(drawn[1:] - drawn[:1], len(tasks))
    return found


def _unit(measure: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the scale on which chains are averaged to the one that is reported."""
    return np.exp(values) if measure == "perplexity" else values
