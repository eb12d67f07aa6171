"""How far cheap scores of layers agree with the causal sweep, beside what knows no model at all.

What a score is worth shows beside the plain layer number, the last and the middle layer and a
layer drawn at random: in many models steering works best late, so that any score that rises with
depth agrees with the sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata, t

from steerkit.layer_choice.scores import CHEAP, chosen_layers, whole
from steerkit.layer_choice.suggestion import DEFAULT_SCORE
from steerkit.statistics import resampled_counts

NUMBER, LAST, MIDDLE, CHANCE = "layer number", "last layer", "middle layer", "random layer"
FEWEST = 20
"""Tasks below which no interval is given: resampling so few makes it too narrow."""
Curves = dict[str, dict[str, np.ndarray]]


def agreement(
    table: pd.DataFrame, shares: pd.DataFrame | None = None, draws: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """One row a cheap score, and one for each thing that knows no model.

    ``correlation`` (Spearman over layers, mean over the ``correlated`` behaviours in which both
    sides vary) with ``low`` and ``high``, ``best_two`` (behaviours whose chosen layer is among the
    sweep's best two that leave text whole and raise the behaviour; all that tie with the second
    count; expected number for a random layer) of ``behaviors`` (those that the sweep raised
    somewhere), ``whole`` (in how many of them the chosen layer leaves text whole) and ``lost``
    (mean over those of the share of the best such layer's effect that the chosen one misses).
    What is not known is ``None``.

    ``shares`` has the columns ``behavior`` and ``layer`` and one for every task: the share under
    the push up minus that under the push down. Intervals need it, see :func:`_with_interval`.
    """
    curves = correlations(table, shares, draws, seed)
    tasks = _tasks(shares)
    sweep = table[table.score == "sweep"]
    layers = sorted(sweep.layer.unique())
    judged = chosen_layers(table, "sweep")
    picks: dict[str, Mapping[str, int] | None] = {
        name: chosen_layers(table, name) for name in CHEAP if name in curves
    }
    picks[NUMBER] = None
    picks[LAST] = dict.fromkeys(judged, layers[-1])
    picks[MIDDLE] = dict.fromkeys(judged, layers[len(layers) // 2])
    rows = []
    for score, chosen in picks.items():
        found = curves.get(score, {})
        row = {"score": score, **_with_interval(_means(list(found.values())), tasks)}
        row["correlated"] = sum(bool(np.isfinite(curve[0])) for curve in found.values())
        if chosen is not None:
            names = [name for name in judged if name in chosen]
            row |= _hits([_verdicts(sweep, name)[chosen[name]] for name in names], len(names))
        rows.append(row)
    every = [_verdicts(sweep, name).values() for name in judged]
    expected = [(np.mean([v[0] for v in vs]), np.mean([v[1] for v in vs])) for vs in every]
    losses = [_known([lost for *_, lost in vs]) for vs in every]
    rows.append(
        {
            "score": CHANCE,
            **_with_interval(np.full(1, np.nan), 0),
            "correlated": 0,
            "best_two": round(float(sum(hit for hit, _ in expected)), 2),
            "behaviors": len(judged),
            "whole": round(float(sum(kept for _, kept in expected)), 2),
            "lost": _number(_known(losses)),
        }
    )
    return rows


def differences(
    table: pd.DataFrame, shares: pd.DataFrame | None = None, draws: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """How much better one score's correlation is than another's, on the same behaviours.

    Every cheap score against the layer number and against the default one. ``difference`` with
    ``low`` and ``high`` (both scores judged by the same draws), and in how many behaviours the
    first is ``higher``, ``lower`` and ``equal``.
    """
    curves = correlations(table, shares, draws, seed)
    tasks, rows = _tasks(shares), []
    for other in (NUMBER, DEFAULT_SCORE):
        for score in [name for name in CHEAP if name in curves and other in curves]:
            if score == other:
                continue
            names = [name for name in curves[score] if name in curves[other]]
            gaps = [curves[score][name] - curves[other][name] for name in names]
            gaps = [gap for gap in gaps if np.isfinite(gap[0])]
            if not gaps:
                continue
            signs = [int(np.sign(round(float(gap[0]), 9))) for gap in gaps]
            found = _with_interval(_means(gaps), tasks, widest=2.0)
            rows.append(
                {
                    "score": score,
                    "other": other,
                    "difference": found["correlation"],
                    "low": found["low"],
                    "high": found["high"],
                    "higher": signs.count(1),
                    "lower": signs.count(-1),
                    "equal": signs.count(0),
                }
            )
    return rows


def correlations(table: pd.DataFrame, shares: pd.DataFrame | None, draws: int, seed: int) -> Curves:
    """Rank correlation with the sweep by score and behaviour, ``[1 + draw]``.

    First as measured, then with the sweep's tasks resampled: the same tasks for every behaviour,
    layer and score, because all are judged by the same tasks. The values of cheap scores come
    from other chains; they are held as they are.
    """
    found: Curves = {}
    weights = None
    if _tasks(shares) >= FEWEST:
        weights = resampled_counts(_tasks(shares), draws, seed) / _tasks(shares)
    for name, part in table[table.score == "sweep"].groupby("behavior", sort=False):
        values = part.value.to_numpy()[None]
        if shares is not None and weights is not None:
            mine = shares[shares.behavior == name].set_index("layer").drop(columns="behavior")
            values = np.concatenate([values, weights @ mine.loc[part.layer].to_numpy().T])
        for score in (*CHEAP, NUMBER):
            curve = part.layer.to_numpy(dtype=float)
            if score != NUMBER:
                cheap = table[(table.score == score) & (table.behavior == name)]
                curve = cheap.set_index("layer").value.reindex(part.layer).to_numpy()
            if np.isfinite(curve).all():
                found.setdefault(score, {})[str(name)] = _spearman(curve[None], values)
    return found


def _tasks(shares: pd.DataFrame | None) -> int:
    """How many tasks there are shares of; 0 where they were not kept."""
    return 0 if shares is None else len(shares.columns) - 2


def _verdicts(sweep: pd.DataFrame, behavior: str) -> dict[int, tuple[bool, bool, float]]:
    """By layer: is it among the best two, does text stay whole, share of the best effect lost.

    The last is NaN where text does not stay whole. Where it does at no layer, all are ranked.
    """
    part = sweep[sweep.behavior == behavior].sort_values(
        ["value", "layer"], ascending=[False, True], kind="stable"
    )
    kept = whole(part)
    ranked = part[kept] if kept.any() else part
    best, second = (float(ranked.value.iloc[min(k, len(ranked) - 1)]) for k in (0, 1))
    return {
        int(row.layer): (
            bool((ok or not kept.any()) and row.value > 0 and row.value >= second),
            bool(ok),
            1 - row.value / best if ok and best > 0 else np.nan,
        )
        for row, ok in zip(part.itertuples(), kept, strict=True)
    }


def _hits(found: list[tuple[bool, bool, float]], behaviors: int) -> dict[str, Any]:
    return {
        "best_two": sum(hit for hit, *_ in found),
        "behaviors": behaviors,
        "whole": sum(kept for _, kept, _ in found),
        "lost": _number(_known([lost for *_, lost in found])),
    }


def _with_interval(means: np.ndarray, tasks: int, widest: float = 1.0) -> dict[str, float | None]:
    """The measured mean, and the interval of what sweeps of as many tasks give on average.

    value +- t * spread over draws. The draws' own quantiles would be no interval: drawn values
    carry the noise of the sweep twice, so that their correlations are lower than the measured one.
    ``None`` for the ends below twenty tasks.
    """
    low = high = np.nan
    drawn = means[1:][np.isfinite(means[1:])]
    if tasks >= FEWEST and len(drawn) > 1 and np.isfinite(means[0]):
        reach = t.ppf(0.975, tasks - 1) * drawn.std() * np.sqrt(tasks / (tasks - 1))
        low, high = max(means[0] - reach, -widest), min(means[0] + reach, widest)
    return {"correlation": _number(means[0]), "low": _number(low), "high": _number(high)}


def _means(curves: list[np.ndarray]) -> np.ndarray:
    """Mean over behaviours in which a correlation is known, ``[1 + draw]``; NaN where in none."""
    if not curves:
        return np.full(1, np.nan)
    values = np.asarray(curves, dtype=float)
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _known(values: list[float]) -> float:
    """Mean of what is known; NaN where nothing is."""
    found = [value for value in values if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")


def _number(value: float) -> float | None:
    """A number as JSON knows it."""
    return float(value) if np.isfinite(value) else None


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of every row; NaN where a side says nothing, all its values being equal."""
    ranks = [rankdata(x, axis=1) for x in (a, b)]
    left, right = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    size = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return np.divide(
        (left * right).sum(axis=1), size, out=np.full(len(size), np.nan), where=size > 0
    )
