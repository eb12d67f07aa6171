"""Countdown chains told again: every sentence about numbers must fit a state of the search."""

import random
import re

import pytest

from steerkit.puzzles.countdown import CountdownTask
from steerkit.puzzles.countdown_chains import write_countdown_chain
from tests.puzzles.conftest import COUNTS
from tests.puzzles.oracles import by_syntax_tree, constants, moves, outcomes

KINDS = [kind for kind in COUNTS if kind.startswith("countdown")]
LIST = re.compile(r"\d+(?:, \d+)* and \d+")
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) (?:=|is) (\d+)\b")
PAIR = re.compile(
    r"(\d+) ([-+*/]) (\d+)[.?]|start with (\d+) ([-+*/]) (\d+)|see what (\d+) ([-+*/]) (\d+)"
)


def named(numbers):
    """A list such as ``3, 7 and 8`` as a state."""
    return tuple(sorted(map(int, re.findall(r"\d+", numbers))))


def ordered(left, sign, right):
    """An operation as the oracle names it."""
    a, b = int(left), int(right)
    return (max(a, b), sign, min(a, b)) if sign in "+*" else (a, sign, b)


class Retold:
    """The states that a chain has reached so far, and what it may say about them."""

    def __init__(self, task):
        self.task = task
        self.reached = {tuple(sorted(task.numbers))}
        self.latest = set(self.reached)
        self.result = None
        self.seen = dict.fromkeys(("step", "list", "pair", "pruned", "miss"), 0)

    def after(self, operation):
        """The states that an operation leads to from any state that was reached."""
        a, sign, b = operation
        return {
            left
            for state in self.reached
            for equation, left in moves(state)
            if equation.startswith(f"{a} {sign} {b} = ")
        }

    def read(self, text, sentence):
        target = self.task.target
        if sentence.label == "deduction" and sentence.equations:
            (equation,) = sentence.equations
            self.result = equation.right
            if equation.left.count(" ") > 2:  # the conclusion
                assert equation.right == target and by_syntax_tree(equation.left) == target
                assert constants(equation.left) == sorted(self.task.numbers)
                return
            operation = ordered(*equation.left.split(" "))
            self.latest = self.after(operation)
            assert self.latest, "these numbers are not there"
            self.reached |= self.latest
            self.seen["step"] += 1
        elif sentence.label == "example-testing":
            operation = next(m for m in PAIR.findall(text))
            assert self.after(ordered(*[part for part in operation if part])), "no such pair"
            self.seen["pair"] += 1
        elif sentence.label in ("initializing", "backtracking") and LIST.search(text):
            state = named(LIST.search(text).group())
            assert state in self.reached, "not a state that was reached"
            if sentence.label == "initializing":
                assert state == tuple(sorted(self.task.numbers))
            self.seen["list"] += 1
        elif sentence.label == "deduction" and not sentence.dead_end and LIST.search(text):
            assert named(LIST.search(text).group()) in self.latest, "not what is left"
            self.seen["list"] += 1
        if not sentence.dead_end:
            return
        if "cannot reach" in text or "no way from" in text:
            if LIST.search(text):
                states = {named(LIST.search(text).group())} & self.latest
            else:
                number = int(re.search(r"[Ff]rom (\d+)", text).group(1))
                states = {state for state in self.latest if number in state}
            assert states, "not the state that was reached"
            assert any(target not in outcomes(state) for state in states), "it can be reached"
            self.seen["pruned"] += 1
        else:
            assert self.result != target and any(len(state) == 1 for state in self.latest)
            assert "too big" not in text or self.result > target
            assert "too small" not in text or self.result < target
            assert "instead of" not in text or f"get {self.result} instead of {target}" in text
            assert "not" not in text.split() or text.endswith(f"not {target}.")
            assert "misses" not in text or text.endswith(f"misses {target}.")
            self.seen["miss"] += 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_sentence_about_numbers_fits_the_search(corpus, kind):
    total = {}
    for written in corpus(kind)[:300]:
        retold = Retold(written.task)
        for sentence in written.sentences:
            text = written.text(sentence)
            try:
                retold.read(text, sentence)
            except AssertionError as error:
                raise AssertionError(f"{text!r}: {error} in\n{written.chain.thinking}") from error
        for name, count in retold.seen.items():
            total[name] = total.get(name, 0) + count
        if written.solved:
            assert (written.task.target,) in retold.reached
    assert min(total.values()) > 20, total


def test_the_check_can_fail(corpus):
    """The chain of one task does not fit another one."""
    failed = 0
    one, other = corpus("countdown-3")[:2]
    for written, task in ((one, other.task), (other, one.task)):
        retold = Retold(task)
        try:
            for sentence in written.sentences:
                retold.read(written.text(sentence), sentence)
        except (AssertionError, StopIteration):
            failed += 1
    assert failed == 2


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_right_or_honest(corpus, kind):
    for written in corpus(kind):
        assert written.solved != written.declined, written.chain.response
        # it gives up in so many words and only then
        last = written.chain.sentences[-1][0]
        assert written.declined == last.startswith(("I could not", "I have found no way"))
        if written.solved:
            assert written.sentences[-1].label == "deduction"


def test_some_are_solved_and_some_are_not(corpus):
    shares = [sum(w.solved for w in corpus(kind)) / len(corpus(kind)) for kind in KINDS]
    three, four = shares
    assert 0.65 < three < 0.92 and 0.3 < four < three


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "task",
    [
        CountdownTask((1, 1, 10), 10),
        CountdownTask((20, 20, 20), 20),
        CountdownTask((1, 1, 1, 10), 10),
        CountdownTask((10, 10, 10, 10), 99 + 1 - 80),
        CountdownTask((2, 3), 6),
        CountdownTask((1, 2, 3, 4, 5), 15),
    ],
)
def test_unusual_tasks_have_chains_that_end(task):
    answers = {write_countdown_chain(task, random.Random(seed)).answer for seed in range(60)}
    assert len(answers) > 1
    assert all(answer == "I do not know." or task.verify(answer).correct for answer in answers)
    assert any(task.verify(answer).correct for answer in answers)
