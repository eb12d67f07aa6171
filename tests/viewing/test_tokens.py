"""Underlined are the tokens that collection reads; underneath lie the projections of read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import steerkit as sk
from steerkit.positions import Window
from steerkit.traces import Traces
from steerkit.vectors import SteeringVectors
from tests.test_steering import direction
from tests.tiny import tiny_model, tiny_traces
from tests.viewing.chains import Page

D, OTHER = direction(), direction(2, layer=0, name="deduction")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def traces():
    return tiny_traces(5)


def underlined(view, number=0):
    """Text that is underlined in a chain, and the label in whose colour, piece by piece."""
    part = view.html().split("<article")[number + 1].split("</article>")[0]
    article = Page(f"<article{part}</article>")
    return [(e["data-r"], e.text) for e in article.all("i", cls="r")]


def expected(model, trace, window):
    """The same from the tokenizer's own offsets, counted out by hand."""
    encoded = model.tokenizer(trace.response, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    found = []
    for span in trace.spans:
        own = [n for n, (a, b) in enumerate(offsets) if a < span.end and b > span.start]
        first, last = own[0], own[-1]
        read = [n for n in range(first - window.before, last) if n < first + window.length]
        read = [n for n in read if n >= 0]
        if read:
            text = trace.response[offsets[read[0]][0] : offsets[read[-1]][1]]
            found.append((span.label, text))
    return found


@pytest.mark.parametrize("window", [Window(), Window(0, 3), Window(2, 1), Window(1, 0)])
def test_what_is_underlined_is_what_is_read(model, traces, window) -> None:
    view = sk.show(traces, model=model, window=window)
    for number, trace in enumerate(traces):
        wanted = expected(model, trace, window)
        assert wanted
        # pieces of one window follow each other; joined they are the window's text
        pieces = underlined(view, number)
        for label, text in wanted:
            taken = ""
            while pieces and len(taken) < len(text):
                found, piece = pieces.pop(0)
                assert found == label
                taken += piece
            assert taken == text
        assert not pieces


def test_another_window_underlines_other_tokens(model, traces) -> None:
    views = [sk.show(traces, model=model, window=w) for w in (Window(), Window(0, 3))]
    assert underlined(views[0]) != underlined(views[1])


def test_windows_are_those_that_collection_reads(model, traces) -> None:
    view = sk.show(traces, model=model)
    for chain in view.chains:
        aligned = model.align(chain.trace)
        read = [Window().tokens(first, last) for first, last, _ in aligned.spans]
        (windows,) = chain.reading.windows
        assert [range(w.first, w.last) for w in windows] == [
            range(r.start - aligned.prompt_length, r.stop - aligned.prompt_length) for r in read
        ]
        # the first span's token before is the prompt's last: read, but nothing to underline
        assert windows[0].first == -1


def test_a_tokenizer_alone_tells_the_same(model, traces) -> None:
    bare = Traces(replace(trace, prompt=None) for trace in traces)
    for chains in (traces, bare):
        whole = sk.show(chains, model=model)
        part = sk.show(chains, tokenizer=model.tokenizer)
        for number in range(len(chains)):
            assert underlined(whole, number) == underlined(part, number)
    assert part.read == "the token before it"
    paper = sk.show(traces, tokenizer=model.tokenizer, window=Window(1, 10))
    assert paper.read == "the token before it, then at most 10 of its own, never its last"


def test_vectors_bring_their_own_window(model, traces) -> None:
    vectors = SteeringVectors({"backtracking": D}, {"window": {"before": 0, "length": 2}})
    view = sk.show(traces, model=model, vectors=vectors)
    assert view.read == "at most 2 of its own, never its last"
    same = sk.show(traces, model=model, window=Window(0, 2))
    windows = [chain.reading.windows for chain in view.chains]
    assert windows == [chain.reading.windows for chain in same.chains]
    assert windows != [chain.reading.windows for chain in sk.show(traces, model=model).chains]


def test_projections_are_those_that_read_gives(model, traces) -> None:
    view = sk.show(traces, model=model, vectors=[D, OTHER], unit="one")
    table = model.read(traces, [D, OTHER], unit="one")
    assert [d.name for d in view.directions] == [
        "backtracking at layer 1",
        "deduction at layer 0",
    ]
    for number, name in enumerate(("backtracking", "deduction")):
        rows = table[table["behavior"] == name]
        for chain in view.chains:
            own = rows[rows["trace"] == chain.trace.id]["projection"].to_numpy()
            np.testing.assert_allclose(chain.reading.projections[number], own, rtol=1e-6)
        thinking = rows[rows["phase"] == "think"]["projection"].to_numpy(dtype=float)
        found = view.directions[number]
        assert found.mean == pytest.approx(thinking.mean())
        within = np.abs(thinking - found.mean) <= found.reach
        assert 0.97 <= within.mean() <= 0.99
        assert found.unit == "units of the activations"
    assert view.chains[0].reading.projections[0] != view.chains[0].reading.projections[1]


def test_chains_without_usable_tokens_are_shown_and_named(model, traces) -> None:
    strange = replace(traces[1], token_ids=(10**6,))
    view = sk.show([traces[0], strange], model=model, vectors=D)
    assert view.chains[0].reading is not None and view.chains[1].reading is None
    (note,) = [note for note in view.notes if "not found" in note]
    assert "in 1 chains" in note and traces[1].id in note and "another tokenizer" in note
    assert underlined(view, 1) == []
    assert strange.response[:20] in Page(view.html()).all("p", cls="text")[1].text
    nothing = sk.show([strange], model=model, vectors=D)
    assert nothing.directions == () and nothing.read == ""
    assert any("no chain has tokens" in note for note in nothing.notes)


def test_think_strings_are_the_models(traces) -> None:
    from steerkit.models import ThinkingModel
    from tests.tiny import tiny_hf

    plain = tiny_model()
    own = ThinkingModel(tiny_hf(), plain.tokenizer, name="own", think=("[T]", "[/T]"))
    trace = replace(traces[0], response="So. [/T] 7", spans=())
    assert sk.show(trace, model=own).chains[0].trace.thinking == "So. "
    assert sk.show(trace, model=plain).chains[0].trace.thinking == "So. [/T] 7"


def test_unparsed_text_has_no_tokens_of_its_own(model, traces) -> None:
    trace = traces[0]
    spans = [replace(span, label="unparsed") for span in trace.spans[:1]] + list(trace.spans[1:])
    (chain,) = sk.show(trace.with_spans(spans, "x"), model=model).chains
    assert chain.reading.windows[0][0] is None and chain.reading.windows[0][1] is not None


def test_a_chain_beyond_the_context_is_cut_and_told(model, traces) -> None:
    long = replace(traces[0], id="long", response="3 + 8 = 11. " * 200, spans=())
    view = sk.show([traces[0], long], model=model, vectors=D)
    assert any("chains cut: 1" in note for note in view.notes)
    values = view.chains[1].reading.projections[0]
    assert 0 < len(values) < len(view.chains[1].reading.offsets)
