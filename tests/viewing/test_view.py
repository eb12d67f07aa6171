"""A view holds every chain once, says what it lacks, and finds where annotators differ."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import steerkit as sk
from steerkit.behaviors import UNPARSED
from steerkit.errors import AnnotationError, BehaviorError, TraceError
from steerkit.traces import Span, Trace, Traces
from steerkit.viewing import ViewedChain
from tests.viewing.chains import ONE, OTHER, PLAIN

NAMES = ("deduction", "backtracking", UNPARSED, None)


def test_chains_are_those_of_the_first_and_what_is_missing_is_told() -> None:
    view = sk.show(ONE, OTHER)
    assert [chain.trace.id for chain in view.chains] == ["a", "<b>", "c"]
    assert view.annotators == ("first", "second")
    assert view.chains[0].columns == (ONE[0].spans, OTHER[0].spans)
    assert view.chains[1].columns == (ONE[1].spans, None)
    assert view.counts == {
        "initializing": (1, 1),
        "deduction": (3, 1),
        "uncertainty-estimation": (1, 0),
        "backtracking": (2, 1),
        UNPARSED: (0, 1),
    }
    assert "Annotation 2 lacks 2 of the chains shown and has 1 others" in view.notes[0]
    assert "takes a tokenizer" in view.notes[1] and view.read == ""
    assert repr(view) == "ChainView(3 chains, 2 annotators, 11 spans)"


def test_one_trace_is_enough_and_names_can_be_given() -> None:
    view = sk.show(ONE[0], labels="uncertainty", names=["me"])
    assert (len(view.chains), view.annotators) == (1, ("me",))
    assert view.labels == ("uncertainty-estimation",)
    assert sk.show(ONE, ONE).annotators == ("1: first", "2: first")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: sk.show([]), TraceError, "no chain to show"),
        (lambda: sk.show(ONE, OTHER[1]), AnnotationError, "no chain in common"),
        (
            lambda: sk.show(ONE, Trace("a", "a", "another text")),
            AnnotationError,
            "chain 'a' is another text",
        ),
        (lambda: sk.show(ONE, names=["a", "b"]), TraceError, "names do not fit"),
        (lambda: sk.show(ONE, labels="reflection"), BehaviorError, "unknown behaviour"),
        (lambda: sk.show(ONE, vectors=object()), TraceError, "need the model"),
        (lambda: sk.show("chains.jsonl"), TraceError, "a path is no traces"),
    ],
)
def test_what_cannot_be_shown_is_one_error(unchecked, call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()


def test_where_annotators_differ() -> None:
    (first, second, third) = sk.show(ONE, OTHER).chains
    found = [PLAIN[start:end] for start, end in first.differences()]
    # the space between two sentences is no place of its own
    assert found == ["Maybe not.", "21 + 8 = 29."]
    assert second.differences() == [] and third.differences() == []


@st.composite
def labelled(draw):
    text = draw(st.text(alphabet="ab .", min_size=1, max_size=25))
    columns = []
    for _ in range(draw(st.integers(1, 3))):
        by_character = draw(
            st.lists(st.sampled_from(NAMES), min_size=len(text), max_size=len(text))
        )
        spans = []
        for place, label in enumerate(by_character):
            if label is None:
                continue
            if spans and spans[-1].end == place and spans[-1].label == label:
                spans[-1] = Span(spans[-1].start, place + 1, label)
            else:
                spans.append(Span(place, place + 1, label))
        columns.append(tuple(spans))
    return ViewedChain(Trace("x", "x", text), tuple(columns))


@settings(max_examples=200, deadline=None)
@given(labelled())
def test_differences_are_those_of_a_count_by_character(chain) -> None:
    text = chain.trace.response

    def labels(place):
        return {
            next((s.label for s in spans if s.start <= place < s.end), UNPARSED)
            for spans in chain.columns
        }

    differing = {i for i, c in enumerate(text) if c.isalnum() and len(labels(i)) > 1}
    found = chain.differences()
    within = {i for start, end in found for i in range(start, end)}
    assert {i for i in within if text[i].isalnum()} == differing
    assert all(a[1] <= b[0] for a, b in pairwise(found))


def test_a_page_is_written_whole_and_the_same_again(tmp_path) -> None:
    path = sk.show(ONE, OTHER).save(tmp_path / "out" / "page.html")
    assert path.read_bytes() == sk.show(ONE, OTHER).save(tmp_path / "again.html").read_bytes()
    assert path.read_bytes() != sk.show(Traces(ONE[:2])).save(tmp_path / "b.html").read_bytes()


def test_a_notebook_shows_the_page_in_a_frame_of_its_own() -> None:
    from tests.viewing.chains import Page

    view = sk.show(ONE)
    shown = Page(view._repr_html_())
    assert [element.tag for element in shown.elements] == ["iframe"]
    assert shown.elements[0]["sandbox"] == "allow-scripts"
    assert shown.elements[0]["srcdoc"] == view.html()
