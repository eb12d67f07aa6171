"""Causal sweep: chains written with each layer steered, the judge of all cheaper scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.annotation import Annotate, labelled_by, labeller
from steerkit.behaviors import UNPARSED
from steerkit.direction import Direction
from steerkit.models import ThinkingModel
from steerkit.statistics import mean_interval
from steerkit.sweeps import sweep
from steerkit.tasks import Task
from steerkit.traces import Trace

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


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
        Who labels the chains: a name, a file, an annotator or a function (:func:`labeller`). A
        behaviour's share is that of its spans among all spans of the thinking section, those
        that the annotator does not know included.
    options:
        Of :func:`steerkit.generation.generate`.

    Returns
    -------
    One row a behaviour and layer: ``value`` (mean over tasks of the share under +coefficient
    minus that under -coefficient), ``low`` and ``high`` (95 % bootstrap interval over tasks),
    ``up`` and ``down`` (mean shares), ``base`` (unsteered), ``closed`` and ``parsed`` (the
    smaller of both signs: share of chains that close, of spans that the annotator knows) and
    ``tasks``. ``base_closed`` and ``base_parsed`` are those of unsteered chains. A chain without
    any span counts as a share of 0. ``table.attrs["annotator"]`` names who labelled.

    Where text falls apart an annotator may take debris for a behaviour: do not trust a share
    whose ``closed`` or ``parsed`` is far below the unsteered one.
    """
    label = labeller(annotate)
    found = sweep(
        model,
        tasks,
        directions,
        coefficients=(-coefficient, coefficient),
        layers=layers,
        **{"on_interrupt": "raise", **options},
    )
    table = shares_by_layer(found.table, label(found.traces), list(directions), layers, coefficient)
    known = float(table["base_parsed"].iloc[0]) if len(table) else 1.0
    if known < 0.5:
        _log.warning(
            "%s knows %.0f %% of the sentences of unsteered chains: is it the right annotator?",
            table.attrs["annotator"] or "the annotator",
            100 * known,
        )
    return table


def shares_by_layer(
    table: pd.DataFrame,
    labelled: Sequence[Trace],
    names: Sequence[str],
    layers: Sequence[int],
    coefficient: float,
) -> pd.DataFrame:
    """What :func:`causal_sweep` returns, from a sweep's table and its labelled chains."""
    import pandas as pd

    table = table.copy()
    table["parsed"] = [1.0 - _share(trace, UNPARSED) for trace in labelled]
    plain = table[table.behavior.isna()]
    rows = []
    for name in names:
        table["share"] = [_share(trace, name) for trace in labelled]
        mine = table[table.behavior == name]
        base = float(table[table.behavior.isna()]["share"].mean())
        for layer in layers:
            at = mine[mine.layer == layer]
            up, down = _both_signs(at, coefficient)
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
                    "base_closed": float(plain["closed"].mean()),
                    "base_parsed": float(plain["parsed"].mean()),
                    "tasks": len(up),
                }
            )
    result = pd.DataFrame(rows)
    result.attrs["annotator"] = labelled_by(labelled)
    return result


def shares_by_task(
    table: pd.DataFrame,
    labelled: Sequence[Trace],
    names: Sequence[str],
    layers: Sequence[int],
    coefficient: float,
) -> pd.DataFrame:
    """The differences that :func:`shares_by_layer` averages: what joint resampling needs.

    One row a behaviour and layer: ``behavior``, ``layer`` and a column for every task, called by
    its id, the share under +coefficient minus that under -coefficient.
    """
    import pandas as pd

    table, rows = table.copy(), []
    for name in names:
        table["share"] = [_share(trace, name) for trace in labelled]
        for layer in layers:
            at = table[(table.behavior == name) & (table.layer == layer)]
            up, down = _both_signs(at, coefficient)
            rows.append({"behavior": name, "layer": layer, **(up - down).to_dict()})
    return pd.DataFrame(rows)


def _both_signs(at: pd.DataFrame, coefficient: float) -> tuple[pd.Series, pd.Series]:
    """Shares by task of one behaviour at one layer, pushed up and pushed down."""
    shares = at.pivot_table(index="task", columns="coefficient", values="share")
    return shares[coefficient], shares[-coefficient]


def _share(trace: Trace, label: str) -> float:
    """Share of a chain's spans with this label."""
    labels = [span.label for span in trace.spans]
    return labels.count(label) / len(labels) if labels else 0.0
