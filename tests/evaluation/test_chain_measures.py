"""Chain measures: counted by hand, and by a second way for chains of every shape."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.evaluation.chain_measures import (
    COUNTED,
    FIXED,
    ChainMeasures,
    generation_table,
    typed,
)
from steerkit.evaluation.conditions import Condition
from steerkit.tasks import Task
from steerkit.traces import Span, Trace
from tests.tiny import SENTENCES, tiny_model

TASK = Task("t", "Use 3, 7, 8 to make 29.", "countdown-3")
BASELINE = Condition("baseline", "baseline", 1)
MODEL = tiny_model()


def chain(labels: list[str], end: str = "\n</think>\n3 * 7 + 8 = 29", **more) -> Trace:
    """A chain with one sentence a label; ``unparsed`` is a sentence of another label's words."""
    text, spans = "", []
    for label in labels:
        start = len(text)
        text += SENTENCES.get(label, "7 + 8 = 15.")
        spans.append(Span(start, len(text), label))
        text += " "
    response = text.rstrip() + end
    ids = MODEL.tokenizer(response, add_special_tokens=False)["input_ids"]
    return Trace(
        id="c",
        task_id="t",
        prompt=TASK.prompt,
        category=TASK.category,
        response=response,
        spans=tuple(spans),
        token_ids=tuple(ids),
        metadata={"sample": 2, "seed": 5, **more},
    )


def row_of(trace: Trace) -> dict:
    measures = ChainMeasures(MODEL, [TASK])
    (row,) = measures.rows(BASELINE, [trace], {"by hand": [trace]})
    return row


def test_a_chain_counted_by_hand() -> None:
    labels = ["backtracking", "backtracking", "deduction", "unparsed", "backtracking"]
    row = row_of(chain(labels))
    assert row["sentences"] == 5 and row["parsed"] == pytest.approx(0.8)
    assert (row["spans:backtracking"], row["spans:deduction"], row["spans:unparsed"]) == (3, 1, 1)
    # the first sentence is at risk, and every one that does not follow backtracking
    assert (row["onsets:backtracking"], row["at_risk:backtracking"]) == (2, 3)
    assert (row["onsets:deduction"], row["at_risk:deduction"]) == (1, 4)
    assert row["closed"] and not row["truncated"] and row["correct"] is True
    assert (row["task"], row["sample"], row["seed"]) == ("t", 2, 5)
    assert row["annotator"] == "by hand" and row["condition"] == "baseline"
    # a word is a token in this tokenizer: Wait , this does not work .
    assert row["span_tokens:backtracking"] == 3 * 7
    assert row["tokens"] > row["thinking_tokens"] >= row["span_tokens:backtracking"]


@given(st.lists(st.sampled_from([*SENTENCES, "unparsed"]), max_size=12))
@settings(max_examples=30, deadline=None)
def test_shares_add_up_and_hazards_are_those_of_a_walk(labels: list[str]) -> None:
    row = row_of(chain(labels))
    assert sum(row[f"spans:{label}"] for label in set(labels)) == row["sentences"] == len(labels)
    assert sum(row[f"span_tokens:{label}"] for label in set(labels)) <= row["thinking_tokens"]
    for label in set(labels):
        onsets = at_risk = 0
        previous = None
        for found in labels:
            if previous != label:
                at_risk += 1
                onsets += found == label
            previous = found
        assert (row[f"onsets:{label}"], row[f"at_risk:{label}"]) == (onsets, at_risk)


def test_a_truncated_chain_stays_in_and_is_wrong() -> None:
    row = row_of(chain(["deduction"], end="", truncated=True))
    assert row["truncated"] and not row["closed"] and row["correct"] is False
    assert row["spans:deduction"] == 1 and row["tokens"] == row["thinking_tokens"]


def test_a_prompt_that_asks_for_more_is_judged_by_its_task() -> None:
    from dataclasses import replace

    asked = replace(chain(["deduction"]), prompt=f"{TASK.prompt} Often go back.")
    measures = ChainMeasures(MODEL, [TASK])
    (row,) = measures.rows(BASELINE, [asked], {"a": [asked]})
    assert row["correct"] is True and measures.judged == ["puzzle rules"]


def test_the_table_tells_zero_from_what_an_annotator_cannot_give(tmp_path) -> None:
    trace = chain(["deduction", "unparsed"])
    other = trace.with_spans([Span(0, 12, "backtracking")], "other")
    rows = ChainMeasures(MODEL, [TASK]).rows(
        BASELINE, [trace], {"grammar": [trace], "rules": [other]}
    )
    labels = {"grammar": ["deduction", "backtracking"], "rules": ["backtracking"]}
    table = generation_table(rows, labels)
    grammar, rules = (table[table["annotator"] == name].iloc[0] for name in labels)
    assert grammar["spans:backtracking"] == 0 and grammar["at_risk:backtracking"] == 2
    assert rules["spans:backtracking"] == 1 and pd.isna(rules["spans:deduction"])
    assert rules["spans:unparsed"] == 0 and rules["at_risk:unparsed"] == 1
    counted = [
        f"{what}:{name}" for name in ("deduction", "backtracking", "unparsed") for what in COUNTED
    ]
    assert list(table) == [*FIXED, *counted, "kl", "perplexity", "text"]
    assert table["closed"].dtype == bool and str(table["correct"].dtype) == "boolean"
    assert table["kl"].isna().all()
    pd.testing.assert_frame_equal(typed(table), table)
