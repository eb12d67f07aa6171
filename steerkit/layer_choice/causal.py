"""Causal sweep: chains written with each layer steered, the judge of all cheaper scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.behaviors import UNPARSED
from steerkit.models import ThinkingModel
from steerkit.statistics import mean_interval
from steerkit.sweeps import sweep
from steerkit.tasks import Task
from steerkit.traces import Trace, Traces
from steerkit.vectors import Direction

if TYPE_CHECKING:
    import pandas as pd

Annotate = Callable[[Traces], Traces]


def causal_sweep(
    model: ThinkingModel,
    tasks: Sequence[Task],
    directions: Mapping[str, Direction],
    layers: Sequence[int],
    coefficient: float,
    annotate: Annotate,
    **options: Any,
) -> pd.DataFrame:
    """How far each layer moves its behaviour when it is pushed up and down.

    Every task is continued with +coefficient and -coefficient of every direction at every
    layer, as rows of one generation under common noise.

    Parameters
    ----------
    tasks:
        Of the *select* set: what is chosen by them must not be judged by them.
    annotate:
        Labels the chains; a behaviour's share is that of its spans among all spans of the
        thinking section, those that the annotator does not know included.
    options:
        Of :func:`steerkit.generation.generate`.

    Returns
    -------
    One row a behaviour and layer: ``value`` (mean over tasks of the share under +coefficient
    minus that under -coefficient), ``low`` and ``high`` (95 % bootstrap interval over tasks),
    ``up`` and ``down`` (mean shares), ``base`` (unsteered), ``closed`` and ``parsed`` (the
    smaller of both signs: share of chains that close, of spans that the annotator knows) and
    ``tasks``. A chain without any span counts as a share of 0.
    """
    import pandas as pd

    found = sweep(
        model,
        tasks,
        directions,
        coefficients=(-coefficient, coefficient),
        layers=layers,
        **{"on_interrupt": "raise", **options},
    )
    table = found.table
    labelled = annotate(found.traces)
    table["parsed"] = [1.0 - _share(trace, UNPARSED) for trace in labelled]
    rows = []
    for name in directions:
        table["share"] = [_share(trace, name) for trace in labelled]
        mine = table[table.behavior == name]
        base = float(table[table.behavior.isna()]["share"].mean())
        for layer in layers:
            at = mine[mine.layer == layer]
            shares = at.pivot_table(index="task", columns="coefficient", values="share")
            up, down = shares[coefficient], shares[-coefficient]
            value = mean_interval(np.asarray(up - down))
            by_sign = at.groupby("coefficient")[["closed", "parsed"]].mean().min()
            rows.append(
                {
                    "behavior": name,
                    "layer": layer,
                    "value": value.value,
                    "low": value.low,
                    "high": value.high,
                    "up": float(up.mean()),
                    "down": float(down.mean()),
                    "base": base,
                    "closed": float(by_sign["closed"]),
                    "parsed": float(by_sign["parsed"]),
                    "tasks": len(shares),
                }
            )
    return pd.DataFrame(rows)


def _share(trace: Trace, label: str) -> float:
    """Share of a chain's spans with this label."""
    labels = [span.label for span in trace.spans]
    return labels.count(label) / len(labels) if labels else 0.0
