import itertools
import subprocess
import sys
from fractions import Fraction

import pytest

from steerkit.errors import TaskError
from steerkit.puzzles.countdown import (
    LARGEST_RESULT,
    CountdownTask,
    Verdict,
    all_tasks,
    expression,
    generate_tasks,
    parse_prompt,
    solve,
    verify,
)

TASK = CountdownTask((3, 7, 8), 29)


def brute_force(numbers, target):
    """Oracle: whether any order and operators reach the target, every result 1 to 99."""

    def combine(a, b):
        yield from (a + b, a - b, a * b)
        if b:
            yield Fraction(a, b)

    def fine(x):
        return x == int(x) and 1 <= x <= LARGEST_RESULT

    for a, b, c in itertools.permutations(numbers):
        for first in filter(fine, combine(a, b)):
            for final in (*combine(first, c), *combine(c, first)):
                if final == target:
                    return True
    return False


def test_prompt_reads_back():
    assert TASK.prompt == "Use 3, 7, 8 to make 29."
    assert parse_prompt(TASK.prompt) == TASK
    assert parse_prompt(CountdownTask((8, 3, 7), 29).prompt).numbers == (8, 3, 7)


@pytest.mark.parametrize(
    "prompt", ["", "Use 3 to make 3.", "Use 3, 7, 8 to make.", "What is 3 + 7?"]
)
def test_other_prompts_are_refused(prompt):
    with pytest.raises(TaskError, match="not a Countdown prompt"):
        parse_prompt(prompt)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("The answer is 3 * 7 + 8.", "correct"),
        ("  The answer is 8 + (7 * 3) = 29.\n", "correct"),
        ("3*7+8", "correct"),
        ("The answer is 3 * 7 + 7.", "numbers"),
        ("The answer is 3 * 7 + 8 + 0.", "numbers"),
        ("The answer is 29.", "numbers"),
        ("The answer is 3 + 7 + 8.", "value"),
        ("The answer is 3 * (7 + 8.", "unreadable"),
        ("I think 3 * 7 + 8.", "unreadable"),
        ("The answer is 3 * 7 + 8. Or 3 + 7 + 8.", "unreadable"),
        ("I do not know.", "no answer"),
        ("", "no answer"),
    ],
)
def test_verdicts(answer, reason):
    assert verify(TASK, answer) == Verdict(reason == "correct", reason)


def test_rules_hold_for_every_intermediate_result():
    assert verify(CountdownTask((3, 7, 8), 4), "3 - 7 + 8").reason == "rule"
    assert verify(CountdownTask((2, 4, 7), 14), "7 / 2 * 4").reason == "rule"
    assert verify(CountdownTask((2, 4, 7), 14), "4 / 2 * 7").correct
    assert verify(CountdownTask((5, 5, 9), 0), "9 / (5 - 5)").reason == "unreadable"


def test_solver_agrees_with_brute_force():
    agreements = {True: 0, False: 0}
    for task in all_tasks()[::211]:
        for target in (task.target, 100 - task.target):
            solutions = solve(CountdownTask(task.numbers, target))
            assert bool(solutions) == brute_force(task.numbers, target), (task, target)
            agreements[bool(solutions)] += 1
            for steps in solutions:
                answer = f"The answer is {expression(*steps)}."
                assert verify(CountdownTask(task.numbers, target), answer).correct, answer
    assert min(agreements.values()) > 10


def test_pools_are_disjoint_and_cover_all_tasks():
    pools = {pool: {task.id for task in all_tasks(pool)} for pool in ("train", "rl", "heldout")}
    everything = {task.id for task in all_tasks()}
    assert set().union(*pools.values()) == everything
    assert sum(map(len, pools.values())) == len(everything) == len(all_tasks())
    shares = {pool: len(ids) / len(everything) for pool, ids in pools.items()}
    assert shares == pytest.approx({"train": 0.8, "rl": 0.1, "heldout": 0.1}, abs=0.02)


def test_a_pool_depends_on_the_normalised_task_alone():
    reordered = {CountdownTask(order, 29).pool for order in itertools.permutations((3, 7, 8))}
    assert len(reordered) == 1
    assert len({CountdownTask((3, 7, 8), target).pool for target in range(10, 60)}) == 3


def test_generated_tasks_are_repeatable_unique_and_of_their_pool():
    tasks = generate_tasks("heldout", seed=3, count=200)
    code = (
        "from steerkit.puzzles.countdown import generate_tasks;"
        "print([t.prompt for t in generate_tasks('heldout', seed=3, count=200)])"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == str([task.prompt for task in tasks])
    assert len({task.id for task in tasks}) == 200
    assert {task.pool for task in tasks} == {"heldout"}
    assert generate_tasks("heldout", seed=4, count=200) != tasks
    assert any(task.numbers != tuple(sorted(task.numbers)) for task in tasks)


def test_more_tasks_than_there_are_is_an_error():
    with pytest.raises(TaskError, match="too many"):
        generate_tasks("rl", count=10**6)


def test_task_file_format():
    task = CountdownTask((8, 3, 7), 29).to_task()
    assert task.id == "countdown-3-7-8-29"
    assert task.category == "countdown"
    assert task.verifier == {"kind": "countdown", "numbers": [8, 3, 7], "target": 29}
    assert verify(TASK, task.answer).correct


def test_the_package_needs_no_torch():
    code = (
        "import sys, steerkit.puzzles.chains, steerkit.puzzles.grammar;"
        "print('torch' in sys.modules, 'fractions' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
