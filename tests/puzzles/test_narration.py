import random
from dataclasses import astuple

import pytest

from steerkit.puzzles.grammar import parse_chain
from steerkit.puzzles.narration import Chain, Narrator, Style, listed
from steerkit.puzzles.phrases import PHRASES


def facts(numbers, count=300):
    narrator = Narrator(random.Random(str(numbers)))
    for _ in range(count):
        narrator.know(numbers)
    return {text for text, label in narrator.end("").sentences if label == "adding-knowledge"}


HOLDS = {
    "is prime.": lambda n: n > 1 and all(n % d for d in range(2, n)),
    "is even.": lambda n: n % 2 == 0,
    "is odd.": lambda n: n % 2 == 1,
    "is a square.": lambda n: round(n**0.5) ** 2 == n,
}


@pytest.mark.usefixtures("unchecked")
def test_every_fact_about_a_number_is_true():
    seen = dict.fromkeys(HOLDS, 0)
    products = 0
    for n in range(1, 200):
        for text in facts((n,), 40):
            (sentence,) = parse_chain(text)
            assert all(equation.correct for equation in sentence.equations), text
            products += len(sentence.equations)
            for ending, holds in HOLDS.items():
                if text.endswith(ending):
                    seen[ending] += 1
                    assert f" {n} " in f" {text} " and holds(n), text
    assert min(seen.values()) > 10 and products > 50


def test_facts_about_one_and_about_equal_numbers_only_where_they_are_there():
    assert "Dividing by 1 changes nothing." in facts((1, 6))
    assert "A number divided by itself is 1." in facts((6, 6))
    for numbers in ((5, 6), (2, 11, 12)):
        assert not any("by 1" in text or "by itself" in text for text in facts(numbers))


def test_a_miss_is_one_dead_end_and_says_the_truth():
    narrator = Narrator(random.Random(0))
    texts = set()
    for number in range(300):
        result = 21 if number % 2 else 19
        before = len(narrator.end("").sentences)
        narrator.miss("24 - 3" if number % 2 else "24 - 5", result, 20)
        said = " ".join(text for text, _ in narrator.end("").sentences[before:])
        sentences = parse_chain(said)
        assert [s.dead_end for s in sentences] == [*[False] * (len(sentences) - 1), True]
        assert [(e.right, e.correct) for s in sentences for e in s.equations] == [(result, True)]
        assert not ("big" in said and result < 20) and not ("small" in said and result > 20)
        texts.add(said)
    assert narrator.dead_ends == 300
    assert len(texts) > 15 and any("too big" in text for text in texts)


def test_a_narrator_tires_after_its_patience_and_not_before():
    first = set()
    for seed in range(300):
        narrator = Narrator(random.Random(seed))
        while not narrator.tired:
            narrator.miss("3 + 4", 7, 29)
        assert narrator.dead_ends >= narrator.style.patience or len(narrator.end("").sentences) > 30
        first.add(narrator.dead_ends)
    assert 1 in first and max(first) >= 10


def test_a_chain_is_its_sentences_and_what_stands_between():
    narrator = Narrator(random.Random(1))
    narrator.new_line()  # nothing was said yet
    for number in range(40):
        narrator.say("step", left=f"{number} + 1", right=number + 1)
        narrator.new_line()
    chain = narrator.end("The answer is 3.")
    assert chain.separators[0] == "" and set(chain.separators[1:]) == {" ", "\n"}
    assert chain.thinking == chain.thinking.strip()
    assert chain.thinking.replace("\n", " ") == " ".join(text for text, _ in chain.sentences)
    assert chain.response == f"{chain.thinking}\n</think>\nThe answer is 3."
    assert all(label == "deduction" for _, label in chain.sentences)


def test_a_chain_without_a_sentence():
    assert Chain((), (), "I do not know.").response == "\n</think>\nI do not know."


def test_sentences_are_drawn_by_weight():
    narrator = Narrator(random.Random(2))
    for _ in range(2000):
        narrator.say("step", left="3 + 4", right=7)
    texts = [text for text, _ in narrator.end("").sentences]
    total = sum(phrase.weight for phrase in PHRASES["step"])
    for phrase in PHRASES["step"]:
        share = texts.count(phrase.template.format(left="3 + 4", right=7)) / len(texts)
        assert share == pytest.approx(phrase.weight / total, abs=0.04)


def test_styles_differ_in_everything_and_none_is_always_there():
    styles = [astuple(Style.draw(random.Random(seed))) for seed in range(400)]
    assert all(len(set(column)) > 2 for column in zip(*styles, strict=True))
    chances = [column for column in zip(*styles, strict=True) if max(column) <= 1]
    assert len(chances) == 7 and all(min(column) == 0 for column in chances)
    assert len(set(styles)) > 350


def test_lists():
    assert listed((3, 7)) == "3 and 7"
    assert listed((3, 7, 8, 9)) == "3, 7, 8 and 9"
