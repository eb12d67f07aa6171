"""Specificity: how much steering one behaviour moves the others."""

from __future__ import annotations

import numpy as np
import pandas as pd

from steerkit.evaluation.claims import SIGNS
from steerkit.evaluation.effects import effect_table
from steerkit.evaluation.pooled import Pooled, pool, stacked

COLUMNS = ["annotator", "behavior", "sign", "condition", "layer", "coefficient", "label"]
COLUMNS += ["change", "low", "high", "ratio", "ratio_low", "ratio_high", "relative", "room"]
COLUMNS += ["p", "tasks"]


def specificity(generations: pd.DataFrame) -> pd.DataFrame:
    """Changes of every label under every behaviour's direction at its headline coefficients.

    Shares of spans add up to one, so a behaviour that is amplified takes room from the others:
    a loss of theirs in proportion to their unsteered shares is what that alone would do.
    ``room`` says how much of each label's change it would be.

    Parameters
    ----------
    generations:
        One row a generation and annotator, with the columns of ``generations.csv``.

    Returns
    -------
    Tidy, one row an annotator, headline condition and label (``unparsed`` too):
    ``annotator``, ``behavior`` (steered), ``sign``, ``condition``, ``layer``, ``coefficient``,
    ``label`` (moved), ``change``, ``low``, ``high`` (share of spans, 95 % over tasks),
    ``ratio``, ``ratio_low``, ``ratio_high``, ``relative`` (size of the change over that of the
    steered behaviour's own; missing where the annotator cannot give that), ``room`` (share of
    spans), ``p`` (two-sided sign-flip test, not adjusted) and ``tasks``.

    Raises :class:`StatisticsError` for what is no table of generations, and without a baseline.
    """
    return stacked((_specificity(pooled) for pooled in pool(generations)), COLUMNS)


def _specificity(pooled: Pooled) -> pd.DataFrame:
    conditions = pooled.conditions
    chosen = (conditions["kind"] == "steered") & conditions["headline"]
    rows = np.flatnonzero(chosen.to_numpy(bool)).tolist()
    tables = []
    for row in rows:
        table = pd.concat([effect_table(pooled, label, "spans", [row]) for label in pooled.labels])
        tasks = np.flatnonzero(pooled.ran[row] & pooled.ran[pooled.baseline])
        base = np.array([_base(pooled, label, tasks) for label in pooled.labels])
        own = (table["label"] == table["behavior"]).to_numpy(bool)
        change = table["change"].to_numpy(np.float64)
        moved = change[own].sum() if own.any() else np.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            table["relative"] = np.abs(change) / np.abs(moved)
            # what is left to the others shrinks from 1 - base to 1 - base - moved
            room = -base * moved / (1 - base[own].sum())
        table["room"] = np.where(own, np.nan, room)
        table["sign"] = SIGNS[1 if table["coefficient"].iloc[0] > 0 else -1]
        tables.append(table)
    return stacked(tables, COLUMNS)


def _base(pooled: Pooled, label: str, tasks: np.ndarray) -> float:
    tops, bottoms = pooled.fraction(label, "spans")
    total = bottoms[pooled.baseline, tasks].sum()
    return float(tops[pooled.baseline, tasks].sum() / total) if total else np.nan
