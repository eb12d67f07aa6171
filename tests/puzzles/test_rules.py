import itertools
import random
import time
from collections import Counter

import pytest

from steerkit.puzzles.rules import Rule, RuleTask, all_rules, draw_task, rules_through
from steerkit.puzzles.verdicts import Verdict
from tests.puzzles.oracles import by_syntax_tree, rule_space, rules_of

TASK = RuleTask(((1, 5), (3, 9), (4, 11)), 6)  # 2 * x + 3


def outputs(rule):
    return tuple(rule(x) for x in range(1, 13))


# -- the rules


def test_the_rules_are_those_of_the_oracle():
    assert {outputs(rule) for rule in all_rules()} == set(rule_space())
    assert len(all_rules()) == len(rule_space())


def test_a_rule_is_named_as_it_computes():
    names = [str(rule) for rule in all_rules()]
    assert len(set(names)) == len(names)
    for rule in all_rules():
        for x in (1, 7, 12):
            text = str(rule).replace("x", str(x))
            assert by_syntax_tree(text) == rule(x), (rule, text)


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (Rule(1, 4), "x + 4", 9),
        (Rule(1, -4), "x - 4", 1),
        (Rule(3, -2), "3 * x - 2", 13),
        (Rule(7, 0), "7 * x", 35),
        (Rule(1, 0, squared=True), "x * x", 25),
        (Rule(1, -9, squared=True), "x * x - 9", 16),
    ],
)
def test_forms_of_rules(rule, name, value):
    assert (str(rule), rule(5)) == (name, value)


@pytest.mark.usefixtures("unchecked")
def test_rules_through_an_example_are_all_that_fit_it():
    seen = set()
    for x in range(1, 13):
        for y in range(1, 100):
            found = [outputs(rule) for rule in rules_through((x, y))]
            assert sorted(found) == sorted(rules_of(((x, y),))), (x, y)
            seen.add(len(found))
    assert {0, 1, 2, 3, 4, 5} <= seen


# -- tasks


def test_prompt_reads_back():
    assert TASK.prompt == "If 1 gives 5, 3 gives 9 and 4 gives 11, what does 6 give?"
    assert RuleTask.parse(TASK.prompt) == RuleTask.parse(f"\n{TASK.prompt} ") == TASK
    for order in itertools.permutations(TASK.examples):
        task = RuleTask(order, 6)
        assert RuleTask.parse(task.prompt) == task
        assert task.id == "rules-1-5-3-9-4-11-6"
    assert TASK.kind == "rules"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "If 1 gives 5 and 3 gives 9, what does 6 give?",
        "If 1 gives 5, 3 gives 9, 4 gives 11, what does 6 give?",
        "If 1 gives 5, 3 gives 9 and 4 gives 11, what does 6 give",
        "If 1 gives 5, 3 gives 9 and 4 gives -1, what does 6 give?",
        "If 1 gives 5, 3 gives 9 and 4 gives \u0661, what does 6 give?",
        "If 1 gives 5, 3 gives 9 and 4 gives 11, what does x give?",
        f"If 1 gives 5, 3 gives 9 and 4 gives 11, what does {'6' * 5000} give?",
        "Use 3, 7, 8 to make 29.",
    ],
)
def test_other_prompts_are_none(prompt):
    assert RuleTask.parse(prompt) is None


def test_the_rules_of_a_task_are_those_of_brute_force():
    dice = random.Random(0)
    found = Counter()
    for _ in range(800):
        rule = dice.choice(all_rules())
        xs = dice.sample(range(1, 13), dice.choice((1, 2, 3, 3)))
        # a repeated example says nothing more, a wrong one leaves no rule
        examples = (tuple((x, rule(x) + (dice.random() < 0.1)) for x in xs) * 3)[:3]
        task = RuleTask(examples, dice.randint(1, 12))
        expected = rules_of(examples)
        assert sorted(outputs(rule) for rule in task.rules) == sorted(expected)
        answers = {row[task.query - 1] for row in expected}
        assert task.answer == (answers.pop() if len(answers) == 1 else None)
        found[min(len(expected), 2), task.answer is None] += 1
    assert found[0, True] > 50 and found[1, False] > 200 and found[2, True] > 50


