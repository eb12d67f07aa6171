"""Shares, transitions and positions are those of a count by hand, and of the planted chain."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import steerkit as sk
from steerkit.chain_statistics import END, START, describe_chains
from steerkit.errors import TraceError
from steerkit.statistics import ratio_interval, share_interval
from steerkit.traces import Span, Trace, Traces
from tests.tiny import tiny_traces

D, B, U = "deduction", "backtracking", "uncertainty-estimation"
NEXT = {
    START: {D: 1.0},
    D: {D: 0.5, U: 0.3, END: 0.2},
    U: {B: 0.8, D: 0.2},
    B: {D: 0.9, B: 0.1},
}
"""What follows what, and how often; a chain that doubts nearly always goes back."""


def chain(labels, number, **fields):
    """Ten letters a span, one space between two."""
    text, spans = "", []
    for label in labels:
        spans.append(Span(len(text), len(text) + 10, label))
        text += "x" * 10 + " "
    fields = {"prompt": f"task {number}", **fields}
    return Trace(
        f"c{number}", f"t{number}", f"{text.rstrip()}</think>7", spans=tuple(spans), **fields
    )


def markov(count, seed=0):
    draw = np.random.default_rng(seed)
    traces = []
    for number in range(count):
        labels, state = [], START
        while True:
            names, weights = zip(*NEXT[state].items(), strict=True)
            state = str(draw.choice(names, p=weights))
            if state == END:
                break
            labels.append(state)
        traces.append(chain(labels, number))
    return Traces(traces)


def row(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


# -- against a count by hand


@pytest.fixture(scope="module")
def traces():
    return tiny_traces(30)


@pytest.fixture(scope="module")
def found(traces):
    return describe_chains(traces)


def test_shares_of_spans_text_and_chains(traces, found) -> None:
    spans = [s.label for t in traces for s in t.spans]
    letters = Counter()
    for t in traces:
        for s in t.spans:
            letters[s.label] += len("".join(t.response[s.start : s.end].split()))
    whole = sum(len("".join(t.thinking.split())) for t in traces)
    for label in set(spans):
        by_span = row(found.shares, behavior=label, unit="spans")
        assert (by_span["count"], by_span["total"]) == (spans.count(label), len(spans))
        assert by_span["share"] == pytest.approx(spans.count(label) / len(spans))
        by_text = row(found.shares, behavior=label, unit="characters")
        assert (by_text["count"], by_text["total"]) == (letters[label], whole)
        having = sum(any(s.label == label for s in t.spans) for t in traces)
        by_chain = row(found.shares, behavior=label, unit="chains")
        assert tuple(by_chain[["share", "low", "high"]]) == share_interval(having, len(traces))
    nothing = row(found.shares, behavior="unparsed", unit="spans")
    assert nothing["count"] == 0 and nothing["total"] == len(spans)
    assert found.shares.query("unit == 'spans'")["share"].sum() == pytest.approx(1)


def test_intervals_are_over_tasks_with_all_their_chains(traces) -> None:
    double = Traces([*traces, *(replace(t, id=f"{t.id}+") for t in traces)])
    once, twice = describe_chains(traces), describe_chains(double)
    for table in ("shares", "positions"):
        rows = (
            getattr(once, table).query("unit == 'spans'") if table == "shares" else once.positions
        )
        same = (
            getattr(twice, table).query("unit == 'spans'") if table == "shares" else twice.positions
        )
        # another chain of the same task is no new evidence
        np.testing.assert_allclose(same["low"], rows["low"])
        np.testing.assert_allclose(same["high"], rows["high"])
    tops = [sum(s.label == D for s in t.spans) for t in traces]
    expected = ratio_interval(tops, [len(t.spans) for t in traces], resamples=2_000)
    assert tuple(row(once.shares, behavior=D, unit="spans")[["share", "low", "high"]]) == expected
    # tasks of their own would be: the check can fail
    apart = Traces([*traces, *(replace(t, id=f"{t.id}+", prompt=f"{t.id} other") for t in traces)])
    wide, narrow = (
        row(s.shares, behavior=D, unit="spans") for s in (twice, describe_chains(apart))
    )
    assert narrow["high"] - narrow["low"] < 0.85 * (wide["high"] - wide["low"])


def test_transitions_are_counted_pair_by_pair(traces, found) -> None:
    pairs = Counter()
    for t in traces:
        labels = [START, *(s.label for s in t.spans), END]
        for a, b in pairwise(labels):
            pairs[a, b] += 1
    for _, r in found.transitions.iterrows():
        left = sum(n for (a, _), n in pairs.items() if a == r["first"])
        assert r["count"] == pairs[r["first"], r["second"]]
        assert r["share"] == pytest.approx(pairs[r["first"], r["second"]] / left)
        into = sum(n for (_, b), n in pairs.items() if b == r["second"])
        assert r["expected"] == pytest.approx(into / sum(pairs.values()))
        assert r["low"] <= r["share"] <= r["high"]
    assert found.transitions["count"].sum() == sum(pairs.values())
    np.testing.assert_allclose(found.matrix().sum(axis=1), 1)


def test_positions_are_beginnings_relative_to_the_thinking(traces, found) -> None:
    for label in {s.label for t in traces for s in t.spans}:
        places = [
            s.start / len(t.thinking.strip()) for t in traces for s in t.spans if s.label == label
        ]
        r = row(found.positions, behavior=label)
        assert r["count"] == len(places)
        assert r["mean"] == pytest.approx(np.mean(places))
        assert tuple(r[["lower_quartile", "median", "upper_quartile"]]) == pytest.approx(
            tuple(np.quantile(places, [0.25, 0.5, 0.75]))
        )


# -- planted


def test_a_planted_chain_of_labels_is_recovered() -> None:
    found = describe_chains(markov(600))
    for first, after in NEXT.items():
        for second, share in after.items():
            r = row(found.transitions, first=first, second=second)
            assert r["share"] == pytest.approx(share, abs=0.05)
            assert r["low"] - 0.02 <= share <= r["high"] + 0.02
    doubted = row(found.transitions, first=U, second=B)
    assert doubted["low"] > 2 * doubted["expected"], "backtracking follows doubt"


def test_shuffled_labels_follow_each_other_as_they_come() -> None:
    """The control: the same labels in no order, and nothing follows anything."""
    found = describe_chains(sk.shuffle_labels(markov(600)))
    r = row(found.transitions, first=U, second=B)
    assert r["share"] < 0.5 and r["low"] < 1.5 * r["expected"]


# -- what is left out is counted


def test_chains_cut_off_have_neither_end_nor_positions() -> None:
    whole = [chain([D, B], n) for n in range(3)]
    cut = chain([D, D, U], 3, metadata={"truncated": True})
    found = describe_chains([*whole, cut])
    assert row(found.transitions, first=B, second=END)["share"] == 1
    assert (
        row(found.transitions, first=U, second=END)["count"] == 0
        if U in set(found.transitions["first"])
        else True
    )
    assert row(found.transitions, first=D, second=U)["count"] == 1
    assert row(found.positions, behavior=U)["count"] == 0
    assert math.isnan(row(found.positions, behavior=U)["mean"])
    assert found.counts.iloc[0]["truncated"] == 1


def test_spans_outside_gaps_and_chains_without_labels_are_counted() -> None:
    text = "<think>one. two. three.</think>four."
    spans = (Span(7, 11, D), Span(17, 23, B), Span(31, 36, D))
    traces = [
        Trace("a", "a", text, prompt="a", spans=spans, model="m", annotator="x"),
        Trace("b", "b", text, prompt="b"),
    ]
    found = describe_chains(traces)
    facts = found.counts.iloc[0]
    assert (facts["spans"], facts["outside"], facts["gaps"]) == (2, 1, 1)
    assert (facts["chains"], facts["tasks"], facts["unlabelled"]) == (2, 2, 1)
    assert (facts["models"], facts["annotators"]) == ("m, unknown", "x, unknown")
    by_text = row(found.shares, behavior=D, unit="characters")
    assert (by_text["count"], by_text["total"]) == (4, 28), "text in no span is text too"
    assert row(found.positions, behavior=B)["mean"] == pytest.approx(10 / 16)


def test_unparsed_text_is_in_every_denominator() -> None:
    found = describe_chains([chain([D, "unparsed", B, "unparsed"], n) for n in range(4)])
    assert row(found.shares, behavior=D, unit="spans")["share"] == 0.25
    assert row(found.transitions, first="unparsed", second=B)["share"] == 0.5


def test_one_task_has_values_and_no_intervals() -> None:
    found = describe_chains([chain([D, B], 0)])
    r = row(found.shares, behavior=D, unit="spans")
    assert r["share"] == 0.5 and math.isnan(r["low"]) and math.isnan(r["high"])


# -- groups


def test_groups_stand_side_by_side_as_each_alone(traces) -> None:
    both = describe_chains({"tiny": traces, "planted": markov(40)})
    assert both.groups == ["tiny", "planted"]
    alone = describe_chains({"planted": markov(40)})
    for table in ("shares", "positions"):
        beside = getattr(both, table).query("group == 'planted' and count > 0")
        same = getattr(alone, table).query("count > 0")
        assert beside.to_dict("records") == same.to_dict("records")
    for first, second in ((D, D), (U, B), (START, D)):
        a, b = (s.matrix("planted").loc[first, second] for s in (both, alone))
        assert a == b
    # behaviours that a group lacks have a share of nothing there
    assert row(both.shares, group="planted", behavior="initializing", unit="spans")["share"] == 0
    with pytest.raises(TraceError, match="no group None"):
        both.matrix()


def test_json_is_json(found) -> None:
    printed = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(printed) == ["counts", "shares", "transitions", "positions"]
    assert len(printed["shares"]) == len(found.shares)
    assert "<table" in found._repr_html_()


@pytest.mark.parametrize(
    ("traces", "words"),
    [
        ({}, "no chain to describe"),
        ([], "no chain to describe"),
        ([Trace("a", "a", "no labels")], "no labelled span"),
        ({"good": [chain([D], 0)], "bad": [Trace("a", "a", "no labels")]}, "bad: no labelled"),
    ],
)
def test_chains_without_labels_are_refused(traces, words) -> None:
    with pytest.raises(TraceError, match=words):
        describe_chains(traces)
