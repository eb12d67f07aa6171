"""Rule chains told again: every rule, test and answer must be what the examples say."""

import re

import pytest

from tests.puzzles.oracles import by_syntax_tree

RULE = r"((?:\d+ \* )?x(?: \* x)?(?: [-+] \d+)?)"
PROPOSED = [
    re.compile(rf"So {RULE} takes \d+ to \d+\."),
    re.compile(rf"That gives the rule {RULE}\."),
    re.compile(rf"The rule {RULE} fits \d+\."),
]
FOUND = re.compile(rf"(?:So|Therefore) the rule is {RULE}\.|The rule {RULE} fits every example\.")


def value(rule, x):
    return by_syntax_tree(rule.replace("x", str(x)))


class Retold:
    """A rule chain as it is read: the rule it holds, and how it was tested."""

    def __init__(self, task):
        self.task = task
        self.given = dict(task.examples)
        self.pivots = set(self.given)
        self.rule, self.tested, self.result, self.asked = None, set(), None, None
        self.proposed, self.failed = [], []
        self.seen = dict.fromkeys(("proposed", "fits", "fails", "found", "proven", "applied"), 0)

    def read(self, text, sentence):
        numbers = [int(word) for word in re.findall(r"\d+", text)]
        match = next((m for p in PROPOSED if (m := p.fullmatch(text))), None)
        if match:
            self.rule, self.tested, self.asked = match.group(1), set(), None
            assert self.rule not in self.proposed or self.rule in self.failed
            self.proposed.append(self.rule)
            # all rules go through one example
            self.pivots &= {x for x, y in self.given.items() if value(self.rule, x) == y}
            assert self.pivots, "this rule does not go through the example"
            if "takes" in text:
                assert self.given[numbers[-2]] == numbers[-1]
            elif "fits" in text:
                assert numbers[-1] in self.pivots
            self.seen["proposed"] += 1
        elif FOUND.fullmatch(text):
            assert self.rule in FOUND.fullmatch(text).groups(), "another rule"
            assert "every" not in text or len(self.tested) == 2, "it was not tested on each"
            self.seen["proven" if "every" in text else "found"] += 1
        elif text in ("That fits.",) or "also fits" in text or text.startswith("That is what"):
            x = numbers[-1] if numbers else self.asked
            fitting = {n for n, y in self.given.items() if value(self.rule, n) == y == self.result}
            assert fitting if x is None else x in fitting, "it does not fit"
            self.tested |= {x} if x is not None else fitting
            self.asked = None
            self.seen["fits"] += 1
        elif sentence.label == "example-testing" and " * " not in text:
            (self.asked,) = numbers
            assert self.asked in self.given
        elif re.fullmatch(r"(?:So|Therefore) \d+ gives \d+\.", text):
            assert numbers == [self.task.query, value(self.rule, self.task.query)]
            self.seen["applied"] += 1
        elif sentence.equations and sentence.label == "deduction":
            (equation,) = sentence.equations
            self.result = equation.right
        if sentence.dead_end:
            failing = {
                x: y for x, y in self.given.items() if value(self.rule, x) == self.result != y
            }
            assert failing, "the rule does fit"
            wanted = failing[self.asked] if self.asked else None
            wanted = [wanted] if wanted else list(failing.values())
            assert "too big" not in text or any(self.result > y for y in wanted)
            assert "too small" not in text or any(self.result < y for y in wanted)
            if "too" not in text.split():
                assert numbers[-1] in wanted
            self.failed.append(self.rule)
            self.asked = None
            self.seen["fails"] += 1


@pytest.fixture(scope="module")
def stories(corpus):
    """Every rule chain of the corpus with what was read in it."""
    found = []
    for written in corpus("rules"):
        story = Retold(written.task)
        for sentence in written.sentences:
            text = written.text(sentence)
            try:
                story.read(text, sentence)
            except (AssertionError, KeyError, TypeError) as error:
                raise AssertionError(f"{text!r}: {error} in\n{written.chain.response}") from error
        found.append((written, story))
    return found


def test_every_sentence_about_rules_is_what_the_examples_say(stories):
    total = {}
    for _, story in stories:
        for name, count in story.seen.items():
            total[name] = total.get(name, 0) + count
    assert min(total.values()) > 50, total


def test_an_answer_is_that_of_the_rule_at_hand_and_wrong_only_if_it_was_not_tested(stories):
    outcomes = {}
    for written, story in stories:
        if written.declined:
            continue
        assert written.chain.answer == f"The answer is {value(story.rule, written.task.query)}."
        thorough = len(story.tested) == 2
        outcomes[thorough, written.solved] = outcomes.get((thorough, written.solved), 0) + 1
    assert (True, False) not in outcomes
    assert min(outcomes.values()) > 50 and len(outcomes) == 3, outcomes


def test_a_chain_gives_up_only_after_every_rule_that_it_had_has_failed(stories):
    forgot = 0
    for written, story in stories:
        if written.declined:
            assert story.proposed and set(story.proposed) <= set(story.failed)
            assert written.chain.sentences[-1][0].startswith(("I could not", "I have found no"))
        else:
            forgot += story.rule in story.failed  # tried again without care, as some may
    assert forgot < 0.01 * len(stories)


def test_chains_are_a_mixed_bag(stories):
    shares = {
        "right": sum(w.solved for w, _ in stories),
        "wrong": sum(not w.solved and not w.declined for w, _ in stories),
        "declined": sum(w.declined for w, _ in stories),
        "untested": sum(s.seen["fits"] + s.seen["fails"] == 0 for _, s in stories),
        "thorough": sum(len(s.tested) == 2 for _, s in stories),
        "repeated": sum(len(set(s.proposed)) < len(s.proposed) for _, s in stories),
    }
    shares = {name: count / len(stories) for name, count in shares.items()}
    assert 0.55 < shares["right"] < 0.85 and 0.1 < shares["wrong"] < 0.4, shares
    assert 0.02 < shares["declined"] < 0.2 and 0.2 < shares["untested"] < 0.6, shares
    assert 0.2 < shares["thorough"] < 0.7 and shares["repeated"] > 0.005, shares
