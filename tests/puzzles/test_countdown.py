import itertools
import random
import time
from collections import Counter

import pytest

from steerkit.errors import TaskError
from steerkit.puzzles.countdown import (
    LARGEST_NUMBER,
    SMALLEST_TARGET,
    CountdownTask,
    Step,
    draw_task,
    expression,
    reachable,
    solutions,
    steps,
)
from steerkit.puzzles.expressions import parse_expression
from steerkit.puzzles.verdicts import Verdict
from tests.puzzles.oracles import by_syntax_tree, constants, derivations, moves, outcomes

TASK = CountdownTask((3, 7, 8), 29)
FOUR = CountdownTask((2, 3, 8, 9), 21)


def written(step):
    return f"{step.pair} = {step.result}"


def random_numbers(seed, count, amount):
    dice = random.Random(seed)
    return [
        tuple(dice.randint(1, LARGEST_NUMBER[count]) for _ in range(count)) for _ in range(amount)
    ]


@pytest.mark.parametrize("task", [TASK, CountdownTask((8, 3, 7), 29), FOUR])
def test_prompt_reads_back(task):
    assert CountdownTask.parse(task.prompt) == CountdownTask.parse(f" {task.prompt}\n") == task


def test_prompt_names_the_numbers_in_their_order():
    assert CountdownTask((8, 3, 7), 29).prompt == "Use 8, 3, 7 to make 29."
    assert FOUR.prompt == "Use 2, 3, 8, 9 to make 21."
    assert (TASK.kind, FOUR.kind) == ("countdown-3", "countdown-4")


@pytest.mark.parametrize(
    "prompt",
    [
        *("", "Use 3 to make 3.", "Use 3, 7, 8 to make.", "What is 3 + 7?", "Use 3, 7 to make 29"),
        *("Use 3,7,8 to make 29.", "use 3, 7, 8 to make 29.", "Use -3, 7, 8 to make 29."),
        *("Use \u0663, 7, 8 to make 29.", "Use 3, 7, \u00b2 to make 29."),
        "Use 3, 7, 8 to make 29. Use 3, 7, 8 to make 29.",
        f"Use 3, 7, 8 to make {'9' * 5000}.",
    ],
)
def test_other_prompts_are_none(prompt):
    assert CountdownTask.parse(prompt) is None


# -- the verifier


@pytest.mark.parametrize(
    ("task", "answer", "reason"),
    [
        (TASK, "The answer is 3 * 7 + 8.", "correct"),
        (TASK, "  The answer is 8 + (7 * 3) = 29.\n", "correct"),
        (TASK, "3*7+8", "correct"),
        (TASK, "The answer is ((3) * (7)) + 8.", "correct"),
        (TASK, "The answer is 3 * 7 + 7.", "numbers"),
        (TASK, "The answer is 3 * 7 + 8 + 0.", "numbers"),
        (TASK, "The answer is 3 * 7 + 8 + 8 - 8.", "numbers"),
        (TASK, "The answer is 3 * 7.", "numbers"),
        (TASK, "The answer is 37 - 8.", "numbers"),
        (TASK, "The answer is 29.", "numbers"),
        (TASK, "The answer is 3 + 7 + 8.", "value"),
        (TASK, "The answer is 3 + 7 + 8 = 29.", "value"),
        (TASK, "The answer is 3 * 7 + 8 = 30.", "value"),
        (TASK, "The answer is 3 * 7 + 8 = 0.", "value"),
        (TASK, "The answer is 3 * (7 + 8.", "unreadable"),
        (TASK, "I think 3 * 7 + 8.", "unreadable"),
        (TASK, "The answer is 3 * 7 + 8. Or 3 + 7 + 8.", "unreadable"),
        (TASK, "The answer is 3 * 7 + 8 = 29 = 29.", "unreadable"),
        (TASK, "The answer is 3 * 7 + 8, I hope.", "unreadable"),
        (TASK, "The answer is 3 + 7 + 8. The answer is 3 * 7 + 8.", "unreadable"),
        (TASK, "I do not know.", "no answer"),
        (TASK, "", "no answer"),
        (FOUR, "The answer is (2 + 3) * 9 / (8 - 3).", "numbers"),
        (FOUR, "The answer is 9 + 8 * 3 / 2.", "correct"),
        (FOUR, "The answer is 3 * 9 - (8 - 2).", "correct"),
        (FOUR, "The answer is 3 * 9 - 8 + 2.", "correct"),
        (FOUR, "The answer is 3 * 9 - (8 + 2).", "value"),
        (FOUR, "The answer is 3 * 9 - 8.", "numbers"),
        (FOUR, "The answer is 2 - 8 + 3 * 9.", "rule"),
    ],
)
def test_verdicts(task, answer, reason):
    assert task.verify(answer) == Verdict(reason == "correct", reason)


