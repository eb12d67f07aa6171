import pytest

from steerkit.errors import TaskError
from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.countdown import CountdownTask, generate_tasks, verify
from steerkit.puzzles.grammar import parse_chain

OPTIONAL = ("initializing", "adding-knowledge", "example-testing", "uncertainty-estimation")


@pytest.fixture(scope="module")
def chains():
    tasks = generate_tasks("train", seed=1, count=1500)
    written = [write_chain(task, "test") for task in tasks]
    return [(t, c, parse_chain(c.thinking)) for t, c in zip(tasks, written, strict=True)]


def test_answers_are_right_or_honest(chains):
    declined = 0
    for task, chain, _ in chains:
        if chain.answer == "I do not know.":
            declined += 1
        else:
            assert verify(task, chain.answer).correct, chain.response
    assert 0.01 < declined / len(chains) < 0.05


def test_impatient_searches_give_up_the_sooner_the_longer_they_last(chains):
    tasks = [task for task, _, _ in chains]
    hasty = [(task, write_chain(task, "test", patient=False)) for task in tasks]
    declined = [chain.answer == "I do not know." for _, chain in hasty]
    assert 0.05 < sum(declined) / len(hasty) < 0.2
    assert all(
        verify(task, chain.answer).correct
        for (task, chain), given_up in zip(hasty, declined, strict=True)
        if not given_up
    )
    patient, shorter = (
        sorted(len(chain.sentences) for chain in written)
        for written in ([c for _, c, _ in chains], [c for _, c in hasty])
    )
    middle, far = len(patient) // 2, int(0.98 * len(patient))
    assert shorter[middle] == patient[middle] and shorter[far] < 0.9 * patient[far]


def test_every_equation_is_true(chains):
    equations = [e for _, _, sentences in chains for s in sentences for e in s.equations]
    assert len(equations) > 5000 and all(equation.correct for equation in equations)


def test_recalled_facts_are_true(chains):
    checks = {
        "is prime.": lambda n: n > 1 and all(n % d for d in range(2, n)),
        "is even.": lambda n: n % 2 == 0,
        "is odd.": lambda n: n % 2 == 1,
        "is a square.": lambda n: round(n**0.5) ** 2 == n,
    }
    seen = dict.fromkeys(checks, 0)
    for _, chain, _ in chains:
        for text, label in chain.sentences:
            for ending, holds in checks.items():
                if label == "adding-knowledge" and text.endswith(ending):
                    seen[ending] += 1
                    (n,) = (int(word) for word in text.split() if word.isdigit())
                    assert holds(n), text
    assert min(seen.values()) > 50


def test_numbers_in_play_are_those_of_the_task(chains):
    """Every equation of a search uses what is there: numbers of the task and results."""
    for task, chain, sentences in chains:
        known = set(task.numbers)
        for sentence in sentences:
            for equation in sentence.equations:
                if sentence.label == "deduction" and equation.left.count(" ") == 2:
                    left, _, right = equation.left.split(" ")
                    assert {int(left), int(right)} <= known, chain.thinking
                    known.add(equation.right)


def test_behaviours_are_frequent_and_optional(chains):
    labels = [[sentence.label for sentence in sentences] for _, _, sentences in chains]
    total = sum(map(len, labels))
    for name in (*OPTIONAL[1:], "backtracking"):
        share = sum(row.count(name) for row in labels) / total
        assert 0.05 < share < 0.20, (name, share)
    for name in (*OPTIONAL, "backtracking"):
        without = sum(name not in row for row in labels) / len(labels)
        assert 0.1 < without < 0.9, (name, without)


def test_many_dead_ends_pass_without_going_back(chains):
    silent = spoken = 0
    for _, _, sentences in chains:
        for place, sentence in enumerate(sentences):
            if sentence.dead_end:
                rest = sentences[place + 1 :]
                until = next(
                    (i for i, s in enumerate(rest) if s.equations or s.dead_end), len(rest)
                )
                goes_back = any(s.label == "backtracking" for s in rest[:until])
                spoken += goes_back
                silent += not goes_back
    assert 0.3 <= silent / (silent + spoken) <= 0.7


def test_the_same_seed_gives_the_same_chain():
    task = CountdownTask((3, 7, 8), 29)
    assert write_chain(task, 1) == write_chain(task, 1)
    assert len({write_chain(task, seed).thinking for seed in range(30)}) == 30


def test_response_format():
    chain = write_chain(CountdownTask((3, 7, 8), 29), 4)
    assert chain.response == f"{chain.thinking}\n</think>\n{chain.answer}"
    assert chain.thinking == chain.thinking.strip()


@pytest.mark.parametrize("task", [CountdownTask((3, 7), 10), CountdownTask((1, 1, 1), 99)])
def test_tasks_without_a_chain_are_refused(task):
    with pytest.raises(TaskError, match="no chain"):
        write_chain(task, 0)
