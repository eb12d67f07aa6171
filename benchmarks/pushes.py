"""Pushes: chains under several directions at both signs, counted by the exact grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

import steerkit as sk
from steerkit.answers import correct
from steerkit.behaviors import UNPARSED
from steerkit.statistics import resampled_counts

RESAMPLES = 2000
BATCH = 480


def pushed(
    model: sk.ThinkingModel, terms: Mapping[str, sk.Term], tasks: Sequence[sk.Task], tokens: int
) -> pd.DataFrame:
    """One row a behaviour, sign and task: each term and its opposite, all with the same noise.

    ``own`` counts the sentences of the term's behaviour, ``unparsed`` those that the grammar does
    not know.
    """
    keys = [(name, sign) for name in terms for sign in (-1, 1)]
    steer = [sign * terms[name] for name, sign in keys for _ in tasks]
    traces = sk.annotate(_written(model, list(tasks) * len(keys), steer, tokens))
    places = [key for key in keys for _ in tasks]
    return pd.DataFrame([_counts(t, *key) for t, key in zip(traces, places, strict=True)])


def unpushed(
    model: sk.ThinkingModel, names: Sequence[str], tasks: Sequence[sk.Task], tokens: int
) -> pd.DataFrame:
    """The same of unsteered chains, ``sign`` 0: a row a behaviour and task."""
    plain = sk.annotate(_written(model, list(tasks), None, tokens))
    return pd.DataFrame([_counts(trace, name, 0) for name in names for trace in plain])


def _written(
    model: sk.ThinkingModel, tasks: list[sk.Task], steer: list[sk.Term] | None, tokens: int
) -> sk.Traces:
    return model.generate(
        tasks, steer=steer, max_new_tokens=tokens, batch_size=BATCH, on_interrupt="raise"
    )


def _counts(trace: sk.Trace, name: str, sign: int) -> dict[str, object]:
    labels = [span.label for span in trace.spans]
    return {
        "behavior": name,
        "sign": sign,
        "task": trace.task_id,
        "own": labels.count(name),
        "sentences": len(labels),
        "unparsed": labels.count(UNPARSED),
        "closed": trace.closed,
        "correct": bool(correct(trace)),
        "tokens": len(trace.token_ids or ()),
    }


def task_weights(tasks: int) -> np.ndarray:
    """``[1 + resample, task]``: how often every task counts; first each once, then resampled."""
    return np.vstack([np.ones(tasks), resampled_counts(tasks, RESAMPLES, 0)])


def drawn_rate(
    part: pd.DataFrame, tasks: Sequence[str], weights: np.ndarray, top: str, bottom: str = ""
) -> np.ndarray:
    """Sums of ``top`` over those of ``bottom`` (or over rows) in every resample of the tasks."""
    columns = [top, bottom] if bottom else [top]
    sums = part[columns].astype(float).groupby(part.task).sum().loc[list(tasks)]
    below = sums[bottom] if bottom else part.groupby("task").size().loc[list(tasks)]
    return (weights @ sums[top].to_numpy()) / np.maximum(weights @ below.to_numpy(dtype=float), 1)
