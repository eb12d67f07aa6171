"""Tasks files, and splits that depend on the normalised prompt alone."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import ResourceError, TaskError
from steerkit.resources import data
from steerkit.tasks import SPLITS, Task, normalized, read_tasks, split_of, task_hash, write_tasks

TASKS = [
    Task("a", "Use 3, 7, 8 to make 29.", "countdown", "3 * 7 + 8", {"kind": "countdown"}),
    Task("b", "Wie groß ist π?\nGenau.\u2028Bitte.", answer="3,14"),
    Task("c", "No answer is known."),
]


def lines(tmp_path, *records):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records))
    return path


def test_what_is_written_is_read_back(tmp_path):
    assert read_tasks(write_tasks(TASKS, tmp_path / "tasks.jsonl")) == TASKS


def test_the_same_tasks_give_the_same_bytes(tmp_path):
    first, second = (write_tasks(TASKS, tmp_path / name).read_bytes() for name in "xy")
    assert first == second and first.count(b"\n") == len(TASKS)
    assert write_tasks(TASKS[::-1], tmp_path / "z").read_bytes() != first


def test_fields_that_are_not_given_are_left_out_and_null_is_the_same(tmp_path):
    assert set(TASKS[2].to_json()) == {"id", "category", "prompt"}
    bare = {"id": "c", "prompt": "No answer is known."}
    null = bare | {"id": "d", "category": None, "answer": None, "verifier": None}
    for task in read_tasks(lines(tmp_path, bare, null)):
        assert (task.category, task.answer, task.verifier) == ("", None, None)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"prompt": "p"}, "has no id"),
        ({"id": " ", "prompt": "p"}, "has no id"),
        ({"id": 7, "prompt": "p"}, "has no id"),
        ({"id": "x"}, "has no prompt"),
        ({"id": "x", "prompt": ["p"]}, "has no prompt"),
        ({"id": "x", "prompt": "p", "answer": 29}, "'answer' has the wrong type"),
        ({"id": "x", "prompt": "p", "verifier": [3]}, "'verifier' has the wrong type"),
        ({"id": "x", "prompt": "p", "category": 1}, "'category' has the wrong type"),
        ({"id": "good", "prompt": "p"}, "'good' occurs twice (first in line 1)"),
        (["x"], "not a JSON object"),
        ('{"id": "x"', "not valid JSON"),
    ],
)
def test_bad_input_names_file_and_line(tmp_path, bad, words):
    path = lines(tmp_path, {"id": "good", "prompt": "p"}, "", bad)
    with pytest.raises(TaskError) as error:
        read_tasks(path)
    assert words in str(error.value) and f"{path}, line 3" in str(error.value)


def test_a_missing_file_is_a_resource_error(tmp_path):
    with pytest.raises(ResourceError, match=r"none\.jsonl: no such file"):
        read_tasks(tmp_path / "none.jsonl")


@given(st.lists(st.integers(1, 99), min_size=2, max_size=5), st.integers(1, 99), st.randoms())
def test_reordering_numbers_never_changes_the_split(numbers, target, shuffle):
    def prompt(order):
        return f"Use {', '.join(map(str, order))} to make {target}."

    other = list(numbers)
    shuffle.shuffle(other)
    assert task_hash(prompt(other)) == task_hash(prompt(numbers))
    assert split_of(prompt(other)) == split_of(prompt(numbers))


def test_case_space_and_marks_do_not_matter_but_words_do():
    assert normalized("Use 3, 7!") == normalized("  use\n7 and 3 ".replace(" and", "")) == "3 7 use"
    assert task_hash("STRASSE 1") == task_hash("straße: 1")
    assert len({task_hash(p) for p in ("Use 3, 7", "Use 3, 7, 7", "Use 37", "Use 3, 8")}) == 4


def test_operators_and_signs_tell_tasks_apart():
    prompts = ["3 + 4", "3 - 4", "3 * 4", "3 / 4", "3 ^ 4", "3 = 4", "3 < 4", "3 > 4", "3 % 4"]
    prompts += ["3 4", "-3 + -4", "-3 + 4"]
    assert len({task_hash(f"What is {p}?") for p in prompts}) == len(prompts)
    for same in ("3-4", "3 -4", "4 - 3", "(3)-(4)", "-3 4"):
        assert normalized(same) == "- 3 4"
    assert normalized("x=-3") == "- 3 = x" and normalized("2*-3") == "* - 2 3"
    for hyphen in ("a well-known 3-digit number", "a well known 3 digit number", "known--well"):
        assert "-" not in normalized(hyphen)


@given(st.permutations(["3", "+", "4", "-", "7", "=", "well-known", "x"]))
def test_order_alone_does_not_tell_tasks_apart(words):
    assert task_hash(" ".join(words)) == task_hash("3 + 4 - 7 = well-known x")


def test_bundled_tasks_stay_where_they_were_without_operators():
    for task in read_tasks(data("tasks/countdown.jsonl")):
        plain = " ".join(sorted(re.findall(r"\w+", task.prompt.casefold())))
        assert normalized(task.prompt) == plain


def test_hashes_are_fixed_for_ever():
    """Splits in other people's results must not move: `b2sum -l 64` of the sorted words."""
    assert normalized("Use 3, 7, 8 to make 29.") == "29 3 7 8 make to use"
    assert task_hash("Use 3, 7, 8 to make 29.") == "ec045a92002f0836"
    assert split_of("Use 3, 7, 8 to make 29.") == "select"  # 0x...36 is 2 modulo 4


def test_half_extract_a_quarter_select_a_quarter_evaluate():
    draw = random.Random(0)
    prompts = {
        f"Use {draw.sample(range(1, 30), 3)} to make {draw.randint(1, 99)}" for _ in range(8000)
    }
    tasks = {task_hash(p): p for p in prompts}
    counts = Counter(split_of(p) for p in tasks.values())
    assert set(counts) == set(SPLITS)
    for name, share in zip(SPLITS, (0.5, 0.25, 0.25), strict=True):
        # five standard deviations of a fair draw
        slack = 5 * (share * (1 - share) / len(tasks)) ** 0.5
        assert abs(counts[name] / len(tasks) - share) < slack, counts
