"""The causal sweep: what is counted is what generation gives, by whoever labels."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import steerkit as sk
from steerkit.annotation import read_rules
from steerkit.annotation.annotator import Annotator
from steerkit.errors import AnnotationError
from steerkit.layer_choice.causal import causal_sweep, shares_by_layer, shares_by_task
from steerkit.statistics import mean_interval
from steerkit.tasks import Task
from steerkit.traces import Span, Traces
from tests.test_steering import direction
from tests.tiny import tiny_model


def by_word(traces: Traces) -> Traces:
    """Every word is a span: of backtracking where its length is even."""
    found = []
    for trace in traces:
        spans, at = [], 0
        for word in trace.response.split(" "):
            if word:
                label = "backtracking" if len(word) % 2 == 0 else "deduction"
                spans.append(Span(at, at + len(word), label))
            at += len(word) + 1
        found.append(trace.with_spans(spans, "by word"))
    return Traces(found)


def test_the_sweep_counts_what_generation_gives() -> None:
    model = tiny_model()
    tasks = [Task(f"t{i}", f"Use 3, 7, {i} to make 29.") for i in range(6)]
    directions = {"backtracking": direction(3)}
    options = {"max_new_tokens": 12, "seed": 5}
    table = causal_sweep(model, tasks, directions, [0, 2], 0.8, by_word, **options)
    assert table.layer.tolist() == [0, 2]

    def shares(coefficient: float, layer: int) -> np.ndarray:
        term = coefficient * directions["backtracking"].at(layer=layer)
        labelled = by_word(model.generate(tasks, steer=term if coefficient else None, **options))
        labels = [[span.label for span in trace.spans] for trace in labelled]
        return np.array([row.count("backtracking") / max(len(row), 1) for row in labels])

    for row in table.itertuples():
        up, down = shares(0.8, row.layer), shares(-0.8, row.layer)
        assert (row.value, row.low, row.high) == pytest.approx(mean_interval(up - down))
        assert (row.up, row.down) == pytest.approx((up.mean(), down.mean()))
        assert row.base == pytest.approx(shares(0.0, 0).mean())
    assert (table["parsed"] == 1.0).all() and (table.tasks == 6).all()
    none = causal_sweep(model, tasks, directions, [0], 1e-9, by_word, **options)
    assert none.value.tolist() == [0.0]  # positive control: nothing pushed, nothing moved


class ByWord:
    """:func:`by_word` as an annotator."""

    name = "by word@1"

    def spans(self, traces, *, keep=False):
        for trace in by_word(Traces(traces)):
            yield list(trace.spans)


@pytest.fixture(scope="module")
def swept():
    """One sweep, to be labelled again and again."""
    model = tiny_model()
    tasks = [Task(f"t{i}", f"Use 3, 7, {i} to make 29.") for i in range(3)]
    options = {"max_new_tokens": 8, "seed": 5}
    return model, tasks, {"backtracking": direction(3)}, options


def test_an_annotator_is_a_name_a_file_an_object_or_a_function(swept) -> None:
    model, tasks, directions, options = swept
    rules = str(sk.data("annotators/rules.toml"))
    assert isinstance(ByWord(), Annotator)
    expected = {
        "grammar": "grammar",
        "rules": read_rules().name,
        rules: read_rules().name,
        ByWord(): "by word@1",
        by_word: "by word",
    }
    tables = {}
    for annotate, name in expected.items():
        table = causal_sweep(model, tasks, directions, [1], 0.8, annotate, **options)
        assert table.attrs["annotator"] == name
        tables[name] = table
    assert tables["by word@1"].value.tolist() == tables["by word"].value.tolist()
    assert tables["by word"].base.iloc[0] > 0 == tables["grammar"].base.iloc[0]
    with pytest.raises(AnnotationError, match="unknown annotator 'oracle'"):
        causal_sweep(model, tasks, directions, [1], 0.8, "oracle", **options)


def test_an_annotator_that_knows_little_is_warned_about(swept, caplog) -> None:
    model, tasks, directions, options = swept
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        causal_sweep(model, tasks, directions, [1], 0.8, by_word, **options)
        assert caplog.text == ""
        causal_sweep(model, tasks, directions, [1], 0.8, "grammar", **options)
    assert "grammar knows 0 % of the sentences" in caplog.text


def test_shares_of_chains_that_are_counted_by_hand() -> None:
    """Two tasks at two layers; what a chain says is made up."""
    import pandas as pd

    rows, chains = [], []
    own = {(None, 0.0): (0, 0), (0, 0.5): (2, 1), (0, -0.5): (0, 1), (1, 0.5): (4, 4)}
    own[1, -0.5] = (0, 0)
    for task in (0, 1):
        for (layer, coefficient), counts in own.items():
            labels = ["backtracking"] * counts[task] + ["unparsed"] * (4 - counts[task])
            text = "abcd"
            spans = [Span(i, i + 1, label) for i, label in enumerate(labels)]
            chains.append(
                sk.Trace(f"{task} {layer} {coefficient}", f"t{task}", text, spans=tuple(spans))
            )
            rows.append(
                {
                    "task": f"t{task}",
                    "behavior": None if layer is None else "backtracking",
                    "layer": layer,
                    "coefficient": coefficient,
                    "closed": layer != 1,
                }
            )
    table = shares_by_layer(pd.DataFrame(rows), chains, ["backtracking"], [0, 1], 0.5)
    first, second = table.to_dict("records")
    assert (first["up"], first["down"], first["base"]) == (0.375, 0.125, 0.0)
    assert first["value"] == pytest.approx(0.25) and second["value"] == 1.0
    assert (first["closed"], second["closed"]) == (1.0, 0.0)
    assert (second["parsed"], first["base_parsed"], first["base_closed"]) == (0.0, 0.0, 1.0)
    assert first["tasks"] == 2
    by_task = shares_by_task(pd.DataFrame(rows), chains, ["backtracking"], [0, 1], 0.5)
    assert by_task.to_dict("records") == [
        {"behavior": "backtracking", "layer": 0, "t0": 0.5, "t1": 0.0},
        {"behavior": "backtracking", "layer": 1, "t0": 1.0, "t1": 1.0},
    ]
