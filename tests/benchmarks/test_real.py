"""`make real` runs on a tiny model with a tiny adapter, and goes on where it stopped."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import real
import real_directions
import real_steering
from real_report import markdown

import steerkit as sk
from steerkit.tasks import split_of
from tests.tiny import tiny_model, tiny_trace, tiny_traces
from tests.training.adapters import base_folder, shaken, written_adapter


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("real")
    base = base_folder(place / "tiny-qwen2", max_position_embeddings=2048)
    model = tiny_model()
    return base, written_adapter(place / "thinker", model, shaken, record={"think": real.THINK})


@pytest.fixture
def run(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEERKIT_REFERENCE", raising=False)
    for module in (real, real_directions, real_steering):
        monkeypatch.setattr(module, "LAYER", 1)

    def call(*words: str) -> tuple[dict, str]:
        few = ["--chains", "12", "--prompts", "2", "--max-new-tokens", "6"]
        few += ["--tasks", "3", "--thinking-tokens", "5"]
        monkeypatch.setattr(sys, "argv", ["real.py", "--model", str(folders[0]), *few, *words])
        real.main()
        captured = capsys.readouterr()
        results = json.loads((tmp_path / "out/real/results/real.json").read_text())
        assert captured.out.strip() == markdown(results).strip()
        return results, captured.err

    return call


def test_both_models_are_steered_by_directions_of_the_own_chains(run, folders, tmp_path) -> None:
    results, said = run("--adapter", str(folders[1]))
    assert "STEERKIT_REFERENCE is not set" in said and results["reference"] is None
    assert results["chains"] == "own" and results["extraction"]["chains"] == 12
    page = (tmp_path / "out/real/results/real.md").read_text()
    assert "labelled chains in plain English that come with steerkit" in page
    assert "*Published*" not in page and "reference_steering" not in results
    for part, coefficients in (
        (results, (-0.4, 0.25, 0.5)),
        (results["adapter"], (-0.3, 0.1, 0.2)),
    ):
        rows = part["conditions"]
        assert {row["coefficient"] for row in rows} == {0.0, *coefficients}
        assert len(part["texts"]) == 2 * 10 and len(part["thinking"]["chains"]) == 3
        assert part["thinking"]["shares"]["tasks"] == 3
        assert set(part["thinking"]["labelled"]) == {"rules", "classifier"}
    assert "With the adapter thinker" in page and "## Does it think?" in page
    plain, thinking = ([row["text"] for row in p["texts"]] for p in (results, results["adapter"]))
    assert plain[:2] != thinking[:2]  # unsteered: two models
    with (tmp_path / "out/real/results/real.csv").open(newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["plain"] * 20 + ["adapter"] * 20
    before = (tmp_path / "out/real/texts.jsonl").stat().st_mtime_ns
    again, said = run("--adapter", str(folders[1]))
    assert "steered" not in said and "asked" not in said
    assert (tmp_path / "out/real/texts.jsonl").stat().st_mtime_ns == before
    assert again["adapter"]["texts"] == results["adapter"]["texts"]


def test_without_an_adapter_the_plain_model_alone_is_shown(run, tmp_path) -> None:
    results, said = run("--adapter", "none", "--contrasts")
    assert "only the plain model is shown" in said and "adapter" not in results
    page = (tmp_path / "out/real/results/real.md").read_text()
    assert "Does it think?" not in page and "The other contrasts: split-half cosine" in page


def test_with_reference_chains_the_two_sets_are_compared(
    run, folders, reference, monkeypatch, tmp_path
):
    words = ("--adapter", str(folders[1]))
    monkeypatch.setenv("STEERKIT_REFERENCE", str(reference))
    results, said = run(*words)
    assert "parts could not be placed" in said and results["reference"]["chains"] == 12
    found = results["reference"]["directions"]
    assert {"deduction", "uncertainty-estimation"} <= set(found)
    assert all(-1 <= row["cosine"] <= 1 for row in found.values())
    page = (tmp_path / "out/real/results/real.md").read_text()
    assert "## From which chains?" in page and "published: own" not in page
    assert "## Steering by directions from either chains" in page
    texts = {}
    for name, part in (("plain", results), ("adapter", results["adapter"])):
        other = part["reference_steering"]
        pairs = list(zip(part["texts"], other["texts"], strict=True))
        for own, theirs in pairs:
            keys = ("prompt", "direction", "coefficient")
            assert [own[key] for key in keys] == [theirs[key] for key in keys]
            if own["direction"] == "none":
                assert own["text"] == theirs["text"]
        # other vectors, other texts somewhere
        texts[name] = [own["text"] != theirs["text"] for own, theirs in pairs]
        assert len(other["conditions"]) == len(part["conditions"])
    assert any(texts["plain"]) and any(texts["adapter"])

    # a state from before this part existed is gone on from: only what is new is made
    kept = [tmp_path / "out" / name / "texts.jsonl" for name in ("real", "real-adapter")]
    before = [path.stat().st_mtime_ns for path in kept]
    for path in kept:
        shutil.rmtree(path.parent / "reference-steering")
    again, said = run(*words)
    assert said.count("steered 2 of 2 prompts") == 2 and "asked" not in said
    assert "extract:" not in said
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert again["reference_steering"]["texts"] == results["reference_steering"]["texts"]


def test_two_sets_of_chains_are_compared_by_behaviour(monkeypatch) -> None:
    monkeypatch.setattr(real_directions, "LAYER", 1)
    model = tiny_model()
    one, two = (
        sk.extract(
            model,
            tiny_traces(40, seed=seed),
            contrast="rest",
            window=sk.Window(1, 10),
            select=sk.Traces(),
        )
        for seed in (0, 1)
    )
    found = real_directions.between_chains(one, two)
    for label, row in found["directions"].items():
        expected = real_directions.cosine(one[label].tensor[1], two[label].tensor[1])
        assert row["cosine"] == pytest.approx(expected)
        assert found["cosine_by_layer"][label][1] == pytest.approx(expected, abs=1e-4)
        assert row["cosine_with_other_labels"] < row["cosine"]
    same = real_directions.between_chains(one, one)["directions"]
    assert all(row["cosine"] == pytest.approx(1) for row in same.values())


def test_held_out_tasks_have_answers_and_no_chain() -> None:
    tasks = real_steering.held_out_tasks(24)
    assert len({task.category for task in tasks}) >= 8 and len(tasks) == 24
    assert all(task.answer and split_of(task.prompt) == "evaluate" for task in tasks)
    prompts = {trace.prompt for trace in real_directions.own_chains()}
    assert not prompts & {task.prompt for task in tasks}


@pytest.mark.parametrize(
    ("text", "right"),
    [("So.\n</think>\nAnswer: 7", True), ("So.\n</think>\nAnswer: 8", False), ("Answer: 7", False)],
)
def test_a_thinking_model_answers_after_its_thinking(text: str, right: bool) -> None:
    task = sk.Task(id="t", prompt="How many?", answer="7")
    trace = sk.Trace(id="t", task_id="t", prompt="How many?", response=text)
    assert real_steering.answered(tiny_model(), trace, task) is right


def test_a_plain_model_answers_anywhere() -> None:
    from tests.training.adapters import plain_model

    model, task = plain_model(), sk.Task(id="t", prompt="How many?", answer="7")
    texts = {"It is so.\nAnswer: 7": True, "**Answer:** 8": False, "It is so.": False}
    for text, right in texts.items():
        trace = sk.Trace(id="t", task_id="t", prompt="How many?", response=text)
        assert real_steering.answered(model, trace, task) is right
    assert not real_steering.answered(model, tiny_trace(["deduction"]), task)


def test_chains_with_a_behaviour_are_counted_by_annotator() -> None:
    doubt, back, plain = (
        "Hmm, I'm not sure about this.",
        "Wait, no, that can't be right. Let me try another way.",
        "So 7 times 12 is 84.",
    )
    chains = sk.Traces(
        sk.Trace(id=str(n), task_id=str(n), prompt=f"How many, {n}?", response=text)
        for n, text in enumerate(
            [
                f"{plain} {doubt}\n</think>\n{back}",  # an answer is no part of it
                f"{plain} {doubt}",  # a plain model's text counts as a whole
                f"{plain} {back}\n</think>\n84",
                plain,
            ]
        )
    )
    found = real_steering.labelled_shares(chains)
    assert list(found) == ["rules", "classifier"]
    rules = found["rules"]
    assert rules["annotator"].startswith("rules@")
    assert rules["chains_with"]["uncertainty-estimation"]["value"] == 0.5
    assert rules["chains_with"]["backtracking"]["value"] == 0.25
    for part in found.values():
        assert part["sentences"] >= 7 and part["unparsed"] <= part["sentences"]
        for share in part["chains_with"].values():
            assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    # Wilson's interval of 2 of 4, by its formula
    z, n, p = 1.959964, 4, 0.5
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert rules["chains_with"]["uncertainty-estimation"]["low"] == pytest.approx(0.5 - half)
