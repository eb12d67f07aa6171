"""Windows, the ownership of tokens, phases and places: each against its definition."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import SteerkitError
from steerkit.positions import (
    ANSWER,
    PROMPT,
    THINK,
    Window,
    WindowError,
    phases,
    span_tokens,
)

# -- Window


@given(st.integers(0, 4), st.integers(0, 12), st.integers(0, 20), st.integers(0, 20))
def test_a_window_reads_the_tokens_of_its_definition(before, length, start, extra):
    if before + length == 0:
        length = 1
    end = start + extra
    read = [i for i in range(60) if max(start - before, 0) <= i < min(start + length, end - 1)]
    assert list(Window(before, length).tokens(start, end)) == read


def test_the_default_is_the_papers():
    assert Window() == Window(before=1, length=0)
    assert [list(Window().tokens(*span)) for span in ((5, 40), (5, 6))] == [[4], [4]]
    paper = Window(1, 10)
    assert list(paper.tokens(5, 40)) == list(range(4, 15))  # at most 11 tokens
    assert list(paper.tokens(5, 8)) == [4, 5, 6]  # never its last
    assert list(paper.tokens(5, 6)) == [4]  # one token: only the one before it
    assert list(paper.tokens(0, 1)) == list(Window().tokens(0, 1)) == []  # nothing before


@pytest.mark.parametrize(("before", "length"), [(-1, 10), (1, -1), (0, 0)])
def test_a_window_that_reads_nothing_is_refused(before, length):
    with pytest.raises(WindowError) as error:
        Window(before, length)
    assert f"before={before}, length={length}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "window"), [("1,10", (1, 10)), (" 0 , 3 ", (0, 3)), ("2,0", (2, 0))]
)
def test_a_window_is_read_from_text(text, window):
    assert Window.parse(text) == Window(*window)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,10", "1.5,2", "²,1", "1,", "0,0"])
def test_text_that_is_no_window_is_refused(text):
    with pytest.raises(WindowError) as error:
        Window.parse(text)
    assert isinstance(error.value, SteerkitError) and error.value.expected is not None


# -- ownership of tokens


def owners(spans, offsets, text):
    """Of every token, the spans it may belong to, by the words of the definition.

    One span where the definition decides, several where it does not (a token over two
    spans whose first non-space character is in neither), none for a token outside.
    """
    result = []
    for left, right in offsets:
        touched = [
            n for n, (a, b) in enumerate(spans) if set(range(a, b)) & set(range(left, right))
        ]
        if len(touched) > 1:
            first = next((i for i in range(left, right) if not text[i].isspace()), None)
            holding = [
                n for n in touched if first is not None and spans[n][0] <= first < spans[n][1]
            ]
            touched = holding or touched
        result.append(touched)
    return result


@st.composite
def tokenized(draw):
    """A text, its tokens (some empty, left out, or sharing a character), and disjoint spans."""
    text = draw(st.text(alphabet="ab \n.é", max_size=24))
    offsets, at = [], 0
    while at < len(text):
        step = draw(st.integers(1, 5))
        right = min(at + step, len(text))
        kind = draw(st.sampled_from(["token"] * 8 + ["gap", "bytes", "empty"]))
        if kind in ("token", "bytes"):
            offsets.append((at, right))
        if kind == "bytes":  # the bytes of the last character are spread over two tokens
            offsets.append((right - 1, right))
        if kind == "empty":
            offsets.extend([(at, at), (at, right)])
        at = right
    borders = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = [pair for pair in pairwise(borders) if draw(st.integers(0, 3))]
    return text, offsets, spans


@given(tokenized())
def test_tokens_belong_to_the_span_of_the_definition(case):
    text, offsets, spans = case
    may = owners(spans, offsets, text)
    ranges = span_tokens(spans, offsets, text)
    assert len(ranges) == len(spans)
    for number, (first, last) in enumerate(ranges):
        held = {t for t in range(first, last) if offsets[t][1] > offsets[t][0] and may[t]}
        must = {t for t, owned in enumerate(may) if owned == [number]}
        can = {t for t, owned in enumerate(may) if number in owned}
        assert must <= held <= can
        if not can:
            assert first == last
    taken = [t for first, last in ranges for t in range(first, last)]
    assert len(taken) == len(set(taken))
    assert {t for t, owned in enumerate(may) if owned} <= set(taken)


@pytest.mark.parametrize(
    ("text", "spans", "offsets", "ranges"),
    [
        # " b" overlaps both spans and belongs to that of its letter
        ("a. b.", [(0, 3), (3, 5)], [(0, 1), (1, 2), (2, 4), (4, 5)], [(0, 2), (2, 4)]),
        # its letters are parted: the first decides
        ("abcd", [(0, 2), (2, 4)], [(0, 1), (1, 3), (3, 4)], [(0, 2), (2, 3)]),
        # " b" overlaps one span only, whose first character it holds
        ("a b", [(2, 3)], [(0, 1), (1, 3)], [(1, 2)]),
        # and one whose space alone it holds: still an overlap
        ("a b", [(0, 2)], [(0, 1), (1, 3)], [(0, 2)]),
        # a span inside a token whose beginning belongs to the one before holds no token
        ("abcd", [(0, 1), (1, 2)], [(0, 2), (2, 4)], [(0, 1), (0, 0)]),
        # a token over three spans
        ("a b c", [(0, 1), (2, 3), (4, 5)], [(0, 5)], [(0, 1), (0, 0), (0, 0)]),
        # tokens without characters are nobody's
        ("ab", [(0, 2)], [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)], [(1, 4)]),
        ("abc", [(0, 1), (1, 3)], [(0, 2), (2, 2)], [(0, 1), (0, 0)]),
        ("ab", [], [(0, 2)], []),
        ("ab", [(0, 2)], [], [(0, 0)]),
    ],
)
def test_worked_examples_of_ownership(text, spans, offsets, ranges):
    found = span_tokens(spans, offsets, text)
    assert [(a, b) if a < b else (0, 0) for a, b in found] == ranges


def test_the_oracle_of_ownership_can_fail():
    """Giving every token to the first span that it touches is another law."""
    text, spans, offsets = "a. b.", [(0, 3), (3, 5)], [(0, 1), (1, 2), (2, 4), (4, 5)]
    assert owners(spans, offsets, text)[2] == [1]


# -- phases


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_position_has_the_phase_of_the_token_it_predicts(length, opened, closed):
    opened = min(opened, length)
    closed = max(min(closed, length), opened)
    found = phases(length, opened, closed)
    assert found.shape == (length,) and found.dtype == torch.int8
    for position in range(length):
        expected = PROMPT if position < opened else THINK if position < closed else ANSWER
        assert found[position] == expected


def test_phases_of_a_template_that_opens_thinking():
    # positions:     <user> 2+2? <think> |  It  is  4 </think>  4 <end>
    predicted = [PROMPT, PROMPT, THINK, THINK, THINK, THINK, ANSWER, ANSWER, ANSWER]
    assert phases(9, 2, 6).tolist() == predicted
    # a chain that never closed thinks to its end
    assert phases(9, 2, 9).tolist() == [PROMPT] * 2 + [THINK] * 7


# -- places
