"""Curves: the slope of a dose-response curve at zero, and where it saturates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import NDArray

from steerkit.evaluation.pooled import Pooled, cells, pool
from steerkit.evaluation.resampling import ends, rates_drawn

WAY = 0.9
"""Part of its way to the last coefficient at which a curve is said to be saturated."""
COLUMNS = ["annotator", "behavior", "layer", "measure", "slope", "low", "high"]
COLUMNS += ["floor", "ceiling", "down_at", "up_at", "saturated_down", "saturated_up"]
COLUMNS += ["departure", "steps", "tasks"]


def curves(generations: pd.DataFrame) -> pd.DataFrame:
    """Slope at zero and saturation of every steered behaviour's own rate.

    The slope is that at zero of the parabola through the unsteered rate that fits the changes at
    the two nearest coefficients of either side best (least squares); with one on each side it
    is their central difference, with one in all a secant. It is a finite difference: where a
    curve bends within these coefficients it is too small. Saturation is read off the
    non-decreasing curve that fits best (isotonic regression: Barlow et al. 1972), coefficients
    weighing as many sentences as they have; between coefficients it is straight.

    Parameters
    ----------
    generations:
        One row a generation and annotator, with the columns of ``generations.csv``. A curve is
        taken over the tasks that all its coefficients were run on.

    Returns
    -------
    One row an annotator, behaviour, layer and measure (:func:`steerkit.evaluation.rates.rates`):
    ``annotator``, ``behavior``, ``layer``, ``measure``, ``slope``, ``low``, ``high`` (change of
    the rate for each unit of the coefficient; 95 % over tasks), ``floor`` and ``ceiling`` (the
    fit at the smallest and largest coefficient), ``down_at`` and ``up_at`` (coefficients at which
    it has made nine tenths of its way from zero to these; missing where it makes none),
    ``saturated_down`` and ``saturated_up`` (whether that is so before the last coefficient but
    one or at it; missing with fewer than two on that side), ``departure`` (largest distance of
    the rates from the fit: a curve that turns back at large coefficients has a large one),
    ``steps`` (coefficients, 0 included) and ``tasks``.

    Raises :class:`StatisticsError` for what is no table of generations, and without a baseline.
    Coefficients outside the fluent range are part of a curve as any other: leave them out of
    the table if they should not be.
    """
    rows = [row for pooled in pool(generations) for row in _curves(pooled)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _curves(pooled: Pooled) -> Iterator[dict[str, Any]]:
    conditions = pooled.conditions
    steered = conditions[(conditions["kind"] == "steered") & (conditions["coefficient"] != 0)]
    for (behavior, layer), part in steered.groupby(["behavior", "layer"], sort=False, dropna=False):
        if behavior not in pooled.labels:
            continue
        part = part.drop_duplicates("coefficient").sort_values("coefficient")
        coefficients = np.append(part["coefficient"].to_numpy(np.float64), 0.0)
        order = np.argsort(coefficients)
        rows = np.append(part.index.to_numpy(), pooled.baseline)[order]
        coefficients = coefficients[order]
        tasks = np.flatnonzero(pooled.ran[rows].all(axis=0))
        for measure in pooled.measures(behavior):
            tops, bottoms = (
                sums[cells(rows.tolist(), tasks)] for sums in pooled.fraction(behavior, measure)
            )
            row = {"annotator": pooled.annotator, "behavior": behavior, "layer": layer}
            row |= {"measure": measure, "steps": len(rows), "tasks": len(tasks)}
            if len(tasks):
                value, drawn = rates_drawn(tops, bottoms)
                weights = slope_weights(coefficients)
                near = np.flatnonzero(weights)  # far ones may have no rate at all
                low, high = ends((weights[near] @ drawn[near])[None], len(tasks))
                row |= {"slope": float(weights[near] @ value[near])}
                row |= {"low": float(low[0]), "high": float(high[0])}
                row |= saturation(coefficients, value, bottoms.sum(axis=1))
            yield row


def slope_weights(coefficients: Float64[np.ndarray, " step"]) -> Float64[np.ndarray, " step"]:
    """What the rates at these coefficients are multiplied with to give the slope at zero.

    The coefficients are in order and hold 0; the weights add up to zero.
    """
    zero = int(np.flatnonzero(coefficients == 0)[0])
    near = [i for i in range(zero - 2, zero + 3) if 0 <= i < len(coefficients) and i != zero]
    at = coefficients[near]
    powers = at[:, None] if len(near) == 1 else np.stack([at, at**2], axis=1)
    weights = np.zeros(len(coefficients))
    weights[near] = np.linalg.pinv(powers)[0]
    weights[zero] = -weights.sum()
    return weights


def saturation(
    coefficients: Float64[np.ndarray, " step"],
    rates: Float64[np.ndarray, " step"],
    weights: Float64[np.ndarray, " step"],
) -> dict[str, Any]:
    """Where the best non-decreasing curve through rates levels off: see :func:`curves`."""
    from scipy.optimize import isotonic_regression

    known = np.isfinite(rates) & (weights > 0)
    if not known[coefficients == 0].all() or known.sum() < 2:
        return {}
    at, seen = coefficients[known], rates[known]
    fit = np.asarray(isotonic_regression(seen, weights=weights[known]).x, dtype=np.float64)
    zero = int(np.flatnonzero(at == 0)[0])
    # downwards is upwards with both axes turned round
    up = _levels_off(at[zero:], fit[zero:])
    down = _levels_off(-at[zero::-1], -fit[zero::-1])
    return {
        "floor": float(fit[0]),
        "ceiling": float(fit[-1]),
        "up_at": up[0],
        "saturated_up": up[1],
        "down_at": -down[0],
        "saturated_down": down[1],
        "departure": float(np.abs(seen - fit).max()),
    }


def _levels_off(at: NDArray[np.float64], fit: NDArray[np.float64]) -> tuple[float, bool | None]:
    """Where a curve that begins at zero has made nine tenths of its way, and whether early."""
    way = fit[-1] - fit[0]
    if way <= 0:
        return float("nan"), None
    goal = fit[0] + WAY * way
    i = int(np.argmax(fit >= goal - 1e-12 * way))
    step = (goal - fit[i - 1]) / (fit[i] - fit[i - 1])
    reached = at[i - 1] + min(step, 1.0) * (at[i] - at[i - 1])
    return float(reached), None if len(at) < 3 else bool(i < len(at) - 1)
