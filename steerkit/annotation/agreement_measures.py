"""Measures of agreement: kappa, F1 and shares, of tables that count pairs of labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num

Counts = Num[np.ndarray, "*resample label label"]
"""How often A's label (row) meets B's (column); the last of both is ``unparsed``."""
Whole = Float[np.ndarray, "label label"]
Drawn = Float[np.ndarray, "resample label label"]


def kappa(table: Counts) -> Float[np.ndarray, "*resample"]:
    """Cohen's kappa of tables of counts; NaN for no unit, or where chance leaves no room."""
    table = np.asarray(table, dtype=np.float64)
    total = table.sum(axis=(-2, -1))
    agreed = np.trace(table, axis1=-2, axis2=-1)
    expected = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((total * agreed - expected) / (total**2 - expected))


def f1(table: Counts) -> Float[np.ndarray, "*resample label"]:
    """F1 of every label of tables of counts; NaN for a label that nobody gave."""
    table = np.asarray(table, dtype=np.float64)
    both = np.diagonal(table, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * both / (table.sum(axis=-1) + table.sum(axis=-2)))


def _macro_f1(table: Counts) -> Float[np.ndarray, "*resample"]:
    """Mean F1 over the behaviours that A uses; ``unparsed``, the last, is none."""
    scores = np.nan_to_num(f1(table)[..., :-1])
    used = np.asarray(table).sum(axis=-1)[..., :-1] > 0
    with np.errstate(invalid="ignore"):
        return np.asarray((scores * used).sum(axis=-1) / used.sum(axis=-1))


def _accuracy(table: Counts) -> Float[np.ndarray, "*resample"]:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.trace(table, axis1=-2, axis2=-1) / table.sum(axis=(-2, -1)))


def _coverage(table: Counts) -> Float[np.ndarray, "*resample"]:
    with np.errstate(invalid="ignore"):
        return np.asarray(
            table[..., :-1, :-1].sum(axis=(-2, -1)) / table[..., :-1, :].sum(axis=(-2, -1))
        )


def _both(measure: Callable[[Counts], Any]) -> Callable[[Counts], Any]:
    """The measure over the units that both label."""
    return lambda table: measure(table[..., :-1, :-1])


_MEASURES: dict[str, Callable[[Counts], Any]] = {
    "kappa": kappa,
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "kappa_labelled": _both(kappa),
    "accuracy_labelled": _both(_accuracy),
    "coverage": _coverage,
}


def summary_rows(unit: str, whole: Whole, drawn: Drawn) -> list[dict[str, Any]]:
    """One row a measure: its value on ``whole``, its interval from the ``drawn`` tables."""
    rows = []
    for name, measure in _MEASURES.items():
        counted = whole[:-1, :-1] if name.endswith("_labelled") else whole
        counted = whole[:-1, :] if name == "coverage" else counted
        low, high = _quantiles(measure(drawn))
        value = float(measure(whole))
        rows.append(
            {
                "unit": unit,
                "measure": name,
                "value": value,
                "low": low,
                "high": high,
                "count": int(counted.sum()),
            }
        )
    return rows


def label_rows(unit: str, names: Sequence[str], whole: Whole, drawn: Drawn) -> list[dict[str, Any]]:
    """One row a label that somebody gave: counts, precision, recall, F1 with its interval."""
    scores, resampled = f1(whole), f1(drawn)
    rows = []
    for i, name in enumerate(names):
        in_a, in_b, both = whole[i].sum(), whole[:, i].sum(), whole[i, i]
        low, high = _quantiles(resampled[:, i])
        rows.append(
            {
                "unit": unit,
                "label": name,
                "count_a": int(in_a),
                "count_b": int(in_b),
                "precision": both / in_b if in_b else math.nan,
                "recall": both / in_a if in_a else math.nan,
                "f1": float(scores[i]),
                "f1_low": low,
                "f1_high": high,
            }
        )
    return [row for row in rows if row["count_a"] or row["count_b"]]


def _quantiles(values: Float[np.ndarray, " resample"]) -> tuple[float, float]:
    """The interval, over the resamples in which the measure is defined."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
