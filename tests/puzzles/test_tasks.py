import itertools
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

import steerkit as sk
from steerkit.errors import TaskError
from steerkit.puzzles import countdown, rules
from steerkit.puzzles.__main__ import main
from steerkit.puzzles.countdown import CountdownTask
from steerkit.puzzles.rules import RuleTask
from steerkit.puzzles.tasks import KINDS, draw_task, generate_tasks, parse_prompt
from steerkit.puzzles.verdicts import pool_of

POOLS = ("train", "rl", "heldout")
DRAW = {
    "countdown-3": lambda dice: countdown.draw_task(dice, 3),
    "countdown-4": lambda dice: countdown.draw_task(dice, 4),
    "rules": rules.draw_task,
}


def reorderings(task):
    if isinstance(task, CountdownTask):
        return [CountdownTask(p, task.target) for p in itertools.permutations(task.numbers)]
    return [RuleTask(p, task.query) for p in itertools.permutations(task.examples)]


# -- prompts


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_read_back(kind):
    for task in generate_tasks("train", seed=3, count=50, kinds=[kind]):
        assert parse_prompt(task.prompt) == task
        assert parse_prompt(task.to_task().prompt).verify(task.to_task().answer).correct


@pytest.mark.parametrize("prompt", ["", "What is 3 + 7?", "Use 3 to make 3.", "If 1 gives 5?"])
def test_other_prompts_are_refused(prompt):
    with pytest.raises(TaskError, match="not a prompt of the bundled puzzles") as error:
        parse_prompt(prompt)
    assert "Use 3, 7, 8 to make 29." in str(error.value)


# -- pools


@pytest.mark.parametrize("kind", KINDS)
def test_every_reordering_is_the_same_task_in_the_same_pool(kind):
    dice = random.Random(8)
    pools = Counter()
    ids = {}
    for _ in range(200):
        task = DRAW[kind](dice)
        others = reorderings(task)
        assert task in others and len(others) >= 6
        assert {(other.id, other.pool, other.kind) for other in others} == {
            (task.id, task.pool, kind)
        }
        pools[task.pool] += 1
        ids.setdefault(task.id, set()).add(frozenset(other.prompt for other in others))
    assert set(pools) == set(POOLS)
    assert all(len(same) == 1 for same in ids.values())  # no two tasks share an id


def test_examples_of_a_rule_are_in_one_pool_whatever_is_asked():
    """Who has found the rule behind some examples has found it for every query."""
    dice = random.Random(1)
    pools = set()
    for _ in range(30):
        task = rules.draw_task(dice)
        asked = [RuleTask(task.examples, query) for query in range(1, 13)]
        assert {other.pool for other in asked} == {task.pool}
        assert len({other.id for other in asked}) == 12
        pools.add(task.pool)
    assert len(pools) > 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", KINDS)
def test_pools_have_their_shares(kind):
    dice = random.Random(9)
    tasks = [DRAW[kind](dice) for _ in range(4000)]
    pools = {task.id: task.pool for task in tasks}
    counts = Counter(pools.values())
    shares = {pool: counts[pool] / len(pools) for pool in POOLS}
    assert shares == pytest.approx({"train": 0.8, "rl": 0.1, "heldout": 0.1}, abs=0.03)


def test_pools_have_their_shares_whatever_the_name():
    counts = Counter(pool_of(f"task {number}") for number in range(20_000))
    assert counts["train"] / 20_000 == pytest.approx(0.8, abs=0.01)
    assert counts["rl"] / 20_000 == pytest.approx(0.1, abs=0.01)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kind", "count"), [("countdown-3", 1000), ("countdown-4", 1200), ("rules", 1200)]
)
def test_pools_share_no_task(kind, count):
    drawn = {pool: generate_tasks(pool, seed=5, count=count, kinds=[kind]) for pool in POOLS}
    normalised = {
        pool: {
            (tuple(sorted(t.numbers)), t.target)
            if isinstance(t, CountdownTask)
            else tuple(sorted(t.examples))
            for t in tasks
        }
        for pool, tasks in drawn.items()
    }
    for pool, tasks in drawn.items():
        assert {task.pool for task in tasks} == {pool} and {task.kind for task in tasks} == {kind}
        assert len({task.id for task in tasks}) == count >= len(normalised[pool]) > count / 4
        for other in set(POOLS) - {pool}:
            assert not normalised[pool] & normalised[other]


# -- generating


def test_generated_tasks_are_unique_and_even_over_kinds():
    tasks = generate_tasks("heldout", seed=3, count=301)
    assert len({task.id for task in tasks}) == 301
    assert {task.pool for task in tasks} == {"heldout"}
    assert Counter(task.kind for task in tasks) == dict(zip(KINDS, (101, 100, 100), strict=True))
    assert [task.kind for task in tasks[:4]] == [*KINDS, KINDS[0]]
    numbers = [task.numbers for task in tasks if isinstance(task, CountdownTask)]
    assert sum(n != tuple(sorted(n)) for n in numbers) > 100  # any order, not the normalised one


@pytest.mark.usefixtures("unchecked")
def test_a_larger_count_goes_on_where_a_smaller_one_ends():
    for kinds in (KINDS, ("rules",), ("countdown-4", "countdown-3")):
        tasks = generate_tasks("rl", seed=7, count=60, kinds=kinds)
        for count in (0, 1, 29, 59):
            assert generate_tasks("rl", seed=7, count=count, kinds=kinds) == tasks[:count]


def test_seeds_and_pools_give_other_tasks():
    ids = {
        (pool, seed): {task.id for task in generate_tasks(pool, seed, count=60)}
        for pool in POOLS
        for seed in (0, 1)
    }
    for one, other in itertools.combinations(ids, 2):
        assert len(ids[one] & ids[other]) < 10, (one, other)


def test_generated_tasks_are_repeatable_in_other_processes():
    tasks = generate_tasks("heldout", seed=3, count=120)
    code = (
        "from steerkit.puzzles.tasks import generate_tasks;"
        "print([t.prompt for t in generate_tasks('heldout', seed=3, count=120)])"
    )
    for hash_seed in ("1", "2"):
        again = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        )
        assert again.stdout.strip() == str([task.prompt for task in tasks])


@pytest.mark.usefixtures("unchecked")
def test_more_tasks_than_there_are_is_an_error():
    with pytest.raises(TaskError, match="too many tasks asked of the pool 'rl'"):
        generate_tasks("rl", count=2000, kinds=["countdown-3"])


def test_other_kinds_are_refused():
    for refused in (
        lambda: generate_tasks("train", count=3, kinds=["countdown-5"]),
        lambda: draw_task("train", "chess", random.Random(0)),
    ):
        with pytest.raises(TaskError, match="unknown kind of task"):
            refused()


# -- the command that writes a tasks file


def test_the_command_writes_the_same_file_again(tmp_path, monkeypatch):
    def run(name, *options):
        out = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["x", "--out", str(out), *options])
        main()
        return out

    one = run("a.jsonl", "--count", "30")
    tasks = sk.read_tasks(one)
    assert [task.prompt for task in tasks] == [t.prompt for t in generate_tasks("heldout", 0, 30)]
    assert run("b.jsonl", "--count", "30").read_bytes() == one.read_bytes()
    other = sk.read_tasks(
        run("c.jsonl", "--count", "8", "--kinds", "rules", "--pool", "rl", "--seed", "4")
    )
    assert {task.category for task in other} == {"rules"}
    assert {parse_prompt(task.prompt).pool for task in other} == {"rl"}
