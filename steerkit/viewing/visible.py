"""Visible text: control characters as signs, so that text can only be read and never acts."""

from __future__ import annotations

# C0 and delete have pictures of their own in Unicode; C1 and marks that turn the direction of
# what follows, or hide, do not
_HIDDEN = (*range(0x80, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SIGNS = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **dict.fromkeys(_HIDDEN, "\ufffd"),
}


def visible(text: str) -> str:
    """The text with a sign for every control character, one for one.

    Tabs and line breaks stay. Escape sequences, which a terminal would obey, and marks that
    reverse the order of the characters after them show as what they are. The length does not
    change, so offsets stay valid.
    """
    return text.translate(_SIGNS)
