"""Annotators behind one interface: found by name or file, held to what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest

import steerkit as sk
from steerkit.annotation import (
    ANNOTATORS,
    Annotator,
    Classifier,
    Grammar,
    Rules,
    find_annotator,
    fit_classifier,
    labelled_by,
    labeller,
    read_classifier,
    read_rules,
)
from steerkit.annotation.annotator import units
from steerkit.errors import AnnotationError, ResourceError
from steerkit.traces import Span, Trace, Traces
from tests.annotation.planted import planted

CHAIN = Trace("a", "t", "<think>Wait, no. That is 4.</think>4", spans=(Span(7, 16, "deduction"),))


class Everything:
    """Labels all of the thinking section as one behaviour."""

    name = "everything@1"

    def spans(self, traces, *, keep=False):
        for trace in traces:
            yield [Span(*trace.thinking_bounds, "backtracking")]


class Lazy(Everything):
    """Leaves the last chain out."""

    name = "lazy"

    def spans(self, traces, *, keep=False):
        yield from list(super().spans(traces))[:-1]


class Eager(Everything):
    """Has one list of spans too many."""

    name = "eager"

    def spans(self, traces, *, keep=False):
        yield from super().spans(traces)
        yield []


def test_units_are_sentences_or_the_spans_that_are_there() -> None:
    texts = [CHAIN.response[start:end] for start, end in units(CHAIN, keep=False)]
    assert texts == ["Wait, no.", "That is 4."]
    assert units(CHAIN, keep=True) == [(7, 16)]


def test_every_annotator_that_comes_with_the_package_is_one() -> None:
    for name in ANNOTATORS:
        found = find_annotator(name)
        assert isinstance(found, Annotator) and found.name.split("@")[0] == name
        assert find_annotator(found) is found
    assert isinstance(find_annotator("grammar"), Grammar)


def test_files_are_told_by_their_ending(tmp_path: Path) -> None:
    rules = sk.data("annotators/rules.toml")
    made = fit_classifier(planted(6))
    saved = made.save(tmp_path / "mine.safetensors")
    for path, kind, name in (
        (rules, Rules, read_rules(rules).name),
        (str(rules), Rules, read_rules(rules).name),
        (saved, Classifier, made.name),
        (str(saved), Classifier, made.name),
    ):
        found = find_annotator(path)
        assert isinstance(found, kind) and found.name == name
        assert sk.annotate(planted(2, seed=3), path)[0].annotator == name
    assert made.name != read_classifier().name
    for missing in ("none.toml", "none.safetensors"):
        with pytest.raises(ResourceError, match="no such"):
            find_annotator(tmp_path / missing)
    for wrong in ("oracle", "mine.json", tmp_path / "mine.bin"):
        with pytest.raises(AnnotationError, match=r"unknown annotator.*grammar.*\.toml"):
            find_annotator(wrong)


def test_anything_with_a_name_and_spans_is_one() -> None:
    (found,) = sk.annotate(CHAIN, Everything())
    assert found.spans == (Span(7, 27, "backtracking"),) and found.annotator == "everything@1"
    assert (found.response, found.id) == (CHAIN.response, CHAIN.id)
    assert CHAIN.spans == (Span(7, 16, "deduction"),)  # the chain itself is left as it is


def test_labelled_chains_of_an_interrupted_generation_say_so() -> None:
    traces = Traces([CHAIN])
    assert not sk.annotate(traces, "rules").interrupted
    traces.interrupted = True
    assert sk.annotate(traces, "rules").interrupted
    assert sk.annotate(traces[:1], Everything()).interrupted


@pytest.mark.usefixtures("unchecked")
def test_what_is_none_is_refused() -> None:
    for wrong in (3, object(), len):
        with pytest.raises(AnnotationError, match=r"this is no annotator.*name and spans"):
            sk.annotate(CHAIN, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("annotator", [Lazy(), Eager()])
def test_one_list_a_chain_or_an_error(annotator) -> None:
    chains = [CHAIN, Trace("b", "u", "<think>So.</think>")]
    if annotator.name == "lazy":
        with pytest.raises(AnnotationError, match=r"'lazy' left chains out.*2 lists.*found 1"):
            sk.annotate(chains, annotator)
    else:  # what is too many belongs to no chain
        assert len(sk.annotate(chains, annotator)) == 2


def test_whatever_labels_becomes_a_function() -> None:
    traces = Traces([CHAIN])
    for by in ("rules", sk.data("annotators/rules.toml"), read_rules()):
        assert labeller(by)(traces) == sk.annotate(traces, "rules")
    mine = labeller(lambda found: Traces(t.with_spans([], "mine") for t in found))
    assert mine(traces)[0].annotator == "mine"
    with pytest.raises(AnnotationError, match="unknown annotator 'oracle'"):
        labeller("oracle")


def test_who_labelled_is_said_by_the_chains() -> None:
    assert labelled_by([]) == labelled_by([CHAIN]) == ""
    assert labelled_by(sk.annotate([CHAIN], Everything())) == "everything@1"
    both = [*sk.annotate([CHAIN], Everything()), *sk.annotate([CHAIN], "grammar")]
    assert labelled_by(both) == "everything@1, grammar"
