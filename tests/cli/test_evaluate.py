"""``steerkit evaluate``: the library's evaluation, shown, stored and gone on with."""

from __future__ import annotations

import json

import pytest

import steerkit as sk
from steerkit.tasks import Task, split_of, write_tasks


@pytest.fixture
def tasks(tmp_path):
    listed = [Task(f"e{i}", f"Use {i}, 9, 2 to make 18.", "sums") for i in range(24)]
    return write_tasks(listed, tmp_path / "tasks.jsonl")


@pytest.fixture
def words(model_folder, chains, vectors, tasks, tmp_path):
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(vectors.read_bytes())
    options = ["--traces", chains, "--vectors", copy, "--tasks", tasks, "--count", 3]
    options += ["--behavior", "uncertainty", "--behavior", "backtracking", "--max-new-tokens", 4]
    options += ["--coefficients", -0.2, 0.2, "--control-tasks", 2, "--random", 2, "--shuffled", 1]
    return ["evaluate", "--model", model_folder, "--annotator", "grammar", *options, "--no-report"]


def test_shows_every_claim_and_why_it_does_not_hold(run, words, tmp_path) -> None:
    result = run(*words, "--annotator", "rules")
    assert result.code == 0, result.err
    assert "about" in result.err and "chains in" in result.err
    for text in ("backtracking", "uncertainty-estimation", "-0.2@", "+0.2@", "too few", "random"):
        assert text in result.out, text
    assert "Labels:  grammar" in result.out
    assert "Labels:  rules@" in result.out and "kappa" in result.out
    assert "does not know the words" in result.out and "3 held-out tasks" in result.out
    made = sk.read_evaluation(tmp_path / "out" / "evaluation")
    assert made.settings["command"].startswith("steerkit evaluate --model")
    assert {split_of(f"Use {t[1:]}, 9, 2 to make 18.") for t in made.generations["task"]} == {
        "evaluate"
    }
    # ranges that were found are in the vectors file, unless the search ended before the text did
    stored = sk.read_vectors(tmp_path / "mine.safetensors")
    for name, found in made.settings["ranges"].items():
        inside = max(map(abs, found["fluent"])) < found["looked_to"] == 0.4
        assert stored[name].fluent == (tuple(found["fluent"]) if inside else None)
    assert stored["deduction"].fluent is None
    again = run(*words)
    assert again.code == 0 and "looking how far" in result.err
    assert "looking how far" not in again.err and "stored in the vectors" not in again.out


def test_prints_what_the_library_finds(run, words, tmp_path) -> None:
    result = run(*words, "--json", "--quiet", "--headline", -0.2, 0.2, "--out", "there")
    assert result.code == 0, result.err
    assert result.err == ""
    found = result.json
    made = sk.read_evaluation(tmp_path / "there")
    assert found["settings"] == made.settings and found["report"] is None
    assert [v["condition"] for v in found["verdicts"]] == list(made.verdicts["condition"])
    assert found["settings"]["headline"]["backtracking"] == {"amplify": 0.2, "suppress": -0.2}
    assert json.loads((tmp_path / "there" / "settings.json").read_text()) == made.settings


def test_any_model_is_evaluated_on_the_tasks_in_plain_english(run, long_folder, tmp_path) -> None:
    """Nothing is named but the model and its vectors: chains, tasks and annotators fit it."""
    model = ["--model", long_folder, "--vectors", "v.safetensors"]
    made = run(
        "extract", *model[:2], "--out", "v.safetensors", "--choose-by", "auroc", "--no-figure"
    )
    assert made.code == 0, made.err
    options = ["--behavior", "backtracking", "--coefficients", -0.2, 0.2, "--headline", -0.2, 0.2]
    options += ["--count", 2, "--control-tasks", 2, "--random", 1, "--shuffled", 1, "--no-report"]
    options += ["--max-new-tokens", 4, "--no-prompt", "--no-divergence"]
    result = run("evaluate", *model, *options)
    assert result.code == 0, result.err
    assert "Chains:  reasoning (bundled)" in result.err
    assert "Tasks:   reasoning (bundled)" in result.err
    assert "Labels:  classifier@" in result.out and "Labels:  rules@" in result.out
    known = {t.id: t.prompt for t in sk.read_tasks(sk.data("tasks/reasoning.jsonl"))}
    used = set(sk.read_evaluation(tmp_path / "out" / "evaluation").generations["task"])
    assert len(used) == 2 and {split_of(known[name]) for name in used} == {"evaluate"}


def test_what_cannot_be_done_is_one_clear_line(run, words, tasks, model_folder, tmp_path) -> None:
    for more, message in (
        (["--annotator", "oracle"], "one of grammar, rules, classifier"),
        (["--headline", "backtracking=x"], "found 'backtracking=x'"),
        (["--headline", 0.1, 0.2], "one coefficient below zero and one above"),
        (["--random", "-1"], "expected a whole number"),
        (["--behavior", "magic"], "unknown behaviour 'magic'"),
        (["--unit", "raw"], "invalid choice: 'raw'"),
    ):
        result = run(*words, *more)
        assert result.code == 2 and message in result.err, result.err
    write_tasks([Task("a", "Why?")] * 0 + [Task("a", "Use 1, 2 to make 3.")], tasks)
    if split_of("Use 1, 2 to make 3.") != "evaluate":
        result = run(*words)
        assert result.code == 2 and "no evaluate task among them" in result.err
    result = run("evaluate", "--model", model_folder, "--vectors", tmp_path / "none.safetensors")
    assert result.code == 2 and "no such vectors file" in result.err