def test_rules_that_disagree_leave_no_answer():
    unclear = RuleTask(((2, 4), (2, 4), (2, 4)), 3)
    assert len(unclear.rules) > 2 and unclear.answer is None
    assert not unclear.verify("The answer is 6.").correct
    assert RuleTask(unclear.examples, 2).answer == 4  # all of them agree about what is given
    impossible = RuleTask(((1, 5), (2, 5), (3, 5)), 4)
    assert impossible.rules == () and impossible.answer is None
    assert impossible.to_task().answer is None


# -- the verifier


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        *(("The answer is 15.", "correct"), ("15", "correct"), (" The answer is 15\n", "correct")),
        *(("The answer is 14.", "value"), ("150", "value"), ("The answer is 1.", "value")),
        *(("The answer is 5.", "value"), ("0", "value")),
        *(("I do not know.", "no answer"), ("", "no answer"), ("The answer is.", "no answer")),
        *(("It is 15.", "unreadable"), ("15 or 16", "unreadable"), ("6 gives 15.", "unreadable")),
        *(("The answer is 15. Maybe 16.", "unreadable"), ("The answer is 14. 15.", "unreadable")),
        *(("The answer is -15.", "unreadable"), ("1 5", "unreadable"), ("15.0", "unreadable")),
        *(("2 * 6 + 3", "unreadable"), ("The answer is 2 * 6 + 3 = 15.", "unreadable")),
        *(("0x0f", "unreadable"), ("1_5", "unreadable"), ("15!", "unreadable")),
        *(("\u0661\u0665", "unreadable"), ("1\u2075", "unreadable"), ("\u00b2", "unreadable")),
        *(("\uff11\uff15", "unreadable"), ("9 ** 9 ** 9", "unreadable")),
    ],
)
def test_verdicts(answer, reason):
    assert TASK.verify(answer) == Verdict(reason == "correct", reason)


@pytest.mark.parametrize(
    "answer", ["15" * 10_000, "15" + " " * 50_000 + "x", "The answer is" + " " * 50_000 + "x15"]
)
def test_endless_answers_are_wrong_at_once(answer):
    before = time.perf_counter()
    assert not TASK.verify(answer).correct
    assert time.perf_counter() - before < 0.5


# -- drawing


@pytest.mark.usefixtures("unchecked")
def test_drawn_tasks_have_one_rule_and_stay_in_range():
    dice = random.Random(3)
    tasks = [draw_task(dice) for _ in range(1000)]
    forms = Counter()
    for task in tasks:
        (row,) = rules_of(task.examples)
        xs = [*(x for x, _ in task.examples), task.query]
        assert len(set(xs)) == 4 and all(1 <= x <= 12 for x in xs)
        assert task.answer == row[task.query - 1]
        assert all(1 <= n <= 99 for n in (*(y for _, y in task.examples), task.answer))
        forms[rule_space()[row][0], rule_space()[row][2] != 0] += 1
        assert task.verify(f"The answer is {task.answer}.").correct
        assert not task.verify(f"The answer is {task.answer + 1}.").correct
    shares = {form: n / len(tasks) for form, n in forms.items()}
    assert min(shares.values()) > 0.005 and shares["line", True] > 0.35, shares
    assert shares["square", True] > 0.1 and shares["shift", True] > 0.1
    assert len({task.rules for task in tasks}) > 0.8 * len(all_rules())


def test_task_file_format():
    task = TASK.to_task()
    assert (task.id, task.category, task.answer) == ("rules-1-5-3-9-4-11-6", "rules", "15")
    assert task.verifier == {
        "kind": "rules",
        "examples": [[1, 5], [3, 9], [4, 11]],
        "query": 6,
    }
