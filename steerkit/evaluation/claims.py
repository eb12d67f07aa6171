"""Claims: headline conditions, and the control directions that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from steerkit.evaluation.effects import CONTROLS
from steerkit.evaluation.pooled import Pooled, cells, share

SIGNS = {1: "amplify", -1: "suppress"}
SAME = 1e-9
"""Coefficients that differ by less are the same."""


@dataclass(frozen=True, eq=False)
class Claim:
    """A headline condition, and the controls that it is compared with.

    Attributes
    ----------
    behavior, sign, row:
        The steered behaviour, 1 (amplify) or -1 (suppress), and the row of its condition.
    controls:
        Rows of its control conditions, by kind.
    tasks:
        Those that the baseline, the condition and every control were run on.
    steered:
        Change of the behaviour's share of spans on these tasks.
    changes:
        The controls' changes of the same share on the same tasks, by kind.
    """

    behavior: str
    sign: int
    row: int
    controls: Mapping[str, list[int]]
    tasks: Int64[np.ndarray, " task"]
    steered: float
    changes: Mapping[str, Float64[np.ndarray, " control"]]


def claims(pooled: Pooled) -> list[Claim]:
    """The headline conditions of behaviours that the annotator can give, with their controls."""
    conditions = pooled.conditions
    kind = pooled.kinds
    named = [None if pd.isna(name) else str(name) for name in conditions["behavior"]]
    behavior = np.array(named, dtype=object)
    coefficient = conditions["coefficient"].to_numpy(np.float64, na_value=np.nan)
    layer = conditions["layer"].to_numpy(np.float64, na_value=np.nan)
    headline = conditions["headline"].to_numpy(bool)
    made = []
    for row in np.flatnonzero((kind == "steered") & headline & (coefficient != 0)):
        if behavior[row] not in pooled.labels:
            continue
        # a direction at several layers at once has none of its own
        there = (layer == layer[row]) | (np.isnan(layer) & np.isnan(layer[row]))
        alike = {
            # a random direction's sign means nothing, and it belongs to no behaviour
            "random": np.abs(np.abs(coefficient) - abs(coefficient[row])) < SAME,
            "shuffled": (np.abs(coefficient - coefficient[row]) < SAME)
            & (behavior == behavior[row]),
        }
        rows = {
            name: np.flatnonzero((kind == name) & there & alike[name]).tolist() for name in CONTROLS
        }
        sign = 1 if coefficient[row] > 0 else -1
        made.append(_claim(pooled, str(behavior[row]), sign, int(row), rows))
    return made


def _claim(
    pooled: Pooled, behavior: str, sign: int, row: int, rows: Mapping[str, list[int]]
) -> Claim:
    every = [pooled.baseline, row, *rows["random"], *rows["shuffled"]]
    tasks = np.flatnonzero(pooled.ran[every].all(axis=0))
    tops, bottoms = pooled.fraction(behavior, "spans")
    at = cells(every, tasks)
    rates = share(tops[at].sum(axis=1), bottoms[at].sum(axis=1))
    changes = rates[1:] - rates[0]
    split = 1 + len(rows["random"])
    found = {"random": changes[1:split], "shuffled": changes[split:]}
    return Claim(behavior, sign, row, rows, tasks, float(changes[0]), found)
