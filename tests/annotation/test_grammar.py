"""The exact annotator: the labels of the grammar, in characters of the response, never a guess."""

from __future__ import annotations

import pytest

from steerkit.annotation import ANNOTATORS, annotate, annotate_grammar
from steerkit.behaviors import UNPARSED
from steerkit.errors import AnnotationError
from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.tasks import generate_tasks
from steerkit.traces import Span, Trace, Traces

THINKING = "I am not sure this will work. Let me try 3 * 7. 3 * 7 = 21. My cat agrees!"
LABELS = ["uncertainty-estimation", "example-testing", "deduction", UNPARSED]


def labelled(trace):
    """Text and label of every span."""
    return [(trace.response[s.start : s.end], s.label) for s in trace.spans]


@pytest.mark.parametrize("opening", ["", "<think>", "\n<think>\n"])
@pytest.mark.parametrize("closing", ["", "</think>Let me try 3 * 7."])
def test_every_sentence_of_the_thinking_section_is_labelled(opening, closing):
    (trace,) = annotate(Trace("a", "t", opening + THINKING + closing, prompt="Let me test 3 * 7."))
    assert " ".join(text for text, _ in labelled(trace)) == THINKING
    assert [label for _, label in labelled(trace)] == LABELS
    assert trace.annotator == "grammar"


def test_labels_are_those_the_chains_were_written_with():
    """The generator knows what it wrote; the annotator reads it back from the text alone."""
    tasks = generate_tasks("train", seed=5, count=150)
    chains = [write_chain(task, "annotator") for task in tasks]
    traces = annotate(Trace(str(i), "t", chain.response) for i, chain in enumerate(chains))
    for trace, chain in zip(traces, chains, strict=True):
        assert labelled(trace) == list(chain.sentences)
    assert set(traces.counts()) == {
        "initializing",
        "deduction",
        "adding-knowledge",
        "example-testing",
        "uncertainty-estimation",
        "backtracking",
    }


def test_one_changed_word_is_unparsed():
    for sentence, other in [
        ("Let me try 3 * 7.", "Let me attempt 3 * 7."),
        ("I am not sure this will work.", "I am sure this will work."),
        ("3 * 7 = 21.", "3 * seven = 21."),
        ("3 * 7 = 21.", "3 * 7 = 21"),
    ]:
        known, unknown = annotate([Trace("a", "t", sentence), Trace("b", "t", other)])
        assert known.spans[0].label != UNPARSED
        assert [s.label for s in unknown.spans] == [UNPARSED], other


def test_spans_that_were_there_are_replaced_and_nothing_else_changes():
    before = Trace("a", "t", THINKING, spans=(Span(0, 40, "backtracking"),), annotator="hand")
    (after,) = annotate(before)
    assert [s.label for s in after.spans] == LABELS
    assert before.spans == (Span(0, 40, "backtracking"),)
    assert after.with_spans(before.spans, "hand") == before
    assert annotate(annotate(before)) == Traces([after])


@pytest.mark.parametrize(
    "response", ["", "<think></think>", "<think>\n \n</think>3", "</think>3 = 3."]
)
def test_an_empty_thinking_section_has_no_spans(response):
    (trace,) = annotate(Trace("a", "t", response))
    assert trace.spans == () and trace.annotator == "grammar"


def test_annotators_are_chosen_by_name():
    trace = Trace("a", "t", THINKING)
    assert annotate(trace) == annotate([trace], "grammar") == annotate_grammar([trace])
    assert "grammar" in ANNOTATORS and annotate([]) == Traces()
    with pytest.raises(AnnotationError, match="unknown annotator 'oracle'") as error:
        annotate(trace, "oracle")
    assert "grammar" in str(error.value)
