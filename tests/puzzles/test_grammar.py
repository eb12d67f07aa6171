import random
import string
import time
from itertools import product

import pytest

from steerkit.behaviors import UNPARSED, behaviors
from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.grammar import parse_chain
from steerkit.puzzles.phrases import PHRASES
from steerkit.puzzles.tasks import generate_tasks
from tests.puzzles.oracles import by_syntax_tree

SLOTS = {
    "n": ["29", "8"],
    "right": ["21", "5"],
    "left": ["3 * 7", "16 - 4 / 2", "(3 + 7) * 8", "9 - (8 - 3) * 1 / 1"],
    "pair": ["3 * 7", "16 - 4"],
    "numbers": ["3 and 7", "3, 7 and 8", "3, 7, 8 and 9"],
    "rule": ["x + 4", "x - 4", "3 * x", "3 * x - 2", "x * x", "x * x + 9"],
    "given": ["1 to 5 and 3 to 9", "1 to 5, 3 to 9 and 4 to 11"],
}
EVERYTHING = [phrase for phrases in PHRASES.values() for phrase in phrases]


def fillings(phrase):
    """The sentences that a phrase makes of every combination of ``SLOTS``."""
    names = [slot for _, slot, _, _ in string.Formatter().parse(phrase.template) if slot]
    return [
        phrase.template.format(**dict(zip(names, values, strict=True)))
        for values in product(*(SLOTS[name] for name in names))
    ]


def only(text):
    (sentence,) = parse_chain(text)
    return sentence


def test_every_generated_chain_is_parsed_with_the_labels_that_were_meant(corpus):
    seen = set()
    for written in corpus():
        chain = written.chain
        read = [(written.text(s), s.label) for s in written.sentences]
        assert read == list(chain.sentences), chain.thinking
        seen.update(s.label for s in written.sentences)
    assert seen == {behavior.name for behavior in behaviors()}


def test_reading_is_checked_by_the_types_too():
    """The corpus is written without them, as that is much faster."""
    for task in generate_tasks("train", seed=9, count=9):
        chain = write_chain(task, 0)
        assert [s.label for s in parse_chain(chain.thinking)] == [x for _, x in chain.sentences]


def test_every_phrase_is_read_as_itself():
    for phrase in EVERYTHING:
        for text in fillings(phrase):
            sentence = only(text)
            assert (sentence.label, sentence.dead_end) == (phrase.label, phrase.dead_end), text


def test_no_sentence_has_two_readings():
    for phrase in EVERYTHING:
        for text in fillings(phrase):
            readings = {(p.label, p.dead_end) for p in EVERYTHING if p.pattern.fullmatch(text)}
            assert readings == {(phrase.label, phrase.dead_end)}, text


