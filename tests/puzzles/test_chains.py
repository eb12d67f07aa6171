import os
import re
import subprocess
import sys

import pytest

from steerkit.errors import TaskError
from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.countdown import CountdownTask
from steerkit.puzzles.phrases import PHRASES
from steerkit.puzzles.rules import RuleTask
from steerkit.puzzles.tasks import KINDS, generate_tasks
from steerkit.training.tokenizer import LARGEST_INTEGER

OPTIONAL = ("initializing", "adding-knowledge", "example-testing", "uncertainty-estimation")
FREQUENT = ("example-testing", "uncertainty-estimation", "backtracking")


def share(corpus, holds, *kinds):
    found = [holds(written) for written in corpus(*kinds)]
    return sum(found) / len(found)


def test_every_equation_is_true(corpus):
    for kind in KINDS:
        equations = [e for w in corpus(kind) for s in w.sentences for e in s.equations]
        assert len(equations) > 3000 and all(equation.correct for equation in equations)


def test_recalled_facts_are_true(corpus):
    checks = {
        "is prime.": lambda n: n > 1 and all(n % d for d in range(2, n)),
        "is even.": lambda n: n % 2 == 0,
        "is odd.": lambda n: n % 2 == 1,
        "is a square.": lambda n: round(n**0.5) ** 2 == n,
    }
    seen = dict.fromkeys(checks, 0)
    for written in corpus():
        for text, label in written.chain.sentences:
            for ending, holds in checks.items():
                if label == "adding-knowledge" and text.endswith(ending):
                    seen[ending] += 1
                    (n,) = (int(word) for word in text.split() if word.isdigit())
                    assert holds(n), text
    assert min(seen.values()) > 50


def test_integers_are_small_and_never_negative(corpus):
    largest = 0
    for written in corpus():
        text = f"{written.task.prompt} {written.chain.response}"
        # a minus always stands between two operands
        assert text.count("-") == len(re.findall(r"(?<=[\dx)] )-(?= [\d(])", text)), text
        largest = max(largest, *map(int, re.findall(r"\d+", text)))
    assert 99 < largest <= LARGEST_INTEGER


def test_every_phrase_is_used(corpus):
    said = {text for written in corpus() for text, _ in written.chain.sentences}
    for role, phrases in PHRASES.items():
        for phrase in phrases:
            assert any(phrase.pattern.fullmatch(text) for text in said), (role, phrase.template)


# -- behaviours


def test_behaviours_are_frequent_over_the_mixture(corpus):
    total = sum(len(written.sentences) for written in corpus())
    for name in FREQUENT:
        assert 0.03 < sum(written.count(name) for written in corpus()) / total < 0.2, name


@pytest.mark.parametrize("kind", KINDS)
def test_every_behaviour_is_in_some_chains_of_a_kind_and_not_in_others(corpus, kind):
    for name in (*OPTIONAL, "backtracking"):
        assert 0.1 < share(corpus, lambda w, name=name: not w.count(name), kind) < 0.9, name


def test_behaviours_do_not_always_come_together(corpus):
    for one in FREQUENT:
        for other in set(FREQUENT) - {one}:
            alone = share(corpus, lambda w, a=one, b=other: w.count(a) > 0 and w.count(b) == 0)
            assert alone > 0.05, (one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_many_dead_ends_pass_without_going_back(corpus, kind):
    silent = spoken = 0
    for written in corpus(kind):
        for place, sentence in enumerate(written.sentences):
            rest = written.sentences[place + 1 :]
            until = next((i for i, s in enumerate(rest) if s.equations or s.dead_end), None)
            if sentence.dead_end and until is not None:  # the search goes on
                goes_back = any(s.label == "backtracking" for s in rest[:until])
                spoken += goes_back
                silent += not goes_back
    assert silent + spoken > 300
    assert 0.3 <= silent / (silent + spoken) <= 0.7


# -- a mixed bag


def repeats_a_failed_attempt(written):
    """The same operation with the same result fails twice."""
    failed = []
    for place, sentence in enumerate(written.sentences):
        if sentence.dead_end:
            before = [e for s in written.sentences[: place + 1] for e in s.equations]
            failed.append(before[-1] if before else None)
    return len(set(failed)) < len(failed)


MIXED = {
    "gives up at its first dead end": lambda w: w.declined and w.dead_ends == 1,
    "gives up late": lambda w: w.declined and w.dead_ends >= 4,
    "never goes back": lambda w: w.dead_ends >= 2 and not w.count("backtracking"),
    "goes back every time": lambda w: (
        w.dead_ends >= 3 and w.count("backtracking") >= w.dead_ends - 1
    ),
    "never tests": lambda w: not w.count("example-testing"),
    "never doubts": lambda w: not w.count("uncertainty-estimation"),
    "fails the same way twice": repeats_a_failed_attempt,
    "finds it at once": lambda w: w.solved and w.dead_ends == 0,
    "finds it late": lambda w: w.solved and w.dead_ends >= 3,
}


@pytest.mark.parametrize("name", MIXED)
def test_chains_are_a_mixed_bag(corpus, name):
    assert 0.02 < share(corpus, MIXED[name]) < 0.6


def test_four_numbers_are_harder_than_three(corpus):
    three, four = (share(corpus, lambda w: w.solved, kind) for kind in KINDS[:2])
    assert four < three - 0.1


# -- seeds, format, refusals


@pytest.mark.parametrize("task", generate_tasks("train", seed=2, count=3))
def test_the_same_seed_gives_the_same_chain(task):
    assert write_chain(task, 1) == write_chain(task, 1) == write_chain(task, "1")
    assert len({write_chain(task, seed).thinking for seed in range(30)}) > 25


def test_chains_are_the_same_in_other_processes():
    tasks = generate_tasks("train", seed=2, count=12)
    code = (
        "from steerkit.puzzles.tasks import generate_tasks;"
        "from steerkit.puzzles.chains import write_chain;"
        "print([write_chain(t, 3).response for t in generate_tasks('train', seed=2, count=12)])"
    )
    for hash_seed in ("1", "2"):
        again = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        )
        assert again.stdout.strip() == str([write_chain(task, 3).response for task in tasks])


def test_response_format(corpus):
    for written in corpus():
        chain = written.chain
        assert chain.response == f"{chain.thinking}\n</think>\n{chain.answer}"
        assert chain.thinking == chain.thinking.strip() and "\n\n" not in chain.thinking
        assert re.fullmatch(r"The answer is [\d ()+*/-]+\.|I do not know\.", chain.answer)


@pytest.mark.parametrize(
    "task",
    [
        CountdownTask((3, 7), 11),
        CountdownTask((1, 1, 1), 99),
        CountdownTask((1, 1, 1, 1), 99),
        RuleTask(((1, 5), (2, 5), (3, 5)), 4),  # no rule
        RuleTask(((2, 4), (2, 4), (2, 4)), 3),  # several
    ],
)
def test_tasks_without_a_chain_are_refused(task):
    with pytest.raises(TaskError, match="no chain"):
        write_chain(task, 0)
