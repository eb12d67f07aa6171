"""Rates: how often each behaviour occurs under each condition, with intervals over tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from steerkit.evaluation.pooled import CONDITION, Pooled, alike, cells, pool, stacked
from steerkit.evaluation.resampling import ends, rates_drawn

COLUMNS = [
    "annotator",
    *CONDITION,
    "label",
    "measure",
    "value",
    "low",
    "high",
    "tasks",
    "chains",
    "truncated",
    "silent",
]


def rates(generations: pd.DataFrame) -> pd.DataFrame:
    """Behaviour rates of every condition, by annotator, label and measure.

    A rate is a ratio of sums over tasks with all their samples; what is divided by what stands
    at :meth:`steerkit.evaluation.pooled.Pooled.fraction`. Intervals resample tasks
    (:func:`steerkit.evaluation.resampling.ends`). A chain that was cut off is counted as far as
    it goes, one without any sentence adds nothing to either side, and both are told: where many
    are, read the rate as that of the beginnings of chains.

    Parameters
    ----------
    generations:
        One row a generation and annotator, with the columns of ``generations.csv``.

    Returns
    -------
    Tidy, one row an annotator, condition, label (``unparsed`` too) and measure:
    ``annotator``, ``condition``, ``kind``, ``behavior``, ``control``, ``layer``,
    ``coefficient``, ``headline``, ``label``, ``measure`` (``spans``, ``tokens``: shares, 0 to 1;
    ``count``: spans a chain; ``hazard``: chance that the next sentence begins the behaviour),
    ``value``, ``low``, ``high`` (95 %), ``tasks``, ``chains``, ``truncated`` (chains),
    ``silent`` (chains without any sentence). A rate with nothing to divide by is missing.

    Raises :class:`StatisticsError` for what is no table of generations. Do not compare
    conditions by whether these intervals overlap: the tasks are the same, and
    :func:`steerkit.evaluation.effects.effects` pairs them.
    """
    return stacked((_rates(pooled) for pooled in pool(generations)), COLUMNS)


def _rates(pooled: Pooled) -> pd.DataFrame:
    ran, sums = pooled.ran, pooled.sums
    groups = list(alike(ran, range(len(ran))))
    tables = []
    for label in pooled.labels:
        for measure in pooled.measures(label):
            tops, bottoms = pooled.fraction(label, measure)
            table = pooled.conditions.assign(
                annotator=pooled.annotator, label=label, measure=measure
            )
            found = np.full((3, len(table)), np.nan)
            for rows, tasks in groups:
                value, drawn = rates_drawn(tops[cells(rows, tasks)], bottoms[cells(rows, tasks)])
                found[:, rows] = value, *ends(drawn, len(tasks))
            table["value"], table["low"], table["high"] = found
            table["tasks"] = ran.sum(axis=1)
            for name in ("chains", "truncated", "silent"):
                column = sums["sum:truncated" if name == "truncated" else name]
                table[name] = column.sum(axis=1).astype(np.int64)
            tables.append(table)
    return stacked(tables, COLUMNS)
