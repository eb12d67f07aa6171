"""Features: words, their neighbours, and weights that are scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from steerkit.annotation.annotator import units
from steerkit.annotation.features import (
    BLOCKS,
    Unit,
    character_features,
    context_features,
    counted,
    inverse_frequency,
    matrix,
    ngrams,
    place_features,
    trace_units,
    word_features,
    words,
)
from steerkit.traces import Span, Trace
from tests.annotation.planted import planted


def test_words_are_plain():
    assert words("Wait\u2014it\u2019s 3.5 \u00d7 x, no?") == [
        *("wait", "-".replace("-", "+"), "it's", "0", "+", "x", ",", "no", "?")
    ]


def test_features_of_a_unit_see_its_neighbours():
    trace = Trace("a", "t", "<think>One two. Three?\n\nFour.</think>")
    first, second, third = trace_units(trace, units(trace, keep=False))
    assert [second.before, second.text, second.after] == ["One two.", "Three?", "Four."]
    assert [u.number for u in (first, second, third)] == [0, 1, 2]
    assert [u.broken for u in (first, second, third)] == [True, False, True]
    assert (first.before, third.after, first.place) == ("", "", 0.0)
    assert {"one", "one two", "^one", "two .", ". $".replace(". $", "two .$")} <= set(
        word_features(first)
    )
    assert {"<one", "<^one", ">^four"} <= set(context_features(second))


def test_weights_are_those_of_scikit_learn():
    trace = planted(6)[0]
    chain = trace_units(trace, units(trace, keep=True))
    for block, features in BLOCKS.items():
        known = sorted({feature for unit in chain for feature in features(unit)})[::2]
        idf = inverse_frequency(counted(chain, block, known))
        oracle = TfidfVectorizer(analyzer=features, vocabulary=known, sublinear_tf=True)
        expected = oracle.fit_transform(chain).toarray()
        found = matrix(chain, {block: known}, {block: idf}).toarray()[:, : len(known)]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert len(known) > 3 and found.any()


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=7), st.integers(1, 3), st.integers(0, 2))
def test_runs_are_those_of_scikit_learn(items: list[str], low: int, more: int) -> None:
    oracle = CountVectorizer(token_pattern=r"\S+", ngram_range=(low, low + more)).build_analyzer()
    assert sorted(ngrams(items, low, low + more)) == sorted(oracle(" ".join(items)))


def test_characters_are_runs_within_words():
    unit = Unit("So, 12!", "", "", 0.0, 0, True)
    assert set(character_features(unit)) >= {" s", "so", "o ", " so ", " 0 ", " ! "}
    # never across words, and never longer than a word with its edges
    assert not any("o ," in found or len(found) > 5 for found in character_features(unit))


def test_place_is_numbers_from_0_to_1():
    text = "<think>Is it 3? so 1 + 2 = 3,\nFour</think>"
    bounds = [(7, 15), (16, 29), (30, 34)]
    assert [text[a:b] for a, b in bounds] == ["Is it 3?", "so 1 + 2 = 3,", "Four"]
    first, second, third = (
        place_features(unit) for unit in trace_units(Trace("a", "t", text), bounds)
    )
    for features in (first, second, third):
        assert all(0 <= value <= 1 for value in features)
    assert first[:3] == [1.0, 0.0, 0.0] and second[:3] == [0.0, 1.0, 0.0]
    assert (first[3], second[3]) == (1.0, math.exp(-0.25))
    assert (first[4], second[4]) == (0.0, pytest.approx(9 / 27))
    # last of all, after a break, question, equation, small letter, comma at its end
    assert [f[5] for f in (first, second, third)] == [0.0, 0.0, 1.0]
    assert [f[6] for f in (first, second, third)] == [1.0, 0.0, 1.0]
    assert (first[9], second[9]) == (1.0, 0.0) and (first[10], second[10]) == (0.0, 1.0)
    assert (first[11], second[11]) == (0.0, 1.0) and (first[12], second[12]) == (0.0, 1.0)
    assert second[8] == 3 / 6  # numbers among words and marks; a comma belongs to its number


def test_a_unit_without_known_features_has_length_0_and_no_nan():
    trace = Trace("a", "t", "<think>Zebra.</think>").with_spans([Span(7, 13, "deduction")], "x")
    chain = trace_units(trace, units(trace, keep=True))
    known = ("so", "then")
    found = matrix(chain, {"words": known}, {"words": np.ones(2, dtype=np.float32)}).toarray()
    assert np.isfinite(found).all() and not found[:, :2].any() and found[:, 2:].any()
