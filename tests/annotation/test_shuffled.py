"""Shuffled labels: the same chains, spans and counts, and nothing that a sentence says."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import steerkit as sk
from steerkit.errors import TraceError
from steerkit.traces import Span, Trace, Traces
from tests.tiny import SENTENCES, tiny_trace, tiny_traces

LABELS = [*SENTENCES, "unparsed"]


def chain(labels: list[str], name: str = "c") -> Trace:
    spans = tuple(Span(3 * i, 3 * i + 2, label) for i, label in enumerate(labels))
    return Trace(id=name, task_id=name, response="x" * (3 * len(labels)), spans=spans)


@given(st.lists(st.sampled_from(LABELS), max_size=20), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_labels_change_places_and_nothing_else_does(labels: list[str], seed: int) -> None:
    trace = chain(labels)
    (twin,) = sk.shuffle_labels(trace, seed)
    assert Counter(s.label for s in twin.spans) == Counter(labels)
    assert [(s.start, s.end) for s in twin.spans] == [(s.start, s.end) for s in trace.spans]
    assert [s.label == "unparsed" for s in twin.spans] == [label == "unparsed" for label in labels]
    assert replace(twin, spans=trace.spans, annotator=trace.annotator) == trace
    assert sk.shuffle_labels(trace, seed)[0] == twin


def test_every_place_gets_every_label_equally_often() -> None:
    trace = chain(["backtracking", "deduction", "deduction", "initializing", "deduction"])
    drawn = [sk.shuffle_labels(trace, seed)[0] for seed in range(3000)]
    for place in range(5):
        found = Counter(twin.spans[place].label for twin in drawn)
        # expected 600, 1800, 600; four standard deviations are 88 and 107
        assert abs(found["backtracking"] - 600) < 90 and abs(found["deduction"] - 1800) < 110
    kept = sum(
        s.label == t.label for twin in drawn for s, t in zip(twin.spans, trace.spans, strict=True)
    )
    assert kept / 15000 == pytest.approx((1 + 9 + 1) / 25, abs=0.02)


def test_a_shuffle_depends_on_seed_and_chain_alone() -> None:
    traces = tiny_traces(12)
    twins = sk.shuffle_labels(traces, 3)
    assert [t.id for t in twins] == [t.id for t in traces] and twins.counts() == traces.counts()
    assert twins != traces and twins != sk.shuffle_labels(traces, 4)
    backwards = sk.shuffle_labels(list(reversed(traces)), 3)
    assert list(reversed(backwards)) == list(twins)
    # chains of the same labels are not shuffled alike
    labels = ["deduction"] * 6 + ["backtracking"] * 6
    alike = [chain(labels, f"chain {i}") for i in range(5)]
    assert len({tuple(s.label for s in t.spans) for t in sk.shuffle_labels(alike)}) > 1


def test_it_is_written_down_that_labels_were_shuffled(tmp_path) -> None:
    (twin,) = sk.shuffle_labels(tiny_trace(["deduction", "backtracking"]), 7)
    assert twin.annotator == "planted, labels shuffled within chains, seed 7"
    path = sk.write_traces([twin], tmp_path / "t.jsonl")
    assert sk.read_traces(path) == Traces([twin])
    assert json.loads(path.read_text())["annotator"] == twin.annotator
    bare = chain([])
    assert sk.shuffle_labels(bare)[0] == bare


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_trace_is_refused() -> None:
    with pytest.raises(TraceError, match="a path is no traces"):
        sk.shuffle_labels("chains.jsonl")  # type: ignore[arg-type]
