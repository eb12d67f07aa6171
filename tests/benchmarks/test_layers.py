"""`make layers`: what is written, kept, gone on with and made again."""

from __future__ import annotations

import json
from types import SimpleNamespace

import layers
import pandas as pd
import pytest
from layer_agreement import agreement, differences
from layers_report import markdown

import steerkit as sk
from steerkit.errors import SteerkitError
from steerkit.training.tokenizer import build_tokenizer
from tests.benchmarks.test_layer_agreement import judged_by, shares_around, table
from tests.tiny import tiny_hf, tiny_traces


def test_the_page_names_every_score_and_layer() -> None:
    scores = table()
    content = {
        "model": "m",
        "tasks": 9,
        "coefficient": 0.2,
        "intervals": "No intervals: why.",
        "agreement": agreement(scores),
        "differences": differences(scores),
        "chosen": {"sweep": {"backtracking": 3}, "gain": {"backtracking": 3}},
    }
    page = markdown(content, scores)
    assert "| gain | 1.00 over 3 | 3 of 3 | 3 of 3 | 0 % |" in page and "No intervals: why." in page
    assert "| layer number |" in page and "| random layer | - | 0.75 of 3 | 3 of 3 |" in page
    assert "| gain minus gradient | +2.00 | 3, 0, 0 |" in page
    assert page.count("| backtracking |") == 9
    assert "(0.0" not in page.split("## The sweep")[1], "9 tasks bear no interval"


def test_a_page_is_made_again_from_the_numbers_that_are_kept(tmp_path, capsys) -> None:
    scores = table()
    shares = shares_around(scores, 25, shared=0.3, own=0.1)
    scores = judged_by(scores, shares)
    scores.to_csv(tmp_path / "layers_m.csv", index=False)
    facts = {"model": "m", "tasks": 25, "coefficient": 0.2, "annotator": "rules", "tokens": 9}
    (tmp_path / "layers_m.json").write_text(json.dumps({**facts, "agreement": "of old"}))
    words = ["--report", "--folder", str(tmp_path)]
    assert layers.main(words) == 0
    assert "layers_m.md" in capsys.readouterr().out and (tmp_path / "layers_m.png").is_file()
    page = (tmp_path / "layers_m.md").read_text()
    assert "the shares of single tasks were not kept" in page and " over 3 |" in page
    content = json.loads((tmp_path / "layers_m.json").read_text())
    assert content["agreement"] == agreement(scores) and content["annotator"] == "rules"
    # with the shares there are intervals, and what is made twice is the same
    shares.to_csv(tmp_path / "layers_m_tasks.csv", index=False)
    assert layers.main(words) == 0
    page = (tmp_path / "layers_m.md").read_text()
    assert "| gain | 1.00 (" in page and "resampled together" in page
    assert layers.main(words) == 0 and (tmp_path / "layers_m.md").read_text() == page
    # an old result of few tasks says so
    (tmp_path / "layers_m.json").write_text(json.dumps({**facts, "tasks": 4}))
    assert layers.main(words) == 0
    assert "too few tasks, 4 of at least 20" in (tmp_path / "layers_m.md").read_text()
    with pytest.raises(SteerkitError, match="no results to report"):
        layers.main(["--report", "--folder", str(tmp_path / "none")])


def test_published_pages_are_those_of_the_numbers_kept() -> None:
    for kept in sorted(layers.RESULTS.glob("layers*.json")):
        content = json.loads(kept.read_text())
        scores = pd.read_csv(kept.with_suffix(".csv"))
        assert kept.with_suffix(".md").read_text() == markdown(content, scores, f"{kept.stem}.png")
        file = kept.with_name(f"{kept.stem}_tasks.csv")
        shares = pd.read_csv(file) if file.is_file() else None
        assert content["differences"] == json.loads(json.dumps(differences(scores, shares)))
        counted = [r.get("best_two") for r in content["agreement"]]
        assert counted == [r.get("best_two") for r in agreement(scores, shares)]


def test_the_command_says_every_setting() -> None:
    assert layers.command_of(layers.arguments([]), "m") == "make layers"
    text = layers.command_of(layers.arguments(["--chains", "48"]), "m")
    assert text.startswith("python benchmarks/layers.py --count 40") and "--chains 48" in text
    words = ["--model", "/a/b/m-1b", "--adapter", "a", "--layers", "1,3", "--count", "6"]
    text = layers.command_of(layers.arguments(words), "m-1b")
    again = layers.arguments(text.split()[2:])
    assert again.model == "~/.cache/steerkit/m-1b" and again.adapter == "a"
    assert list(again.layers) == [1, 3] and "--count 6" in text and "--read 256" in text