@pytest.mark.parametrize(
    "answer",
    [
        *("9 ** 9 ** 9 ** 9", "3 * 7 + 8 ** 1", "3 * 7 + 8 if 1 else 0", "3 * 7 + 8 # = 29"),
        *("__import__('os').getcwd() + 29", "print(29)", "3 * 7 + int('8')", "3 * 7 + 8j", "2_9"),
        *(
            "\u0663 * 7 + 8",
            "3 * 7 + \u0668",
            "3\u00b2 * 7 + 8",
            "3 * 7 + 8 = \u0662\u0669",
            "\u00b2",
        ),
        *(
            "-3 * -7 + 8",
            "+3 * 7 + 8",
            "3 * 7 +",
            "(3 * 7 + 8",
            "3 * 7 + 8)",
            "3 \u00d7 7 + 8",
        ),
    ],
)
def test_nothing_is_evaluated_but_arithmetic_in_plain_digits(answer):
    for text in (answer, f"The answer is {answer}."):
        assert TASK.verify(text).reason == "unreadable"


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "9" * 10_000,
            "(" * 10_000 + "3 * 7 + 8" + ")" * 10_000,
            "3 * 7 + 8" + " " * 50_000 + "x",
        ),
        *(
            "3 * 7 + 8 =" + " " * 50_000 + "x",
            "1 + " * 20_000 + "1",
            "The answer is" + " " * 50_000,
        ),
        "3 * 7 + 8 = " + "29" * 10_000,
    ],
)
def test_endless_answers_are_wrong_at_once(answer):
    before = time.perf_counter()
    assert not TASK.verify(answer).correct
    assert time.perf_counter() - before < 0.5


def test_rules_hold_for_every_intermediate_result():
    assert CountdownTask((3, 7, 8), 4).verify("3 - 7 + 8").reason == "rule"
    assert CountdownTask((2, 4, 7), 14).verify("7 / 2 * 4").reason == "rule"
    assert CountdownTask((2, 4, 7), 14).verify("4 / 2 * 7").correct
    assert CountdownTask((5, 5, 9), 0).verify("9 / (5 - 5)").reason == "unreadable"


# -- the solver


@pytest.mark.parametrize(("count", "amount"), [(3, 150), (4, 15)])
def test_reachable_targets_are_those_of_brute_force(count, amount):
    sizes = set()
    for numbers in random_numbers(1, count, amount):
        expected = outcomes(tuple(sorted(numbers)))
        assert reachable(numbers) == expected, numbers
        sizes.add(len(expected))
    assert len(sizes) > 5


@pytest.mark.parametrize(("count", "amount"), [(3, 60), (4, 12)])
def test_solutions_are_those_of_brute_force(count, amount):
    found = Counter()
    dice = random.Random(count)
    for numbers in random_numbers(2, count, amount):
        for target in [*dice.sample(sorted(reachable(numbers)), 2), dice.randint(1, 99), 100]:
            ways = [tuple(map(written, way)) for way in solutions(CountdownTask(numbers, target))]
            assert len(set(ways)) == len(ways)
            assert set(ways) == derivations(tuple(sorted(numbers)), target), (numbers, target)
            found[bool(ways)] += 1
    assert min(found.values()) > 10


@pytest.mark.parametrize("count", [3, 4])
def test_steps_are_every_operation_once(count):
    for numbers in random_numbers(3, count, 100):
        found = [(written(step), tuple(sorted(left))) for step, left in steps(numbers)]
        assert len(set(found)) == len(found)
        assert set(found) == set(moves(tuple(sorted(numbers)))), numbers


def test_swapped_changes_the_order_and_nothing_else():
    assert Step(7, "*", 3, 21).swapped() == Step(3, "*", 7, 21)
    assert Step(7, "+", 3, 10).swapped() == Step(3, "+", 7, 10)
    for step in (Step(7, "-", 3, 4), Step(6, "/", 3, 2)):
        assert step.swapped() == step


