"""Controls: directions of shuffled labels are those of extracting from shuffled chains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import steerkit as sk
from steerkit.directions import CONTRASTS
from steerkit.errors import EvaluationError
from steerkit.evaluation.controls import extracted_from, request, requests, shuffled_directions
from steerkit.positions import Window
from steerkit.traces import Span, Traces
from tests.tiny import SENTENCES, tiny_model, tiny_traces

LAYER = 1


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def placed(vectors: sk.SteeringVectors) -> sk.SteeringVectors:
    """The vectors with one layer for all, which few spans would not agree on."""
    made = {name: replace(d, layer=LAYER) for name, d in vectors.items()}
    return sk.SteeringVectors(made, vectors.provenance)


def with_short_spans(traces: Traces) -> Traces:
    """Chains in which some windows are empty, some text is unparsed, and one has no span."""
    found = []
    for number, trace in enumerate(traces):
        spans = list(trace.spans)
        if number % 3 == 0:
            first = spans[0]
            # one token, and so nothing but the token before it: empty under before=0
            spans[0] = Span(first.start, first.start + 1, first.label)
        if number % 4 == 0:
            last = spans[-1]
            spans[-1] = Span(last.start, last.end, "unparsed")
        found.append(replace(trace, spans=() if number == 5 else tuple(spans)))
    return Traces(found)


@pytest.mark.parametrize("contrast", [*CONTRASTS, "backtracking:deduction"])
def test_one_pass_equals_an_extraction_for_every_shuffle(model, contrast: str) -> None:
    traces = with_short_spans(tiny_traces(24, longest=7))
    window = Window(before=0, length=4)
    vectors = placed(sk.extract(model, traces, contrast=contrast, window=window, select=Traces()))
    seeds = (0, 3, 4)
    found = shuffled_directions(model, traces, vectors, seeds=seeds)
    assert found.keys() == vectors.keys()
    for number, seed in enumerate(seeds):
        twin = sk.extract(
            model,
            sk.shuffle_labels(traces, seed),
            contrast=contrast,
            window=window,
            select=Traces(),
            layers=LAYER,
        )
        for name, directions in found.items():
            control = directions[number]
            assert control.layers == (LAYER,) and control.layer == LAYER
            torch.testing.assert_close(
                control.unit_vector(LAYER), twin[name].unit_vector(LAYER), rtol=0, atol=1e-6
            )
            # a coefficient pushes as far as along the behaviour's own direction
            for unit in ("norm", "paper", "raw", "one"):
                torch.testing.assert_close(
                    control.vector(LAYER, unit).norm(), vectors[name].vector(LAYER, unit).norm()
                )
    # the check can fail: another shuffle is another direction, and so is the true one
    name = next(iter(found))
    one, other = found[name][0].unit_vector(LAYER), found[name][1].unit_vector(LAYER)
    assert float(one @ other) < 0.99
    assert float(one @ vectors[name].unit_vector(LAYER)) < 0.99


@pytest.mark.parametrize("method", ["mass-mean", "pca"])
def test_other_methods_are_extracted_anew(model, method: str) -> None:
    traces = tiny_traces(24)
    vectors = placed(sk.extract(model, traces, method=method, select=Traces()))
    found = shuffled_directions(model, traces, vectors.subset(["backtracking"]), seeds=[2])
    twin = sk.extract(model, sk.shuffle_labels(traces, 2), method=method, select=Traces())
    torch.testing.assert_close(
        found["backtracking"][0].unit_vector(LAYER), twin["backtracking"].unit_vector(LAYER)
    )


def test_only_the_chains_that_were_extracted_from_are_read(model) -> None:
    traces = tiny_traces(40)
    vectors = placed(sk.extract(model, traces))  # the tasks of the extract set alone
    used = extracted_from(traces, vectors)
    assert 0 < len(used) < len(traces) and {trace.split for trace in used} == {"extract"}
    found = shuffled_directions(model, traces, vectors, seeds=[0])
    same = shuffled_directions(model, used, vectors, seeds=[0])
    for name in found:
        torch.testing.assert_close(found[name][0].tensor, same[name][0].tensor)
    with pytest.raises(EvaluationError, match="need the chains"):
        shuffled_directions(model, used[1:], vectors, seeds=[0])
    relabelled = [replace(used[0], annotator="someone else"), *used[1:]]
    with pytest.raises(EvaluationError, match="need the chains"):
        shuffled_directions(model, relabelled, vectors, seeds=[0])


def test_a_request_asks_in_the_words_of_the_definition() -> None:
    text = request("backtracking")
    assert "gives up the current approach" in text
    assert text != request("deduction")


def test_a_model_that_lacks_the_words_is_asked_nothing(model) -> None:
    asked, unknown = requests(model, ["backtracking"])
    assert asked == {} and unknown
    assert all(word in request("backtracking") for word in unknown)
    sk.declare(sk.Behavior("testing", "."))
    knows_all = tiny_model()
    knows_all.tokenizer.unk_token = None
    asked, unknown = requests(knows_all, list(SENTENCES))
    assert unknown == [] and asked == {name: request(name) for name in SENTENCES}