def test_slopes_are_from_as_many_chains_as_extract_takes() -> None:
    facts = {"layer_choice": {"score": "gradient", "chains": 17}}
    vectors = SimpleNamespace(provenance=facts)
    assert layers.arguments([]).chains is None
    assert layers.chains_of_slopes(vectors, layers.arguments([])) == 17
    assert layers.chains_of_slopes(vectors, layers.arguments(["--chains", "48"])) == 48


@pytest.fixture
def words(tmp_path):
    """The script's options for a tiny model with random weights."""
    folder = tmp_path / "tiny-model"
    tiny_hf().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    traces = sk.write_traces(tiny_traces(60), tmp_path / "chains.jsonl")
    tasks = [sk.Task(f"t{i}", f"Use {i}, 7, 9 to make 29.") for i in range(40)]
    sk.write_tasks(tasks, tmp_path / "tasks.jsonl")
    options = {
        "model": folder,
        "traces": traces,
        "task-file": tmp_path / "tasks.jsonl",
        "annotator": "rules",
        "behaviors": "backtracking,deduction",
        "layers": "0,2",
        "count": 2,
        "tokens": 5,
        "chains": 6,
        "step-chains": 3,
        "read": 80,
        "batch-size": 6,
        "folder": tmp_path / "results",
        "state": tmp_path / "state",
    }
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


def test_another_model_is_scored_swept_and_gone_on_with(words, tmp_path, monkeypatch, capsys):
    written = []
    plain = sk.ThinkingModel.sweep
    monkeypatch.setattr(
        sk.ThinkingModel,
        "sweep",
        lambda *a, **k: written.append(len(a[1])) or plain(*a, **k),
    )
    assert layers.main([*words, "--minutes", "1e9"]) == 0
    assert written == [1, 1]  # a task at a time: 9 rows fill a batch
    shown = capsys.readouterr()
    assert "sweep: 18 chains" in shown.err and "# Do cheap scores tell" in shown.out
    results = tmp_path / "results"
    made = {path.name: path.read_bytes() for path in results.iterdir()}
    kinds = (".json", ".csv", ".md", ".png", "_tasks.csv")
    assert set(made) == {f"layers_tiny{kind}" for kind in kinds}
    content = json.loads(made["layers_tiny.json"])
    assert content["annotator"].startswith("rules@") and content["tasks"] == 2
    found = pd.read_csv(results / "layers_tiny.csv")
    assert set(found.score) == {"auroc", "gradient", "published", "gain", "effect", "sweep"}
    assert (found.groupby(["score", "behavior"]).layer.apply(list).map(tuple) == (0, 2)).all()
    # the shares of tasks are those whose mean the sweep's value is
    shares = pd.read_csv(results / "layers_tiny_tasks.csv").set_index(["behavior", "layer"])
    swept = found[found.score == "sweep"].set_index(["behavior", "layer"])
    assert shares.shape == (4, 2)
    assert shares.mean(axis=1).to_numpy() == pytest.approx(swept.value[shares.index].to_numpy())
    assert "too few tasks, 2 of at least 20" in made["layers_tiny.md"].decode()
    # what is lost of a state is made again, and only that
    state = tmp_path / "state" / "layers_tiny"
    last = sorted(state.glob("sweep_*.csv"))[-1]
    last.unlink()
    (state / "steps_02.csv").unlink()
    assert layers.main(words) == 0
    assert written == [1, 1, 1]
    assert (results / "layers_tiny.csv").read_bytes() == made["layers_tiny.csv"]
    # other settings begin anew
    assert layers.main([*words, "--coefficient", "0.1"]) == 0
    assert written == [1] * 5
    assert (results / "layers_tiny.csv").read_bytes() != made["layers_tiny.csv"]


def test_what_takes_too_long_is_not_begun(words, tmp_path, capsys):
    with pytest.raises(SteerkitError, match=r"too long.*at most 0 minutes.*--layers"):
        layers.main([*words, "--minutes", "0"])
    assert layers.main([*words, "--budget"]) == 0
    assert "extraction and areas" in capsys.readouterr().err
    assert not (tmp_path / "state").exists() and not (tmp_path / "results").exists()


def test_select_tasks_are_of_all_categories():
    tasks = layers.select_tasks(str(sk.data("tasks/reasoning.jsonl")), 12)
    assert len(tasks) == 12 and len({task.category for task in tasks}) > 4
