import re
import string

import pytest

from steerkit.behaviors import behaviors
from steerkit.puzzles.phrases import PHRASES, Phrase

ALL = [(role, phrase) for role, phrases in PHRASES.items() for phrase in phrases]


def slots_of(phrase):
    return [slot for _, slot, _, _ in string.Formatter().parse(phrase.template) if slot]


def test_templates_are_plain_sentences():
    for _, phrase in ALL:
        words = re.sub(r"\{\w+\}", "N", phrase.template)
        assert re.fullmatch(r"[A-Z][A-Za-z0-9 ,=]*[.?]", words), phrase.template
        assert "  " not in words


def test_every_phrase_has_a_behaviour_and_can_be_chosen():
    assert {phrase.label for _, phrase in ALL} == {behavior.name for behavior in behaviors()}
    for role, phrases in PHRASES.items():
        assert len({phrase.label for phrase in phrases}) == 1, role
        assert len({phrase.template for phrase in phrases}) == len(phrases), role
        assert all(phrase.weight > 0 for phrase in phrases)


def test_a_template_means_the_same_in_every_role():
    meanings = {}
    for _, phrase in ALL:
        meanings.setdefault(phrase.template, set()).add((phrase.label, phrase.dead_end))
    assert all(len(found) == 1 for found in meanings.values())
    assert len(meanings) < len(ALL)  # some are shared: the check above had something to check


def test_failed_attempts_are_deductions():
    assert {phrase.label for _, phrase in ALL if phrase.dead_end} == {"deduction"}


def test_no_slot_twice_in_a_template():
    for _, phrase in ALL:
        assert len(set(slots_of(phrase))) == len(slots_of(phrase)), phrase.template


@pytest.mark.parametrize(
    ("template", "fits", "misses"),
    [
        ("Take {n}.", ["Take 7.", "Take 0.", "Take 123."], ["Take -7.", "Take x.", "Take 3 + 4."]),
        ("Try {pair}.", ["Try 3 + 4.", "Try 12 / 3."], ["Try 3.", "Try 3 + 4 + 5.", "Try 3+4."]),
        ("Of {numbers}.", ["Of 3 and 4.", "Of 3, 7, 8 and 9."], ["Of 3.", "Of 3, 4.", "Of 3 4."]),
        (
            "So {left} = {right}.",
            ["So 3 + 4 = 7.", "So (3 + 4) * 2 - 1 = 13.", "So 3 * (4 - 2) = 6."],
            ["So 3 = 3.", "So 3 + 4 = x.", "So 3 + 4 = 7 = 7.", "So 3 + -4 = 1."],
        ),
        (
            "By {rule}.",
            ["By x.", "By x + 4.", "By 3 * x.", "By 3 * x - 2.", "By x * x.", "By x * x + 12."],
            ["By 3.", "By x * 3.", "By -x.", "By x + x.", "By y + 4.", "By 3 * x + 2 + 2."],
        ),
        (
            "From {given}.",
            ["From 1 to 5 and 3 to 9.", "From 1 to 5, 3 to 9 and 4 to 11."],
            ["From 1 to 5.", "From 1 and 5.", "From 1 to 5, 3 to 9."],
        ),
    ],
)
def test_slots_take_what_they_say(template, fits, misses):
    pattern = Phrase("deduction", template).pattern
    for text in fits:
        assert pattern.fullmatch(text), text
    for text in [*misses, *(text[:-1] for text in fits), *(f"{text} " for text in fits)]:
        assert not pattern.fullmatch(text), text


def test_slots_take_plain_digits_alone():
    for text in ("Take \u0663.", "Take \u00b2.", "Take 3\u0663.", "Take \uff13."):
        assert not Phrase("deduction", "Take {n}.").pattern.fullmatch(text)
    assert not Phrase("deduction", "Take {n}.").pattern.fullmatch(f"Take {'9' * 5000}.")
