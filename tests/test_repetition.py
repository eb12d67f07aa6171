"""Repetition: hand-counted texts, and texts that do not repeat."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from steerkit.repetition import longest_loop, repeated_sentences, zlib_ratio


def test_texts_that_go_round_in_circles_shrink() -> None:
    dice = random.Random(0)
    words = "".join(dice.choice("abcdefghij ") for _ in range(2000))
    assert zlib_ratio("no, no, " * 250) < 0.05 < 0.35 < zlib_ratio(words)
    assert zlib_ratio("") == 1.0


def test_sentences_that_stood_before_are_counted() -> None:
    assert repeated_sentences("I try two. I try two. No. No. I try three.") == 1 / 3
    assert repeated_sentences("So it is 4!\nso it is 4!") == 0.5
    assert repeated_sentences("I try two. I try three.") == 0.0
    assert repeated_sentences("") == 0.0


def test_loops_are_counted_in_tokens() -> None:
    assert longest_loop("ababab") == 6
    assert longest_loop("xababay") == 4
    assert longest_loop("aaaa") == 4
    assert longest_loop("abcabd") == 0
    assert longest_loop([]) == 0
    assert longest_loop([1, 2, 3] * 5 + [9]) == 15


@given(st.lists(st.integers(0, 3), max_size=30))
def test_a_loop_is_as_long_as_the_slow_way_says(tokens) -> None:
    best = 0
    for n in range(1, len(tokens) // 2 + 1):
        for start in range(len(tokens) - n + 1):
            times = 1
            while tokens[start + times * n : start + (times + 1) * n] == tokens[start : start + n]:
                times += 1
            if times > 1:
                best = max(best, times * n)
    assert longest_loop(tokens) == best