def test_changed_sentences_are_unparsed(corpus):
    dice = random.Random(0)
    eastern = str.maketrans("0123456789", "".join(chr(0x660 + n) for n in range(10)))
    changed = unparsed = 0
    sentences = sorted({text for written in corpus() for text, _ in written.chain.sentences})
    for text in dice.sample(sentences, 400):
        words = text.split(" ")
        place = dice.randrange(len(words))
        for mutated in (
            " ".join([*words[:place], "banana", *words[place:]]),
            text[0].swapcase() + text[1:] if text[0].isalpha() else "+ " + text,
            text.rstrip(".?"),
            text.replace(" ", "  ", 1),
            text[:-1] + ("?" if text[-1] == "." else "."),
            *([text.translate(eastern)] if any(c.isdigit() for c in text) else []),
        ):
            changed += 1
            unparsed += all(s.label == UNPARSED for s in parse_chain(mutated))
    assert changed > 2000 and unparsed == changed


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
        ("7 / 2 = 3.", "7 / 2", 3, False),
        ("7 + 26 is 33.", "7 + 26", 33, True),
        ("7 + 26 is 35, which is not 29.", "7 + 26", 35, False),
        ("7 + 26 = 33, too big.", "7 + 26", 33, True),
        ("So (3 + 7) * 8 = 80 works.", "(3 + 7) * 8", 80, True),
        ("So (3 + 7) * 8 = 29 works.", "(3 + 7) * 8", 29, False),
        ("Therefore 9 - (8 - 3) + 1 = 5.", "9 - (8 - 3) + 1", 5, True),
        ("Recall that 24 = 3 * 8.", "3 * 8", 24, True),
        ("Recall that 25 = 3 * 8.", "3 * 8", 25, False),
        ("So 3 * x + 2 takes 2 to 8.", "3 * 2 + 2", 8, True),
        ("So 3 * x + 2 takes 2 to 9.", "3 * 2 + 2", 9, False),
        ("So x - 4 takes 12 to 8.", "12 - 4", 8, True),
        ("So x - 4 takes 12 to 16.", "12 - 4", 16, False),
        ("So x * x - 3 takes 12 to 141.", "12 * 12 - 3", 141, True),
        ("So x * x - 3 takes 12 to 21.", "12 * 12 - 3", 21, False),
        ("So 7 * x takes 3 to 21.", "7 * 3", 21, True),
    ],
)
def test_equations_are_read_and_checked(text, left, right, correct):
    sentence = only(text)
    assert sentence.label != UNPARSED
    (equation,) = sentence.equations
    assert (equation.left, equation.right, equation.correct) == (left, right, correct)


def test_equations_of_chains_are_checked_by_pythons_grammar(corpus):
    dice = random.Random(1)
    equations = {e for written in corpus() for s in written.sentences for e in s.equations}
    for equation in dice.sample(sorted(equations, key=str), 500):
        assert by_syntax_tree(equation.left) == equation.right
        (wrong,) = only(f"{equation.left} = {equation.right + 1}.").equations
        assert not wrong.correct


@pytest.mark.parametrize(
    "text",
    [
        *(
            "So 3 + 7) * (8 = 80 works.",
            "(3 + 7 = 10.",
            "3 + = 10.",
            "3 + 7 = 1 0.",
            "3 + 7 = -10.",
        ),
        *("So 3 * x + takes 2 to 8.", "So x * 3 takes 2 to 6.", "So 3 * 2 takes 2 to 6."),
        *("\u0663 * 7 = 21.", "3\u00b2 + 1 = 10.", "3 * 7 = \u0662\u0661.", "3 ** 7 = 21."),
        "9 ** 9 ** 9 = 1.",
    ],
)
def test_broken_arithmetic_is_unparsed(text):
    assert only(text).label == UNPARSED


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "3 + 4" + ")" * 5000 + " = 7.",
        "9" * 5000 + " + 1 = 2.",
        "1 + 1 = " + "2" * 5000 + ".",
        "9" * 5000 + " is even.",
        "1 + " * 5000 + "1 = 5001.",
        "a" + " " * 20_000 + "b",
        "So " + "(" * 20_000,
    ],
)
def test_endless_sentences_are_unparsed_at_once(text):
    before = time.perf_counter()
    assert {sentence.label for sentence in parse_chain(text)} == {UNPARSED}
    assert time.perf_counter() - before < 0.5


def test_sentences_without_an_equation_have_none():
    for text in ("Let me try 3 * 7.", "The rule 3 * x + 2 fits 4.", "So 3 * x also fits 4."):
        sentence = only(text)
        assert sentence.label != UNPARSED and sentence.equations == ()


def test_each_failed_attempt_has_one_sentence_that_says_so():
    text = "8 - 7 = 1. 3 + 1 = 4, not 29. That gives 8 + 7 = 15. That is too big. 3 * 7 = 21."
    assert [s.dead_end for s in parse_chain(text)] == [False, True, False, True, False]
    text = "Let me check it on 4. 4 * 4 = 16. 16 + 2 = 18, not 11. No, I need another rule."
    assert [s.dead_end for s in parse_chain(text)] == [False, False, True, False]
