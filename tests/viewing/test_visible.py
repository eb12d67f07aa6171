"""Nothing that a terminal or a page would obey is left in visible text."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from steerkit.viewing.visible import visible


@given(st.text())
def test_only_control_characters_change_and_no_offset_moves(text) -> None:
    shown = visible(text)
    assert len(shown) == len(text)
    for before, after in zip(text, shown, strict=True):
        if before != after:
            assert unicodedata.category(before) in ("Cc", "Cf")
        if unicodedata.category(before) == "Cc" and before not in "\n\t":
            assert unicodedata.category(after) != "Cc"


def test_escape_sequences_and_reversed_text_show_as_what_they_are() -> None:
    assert visible("\x1b[31mred\x07\x00") == "\u241b[31mred\u2407\u2400"
    assert visible("a\u202eb\u2066c\x9b") == "a\ufffdb\ufffdc\ufffd"
    assert (
        visible("tab\tline\nGr\u00f6\u00dfe \U0001f642") == "tab\tline\nGr\u00f6\u00dfe \U0001f642"
    )
