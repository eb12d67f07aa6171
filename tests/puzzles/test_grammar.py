import random
import re

import pytest

from steerkit.behaviors import UNPARSED, behaviors
from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.countdown import generate_tasks
from steerkit.puzzles.grammar import PHRASES, parse_chain

SLOTS = {"n": "29", "right": "21", "left": "3 * 7", "pair": "3 * 7", "numbers": "3, 7 and 8"}


def only(text):
    (sentence,) = parse_chain(text)
    return sentence


def test_every_generated_chain_is_parsed_with_the_labels_that_were_meant():
    seen = set()
    for seed, task in enumerate(generate_tasks("train", seed=9, count=1500)):
        chain = write_chain(task, seed)
        sentences = parse_chain(chain.thinking)
        read = [(chain.thinking[s.start : s.end], s.label) for s in sentences]
        assert read == list(chain.sentences), chain.thinking
        seen.update(s.label for s in sentences)
    assert seen == {behavior.name for behavior in behaviors()}


def test_every_phrase_is_read_as_itself():
    for role, phrases in PHRASES.items():
        for phrase in phrases:
            sentence = only(phrase.template.format(**SLOTS))
            assert (sentence.label, sentence.dead_end) == (phrase.label, phrase.dead_end), role


def test_no_sentence_has_two_readings():
    everything = [phrase for phrases in PHRASES.values() for phrase in phrases]
    for phrase in everything:
        text = phrase.template.format(**SLOTS)
        readings = {
            (other.label, other.dead_end) for other in everything if other.pattern.fullmatch(text)
        }
        assert readings == {(phrase.label, phrase.dead_end)}, text


def test_changed_sentences_are_unparsed():
    dice = random.Random(0)
    changed = unparsed = 0
    for seed, task in enumerate(generate_tasks("train", seed=2, count=60)):
        for text, _ in write_chain(task, seed).sentences:
            words = text.split(" ")
            place = dice.randrange(len(words))
            for mutated in (
                " ".join([*words[:place], "banana", *words[place:]]),
                text[0].swapcase() + text[1:] if text[0].isalpha() else "+ " + text,
                text.rstrip(".?"),
            ):
                changed += 1
                unparsed += all(s.label == UNPARSED for s in parse_chain(mutated))
    assert changed > 1000 and unparsed == changed


def test_offsets_are_half_open_into_the_text_as_passed():
    text = "\n 3 * 7 = 21.\n\nMaybe this could work. Banana"
    pieces = [(text[s.start : s.end], s.label) for s in parse_chain(text)]
    assert pieces == [
        ("3 * 7 = 21.", "deduction"),
        ("Maybe this could work.", "uncertainty-estimation"),
        ("Banana", UNPARSED),
    ]
    assert parse_chain(" \n") == []


def test_every_visible_character_belongs_to_one_sentence():
    text = "What?! 3 * 7 = 21. . (odd\nend) ... Wait, let me try something else."
    covered = [i for s in parse_chain(text) for i in range(s.start, s.end)]
    assert len(covered) == len(set(covered))
    assert {i for i, c in enumerate(text) if not c.isspace()} <= set(covered)


@pytest.mark.parametrize(
    ("text", "left", "right", "correct"),
    [
        ("7 + 26 = 33.", "7 + 26", 33, True),
        ("7 + 26 = 34.", "7 + 26", 34, False),
        ("Then 7 - 9 = 2.", "7 - 9", 2, False),
        ("3 / 0 = 3.", "3 / 0", 3, False),
        ("So (3 + 7) * 8 = 80 works.", "(3 + 7) * 8", 80, True),
        ("So (3 + 7) * 8 = 29 works.", "(3 + 7) * 8", 29, False),
        ("Recall that 24 = 3 * 8.", "3 * 8", 24, True),
    ],
)
def test_equations_are_read_and_checked(text, left, right, correct):
    sentence = only(text)
    assert sentence.label != UNPARSED
    (equation,) = sentence.equations
    assert (equation.left, equation.right, equation.correct) == (left, right, correct)


@pytest.mark.parametrize("text", ["So 3 + 7) * (8 = 80 works.", "(3 + 7 = 10.", "3 + = 10."])
def test_broken_arithmetic_is_unparsed(text):
    assert only(text).label == UNPARSED


def test_each_failed_attempt_has_one_sentence_that_says_so():
    text = "8 - 7 = 1. 3 + 1 = 4, not 29. That gives 8 + 7 = 15. That is too big. 3 * 7 = 21."
    assert [s.dead_end for s in parse_chain(text)] == [False, True, False, True, False]


def test_templates_stay_within_plain_sentences():
    for phrases in PHRASES.values():
        for phrase in phrases:
            assert re.fullmatch(r"[A-Z{][^.?!\n]*[.?]", phrase.template), phrase.template