# -- expressions of solutions


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("count", "amount"), [(3, 250), (4, 150)])
def test_every_solution_makes_an_expression_that_is_right(count, amount):
    """Parentheses are where this goes wrong: the value is checked by Python's own grammar."""
    dice = random.Random(10 + count)
    shapes = Counter()
    for _ in range(amount):
        task = draw_task(dice, count)
        ways = list(solutions(task))
        assert ways, task
        for way in ways if len(ways) < 40 else dice.sample(ways, 40):
            # operands in either order, as chains name them
            shown = tuple(step.swapped() if dice.random() < 0.5 else step for step in way)
            text = expression(shown)
            assert by_syntax_tree(text) == task.target, (task, shown, text)
            assert constants(text) == sorted(task.numbers), (task, shown, text)
            assert task.verify(f"The answer is {text}.").correct, (task, shown, text)
            shapes["".join("n" if c.isdigit() else c for c in text.replace(" ", ""))] += 1
    # the hard ones are among them
    assert sum(n for shape, n in shapes.items() if "-(" in shape or "/(" in shape) > 30
    assert len(shapes) > (20 if count == 3 else 200)


@pytest.mark.parametrize(
    ("way", "text"),
    [
        ((Step(8, "-", 3, 5), Step(9, "-", 5, 4)), "9 - (8 - 3)"),
        ((Step(8, "+", 3, 11), Step(19, "-", 11, 8)), "19 - (8 + 3)"),
        ((Step(8, "-", 3, 5), Step(9, "+", 5, 14)), "9 + 8 - 3"),
        ((Step(2, "*", 3, 6), Step(18, "/", 6, 3)), "18 / (2 * 3)"),
        ((Step(6, "/", 3, 2), Step(18, "/", 2, 9)), "18 / (6 / 3)"),
        ((Step(6, "/", 3, 2), Step(9, "*", 2, 18)), "9 * 6 / 3"),
        ((Step(2, "+", 3, 5), Step(4, "*", 5, 20)), "4 * (2 + 3)"),
        ((Step(2, "*", 3, 6), Step(6, "-", 4, 2)), "2 * 3 - 4"),
        # two results of one value, and a number that equals a result
        ((Step(9, "-", 4, 5), Step(3, "+", 2, 5), Step(5, "*", 5, 25)), "(9 - 4) * (3 + 2)"),
        ((Step(2, "+", 2, 4), Step(4, "*", 4, 16), Step(16, "-", 7, 9)), "(2 + 2) * 4 - 7"),
    ],
)
def test_expressions_have_the_parentheses_they_need(way, text):
    assert expression(way) == text


def needed(text):
    """Whether the value or its rules change with every pair of parentheses that is left out."""
    value = by_syntax_tree(text)
    opens = [i for i, c in enumerate(text) if c == "("]
    for start in opens:
        depth, end = 1, start
        while depth:
            end += 1
            depth += {"(": 1, ")": -1}.get(text[end], 0)
        bare = text[:start] + text[start + 1 : end] + text[end + 1 :]
        if by_syntax_tree(bare) == value and parse_expression(bare).whole:
            return False
    return True


@pytest.mark.usefixtures("unchecked")
def test_few_parentheses_are_idle():
    dice = random.Random(4)
    texts = [expression(next(solutions(draw_task(dice, 4)))) for _ in range(150)]
    idle = [text for text in texts if not needed(text)]
    # a * 1 and a / 1 make some look idle that are needed in general
    assert len(idle) < 0.05 * len(texts), idle[:5]


# -- drawing


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [3, 4])
def test_drawn_tasks_are_solvable_and_in_range(count):
    dice = random.Random(6)
    tasks = [draw_task(dice, count) for _ in range(300)]
    for task in tasks:
        assert len(task.numbers) == count
        assert all(1 <= n <= LARGEST_NUMBER[count] for n in task.numbers)
        assert SMALLEST_TARGET <= task.target <= 99
        assert next(solutions(task), None) is not None
    assert {n for t in tasks for n in t.numbers} == set(range(1, LARGEST_NUMBER[count] + 1))
    assert len({task.target for task in tasks}) > 60


@pytest.mark.parametrize("count", [0, 2, 5])
def test_other_sizes_are_refused(count):
    with pytest.raises(TaskError, match="no Countdown tasks of that size"):
        draw_task(random.Random(0), count)


def test_task_file_format():
    task = CountdownTask((8, 3, 7), 29).to_task()
    assert task.id == "countdown-3-7-8-29"
    assert task.category == "countdown-3"
    assert task.verifier == {"kind": "countdown", "numbers": [8, 3, 7], "target": 29}
    assert TASK.verify(task.answer).correct
    assert CountdownTask((1, 1, 1), 99).to_task().answer is None


def test_ids_name_the_numbers_in_sorted_order():
    assert {CountdownTask(p, 29).id for p in itertools.permutations((10, 7, 8))} == {
        "countdown-7-8-10-29"
    }
