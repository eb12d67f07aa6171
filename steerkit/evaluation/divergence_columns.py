"""Divergence columns: ``kl`` and ``perplexity`` of the chains that claims rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.evaluation.chain_writing import Chains
from steerkit.evaluation.divergence import kl_on_unsteered, perplexity
from steerkit.evaluation.record import write_csv
from steerkit.models import ThinkingModel

if TYPE_CHECKING:
    import pandas as pd

DIVERGENCE = "divergence.csv"
_COLUMNS = ("condition", "mark", "trace", "kl", "perplexity")


def with_divergence(
    table: pd.DataFrame,
    model: ThinkingModel,
    chains: Chains,
    marks: Mapping[str, str],
    folder: Path,
    tell: Callable[[str], None],
) -> pd.DataFrame:
    """The table of generations with ``kl`` and ``perplexity`` where claims are tested.

    Of the baseline and the steered conditions at headline coefficients. ``kl`` is that on the
    unsteered chain of the same task and sample
    (:func:`steerkit.evaluation.divergence.kl_on_unsteered`): it stands in the row of the
    steered chain and says nothing of its text. ``perplexity`` is that of the chain's own text
    under the unsteered model. Both take forward passes over chains that are written; what is
    known is kept in ``divergence.csv`` and not computed again.
    """
    import pandas as pd

    path = folder / DIVERGENCE
    known = pd.DataFrame(columns=_COLUMNS)
    if path.is_file():
        known = pd.read_csv(path, dtype={"mark": str, "trace": str, "condition": str})
    # a baseline of other tasks or settings makes another divergence
    base_mark = marks["baseline"]
    parts = []
    tested = [c for c in chains.conditions if c.kind in ("baseline", "steered")]
    for condition in (c for c in tested if c.kind == "baseline" or c.headline):
        mark = f"{base_mark} {marks[condition.id]}"
        traces = [trace for trace in chains.stored(condition) if trace is not None]
        there = known[(known["condition"] == condition.id) & (known["mark"] == mark)]
        missing = [t for t in traces if t.id not in set(there["trace"])]
        if missing:
            tell(f"how far {condition.id} is from the unsteered model")
            found = perplexity(model, missing)
            made = pd.DataFrame(
                {"trace": [t.id for t in missing], "perplexity": found["perplexity"].to_numpy()}
            )
            made.insert(0, "mark", mark)
            made.insert(0, "condition", condition.id)
            made["kl"] = float("nan")
            if condition.term is not None:
                plain = {
                    (t.task_id, t.metadata["sample"]): t
                    for t in chains.stored(tested[0])
                    if t is not None
                }
                pairs = [plain[t.task_id, t.metadata["sample"]] for t in missing]
                made["kl"] = kl_on_unsteered(model, pairs, condition.term)["kl"].to_numpy()
            there = pd.concat([part for part in (there, made) if len(part)], ignore_index=True)
        parts.append(there)
    every = pd.concat(parts, ignore_index=True)
    write_csv(every[list(_COLUMNS)], path)
    key = pd.MultiIndex.from_frame(table[["condition", "trace"]])
    values = every.set_index(["condition", "trace"])
    for column in ("kl", "perplexity"):
        table[column] = values[column].astype(float).reindex(key).to_numpy()
    return table
