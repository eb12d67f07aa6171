"""`make layers`: a score that agrees with the sweep is told from one that does not."""

from __future__ import annotations

import json

import layers
import numpy as np
import pandas as pd
import pytest
from layers_report import agreement, markdown
from scipy.stats import spearmanr

import steerkit as sk
from steerkit.errors import SteerkitError
from steerkit.training.tokenizer import build_tokenizer
from tests.tiny import tiny_hf, tiny_traces

NAMES = ("backtracking", "deduction", "uncertainty-estimation")


def table() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for behavior in NAMES:
        truth = rng.permutation(8) / 10
        noise = rng.permutation(8) / 10
        for layer in range(8):
            for score, value in (
                ("sweep", truth[layer]),
                ("gain", 3 * truth[layer] + 0.01 * noise[layer]),
                ("auroc", noise[layer]),
                ("gradient", -truth[layer]),
            ):
                row = {"behavior": behavior, "layer": layer, "score": score, "value": value}
                row |= {"low": value - 0.02, "high": value + 0.02, "closed": 1.0, "parsed": 1.0}
                rows.append({**row, "up": value, "down": 0.0, "base": 0.1})
    return pd.DataFrame(rows)


def test_agreement_is_found_where_it_is_planted() -> None:
    found = agreement(table()).set_index("score")
    assert found.correlation["gain"] == pytest.approx(1.0) and found.low["gain"] > 0.9
    assert found.best_two["gain"] == 3 == found.behaviors["gain"] and found.lost["gain"] == 0.0
    assert found.correlation["gradient"] == pytest.approx(-1.0)
    assert found.best_two["gradient"] == 0 and found.lost["gradient"] == 1.0
    assert abs(found.correlation["auroc"]) < 0.6
    assert (found.low <= found.correlation + 1e-9).all()


def test_layers_that_the_sweep_does_not_tell_apart_share_a_rank() -> None:
    """Short sweeps on few tasks have many equal shares; their order must not count."""
    scores = table()
    sweep = scores.score == "sweep"
    scores.loc[sweep, "value"] = scores.value.round(0)
    expected = []
    for name in NAMES:
        mine = scores[scores.behavior == name].pivot(index="layer", columns="score", values="value")
        expected.append(spearmanr(mine["sweep"], mine["gain"]).statistic)
    found = agreement(scores).set_index("score").correlation["gain"]
    assert found == pytest.approx(np.mean(expected)) and 0.5 < found < 0.95
    # a behaviour that the sweep does not move at all says nothing, rather than zero
    scores.loc[sweep & (scores.behavior == NAMES[0]), "value"] = 0.0
    found = agreement(scores).set_index("score").correlation["gain"]
    assert found == pytest.approx(np.mean(expected[1:]))


def test_the_page_names_every_score_and_layer() -> None:
    scores = table()
    content = {
        "model": "m",
        "tasks": 9,
        "coefficient": 0.2,
        "agreement": agreement(scores).to_dict("records"),
        "chosen": {"sweep": {"backtracking": 3}, "gain": {"backtracking": 3}},
    }
    page = markdown(content, scores)
    assert "| gain | 1.00 (" in page and "3 of 3" in page
    assert page.count("| backtracking |") == 9


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
    assert set(made) == {f"layers_tiny.{kind}" for kind in ("json", "csv", "md", "png")}
    content = json.loads(made["layers_tiny.json"])
    assert content["annotator"].startswith("rules@") and content["tasks"] == 2
    found = pd.read_csv(results / "layers_tiny.csv")
    assert set(found.score) == {"auroc", "gradient", "published", "gain", "effect", "sweep"}
    assert (found.groupby(["score", "behavior"]).layer.apply(list).map(tuple) == (0, 2)).all()
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
