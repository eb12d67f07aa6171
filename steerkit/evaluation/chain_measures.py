"""Chain measures: the row that one labelled chain becomes in the table of generations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.answers import judge
from steerkit.behaviors import UNPARSED, behaviors
from steerkit.evaluation.conditions import Condition
from steerkit.models import ThinkingModel
from steerkit.positions import span_tokens
from steerkit.repetition import longest_loop, repeated_sentences, zlib_ratio
from steerkit.tasks import Task
from steerkit.traces import Trace

if TYPE_CHECKING:
    import pandas as pd

COUNTED = ("spans", "span_tokens", "onsets", "at_risk")
"""Columns that every label has: ``spans:backtracking`` and so on."""
_CONDITION = ("condition", "kind", "behavior", "control", "layer", "coefficient", "headline")
_CHAIN = ("task", "category", "sample", "seed", "trace", "annotator")
_OUTCOME = ("closed", "truncated", "correct", "tokens", "thinking_tokens", "sentences", "parsed")
_TEXT = ("zlib", "repeated", "loop")
FIXED = (*_CONDITION, *_CHAIN, *_OUTCOME, *_TEXT)
"""Columns before those of the labels; ``kl``, ``perplexity`` and ``text`` stand after them."""


class ChainMeasures:
    """What is counted in chains of one model, chain by chain.

    Parameters
    ----------
    model:
        Whose tokens are counted.
    tasks:
        What the chains answer, by id: a chain whose prompt asks for something besides is
        judged by its task.

    Attributes
    ----------
    judged:
        Who judged the answer of each chain so far (:func:`steerkit.answers.judge`), or
        ``nobody``.
    """

    def __init__(self, model: ThinkingModel, tasks: Iterable[Task]) -> None:
        self._model = model
        self._tasks = {task.id: task for task in tasks}
        self.judged: list[str] = []

    def rows(
        self, condition: Condition, traces: Sequence[Trace], labelled: Mapping[str, Sequence[Trace]]
    ) -> list[dict[str, Any]]:
        """One row a chain and annotator.

        Parameters
        ----------
        traces:
            Chains of the condition.
        labelled:
            The same chains in the same order as each annotator labels them, by its name.

        Returns
        -------
        Rows with the columns :data:`FIXED`; ``spans:L`` (spans of label L), ``span_tokens:L``
        (tokens of thinking in them), ``onsets:L`` (sentences that are L and follow one that is
        not) and ``at_risk:L`` (sentences that follow one that is not L, the first among them),
        so that the hazard of L is the sum of its onsets over the sum at risk; and the response
        as ``text``. Shares and counts are of the thinking section, ``unparsed`` included.
        """
        own = condition.columns()
        found = []
        for number, trace in enumerate(traces):
            text = self._of_text(trace)
            offsets = text.pop("offsets")
            for name, chains in labelled.items():
                labels = _of_labels(chains[number], offsets)
                found.append({**own, **text, "annotator": name, **labels})
        return found

    def _of_text(self, trace: Trace) -> dict[str, Any]:
        """What no annotator has a say in."""
        task = self._tasks[trace.task_id]
        aligned = self._model.align(replace(trace, spans=()))
        ids = trace.token_ids or ()
        judgement = judge(replace(trace, prompt=task.prompt), task)
        self.judged.append(judgement.by or "nobody")
        return {
            "task": trace.task_id,
            "category": trace.category,
            "sample": trace.metadata["sample"],
            "seed": trace.metadata["seed"],
            "trace": trace.id,
            "closed": trace.closed,
            "truncated": trace.truncated,
            "correct": judgement.correct,
            "tokens": len(ids),
            "thinking_tokens": aligned.thinking[1] - aligned.thinking[0],
            "zlib": zlib_ratio(trace.response),
            "repeated": repeated_sentences(trace.response),
            "loop": longest_loop(ids),
            "text": trace.response,
            "offsets": aligned.offsets,
        }


def _of_labels(trace: Trace, offsets: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Counts of one annotator's labels."""
    labels = [span.label for span in trace.spans]
    ranges = span_tokens([(s.start, s.end) for s in trace.spans], offsets, trace.response)
    lengths = np.array([end - start for start, end in ranges], dtype=np.int64)
    row: dict[str, Any] = {
        "sentences": len(labels),
        "parsed": 1 - labels.count(UNPARSED) / len(labels) if labels else float("nan"),
    }
    for label in dict.fromkeys(labels):
        own = np.array([name == label for name in labels])
        before = np.concatenate([[False], own[:-1]])
        row[f"spans:{label}"] = int(own.sum())
        row[f"span_tokens:{label}"] = int(lengths[own].sum())
        row[f"onsets:{label}"] = int((own & ~before).sum())
        row[f"at_risk:{label}"] = int((~before).sum())
    return row


def generation_table(
    rows: Sequence[dict[str, Any]], labels: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Rows of :meth:`ChainMeasures.rows` as the table of generations.

    Parameters
    ----------
    labels:
        The labels that each annotator can give, by its name; ``unparsed`` is added. Their
        counts are 0 where a chain has none, and those of labels that it cannot give missing.

    A label that does not occur in a chain has every sentence of it at risk.
    """
    import pandas as pd

    table = pd.DataFrame(rows)
    known = [b.name for b in behaviors()]
    names = [*(n for n in known if any(n in given for given in labels.values())), UNPARSED]
    counted = [f"{what}:{name}" for name in names for what in COUNTED]
    table = table.reindex(columns=[*FIXED, *counted, "kl", "perplexity", "text"])
    for annotator, given in labels.items():
        mine = table["annotator"] == annotator
        for name in (*given, UNPARSED):
            absent = mine & table[f"spans:{name}"].isna()
            for what in ("spans", "span_tokens", "onsets"):
                table.loc[absent, f"{what}:{name}"] = 0
            table.loc[absent, f"at_risk:{name}"] = table.loc[absent, "sentences"]
    return typed(table)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table of generations with the types that its columns have, as after reading a file."""
    types: dict[str, Any] = dict.fromkeys(("control", "layer"), "Int64")
    types |= dict.fromkeys(("sample", "seed", "tokens", "thinking_tokens", "sentences"), "int64")
    types |= {"loop": "int64", "correct": "boolean", "coefficient": "float64"}
    types |= dict.fromkeys(("closed", "truncated", "headline"), "bool")
    types |= {
        name: "Int64" for name in table.columns if name.partition(":")[0] in COUNTED and ":" in name
    }
    types |= dict.fromkeys(("parsed", "zlib", "repeated", "kl", "perplexity"), "float64")
    made = table.astype({name: kind for name, kind in types.items() if name in table})
    # text with gaps has another type in every version of pandas
    made["behavior"] = made["behavior"].astype(object).where(made["behavior"].notna(), None)
    return made
