import csv
from dataclasses import replace

import pytest
import torch

import steerkit as sk
from steerkit.training import rl, sft

SHAPE = {"hidden_size": 16, "layers": 1, "heads": 1, "kv_heads": 1, "intermediate_size": 16}


@pytest.fixture
def small(monkeypatch):
    """The recipe at another size, and without its scorecard of a thousand chains."""
    real, threads = sft.train_sft, torch.get_num_threads()

    def train(out, config, **options):
        config = replace(config, **SHAPE)
        return real(out, config, log_steps=2, sampled_tasks=0, evaluated_tasks=0, **options)

    monkeypatch.setattr(sft, "train_sft", train)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def few(monkeypatch):
    """The second stage on few and short chains, and without its scorecard."""
    real, threads = rl.train_rl, torch.get_num_threads()

    def train(out, config, **options):
        config = replace(config, tasks=2, samples=2, longest=6, snapshots=1)
        return real(out, config, sampled_tasks=0, evaluated_tasks=0, **options)

    monkeypatch.setattr(rl, "train_rl", train)
    yield
    torch.set_num_threads(threads)


def steps(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_trains_resumes_and_begins_anew(run, small, tmp_path):
    words = ["train", "sft", "--out", "model", "--threads", 1]
    result = run(*words, "--tokens", 6000)
    assert result.code == 0 and result.out == "Model: model\n"
    assert torch.get_num_threads() == 1
    assert "loss=" in result.err and "resuming" not in result.err
    assert sk.load(tmp_path / "model").d_model == 16
    assert steps(tmp_path / "model")[:2] == [2, 4]
    again = run(*words, "--tokens", 6000)
    assert "resuming" in again.err and "loss=" not in again.err
    fresh = run(*words, "--tokens", 3000, "--fresh")
    assert fresh.code == 0 and "resuming" not in fresh.err and "loss=" in fresh.err
    # another budget after its decay began is another run
    refused = run(*words, "--tokens", 6000)
    assert refused.code == 2 and "another tokens" in refused.err
    quiet = run(*words, "--tokens", 3000, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")


def test_reinforcement_learning_goes_on_from_a_base(run, few, model_folder, tmp_path):
    words = ["train", "rl", "--base", model_folder, "--out", "model", "--threads", 1]
    result = run(*words, "--steps", 2, "--learning-rate", 0.001, "--device", "cpu")
    assert result.code == 0 and result.out == "Model: model\n"
    assert "reward=" in result.err and "SHA-256" in result.err and "resuming" not in result.err
    folder = tmp_path / "model"
    assert sk.load(folder).d_model == sk.load(model_folder).d_model
    assert steps(folder) == [1, 2] and (folder / "snapshots" / "step-0002").is_dir()
    again = run(*words, "--steps", 2, "--learning-rate", 0.001)
    assert "resuming" in again.err and "reward=" not in again.err
    refused = run(*words, "--steps", 2)
    assert refused.code == 2 and "another learning_rate" in refused.err
    fresh = run(*words, "--steps", 1, "--fresh")
    assert fresh.code == 0 and "resuming" not in fresh.err and steps(folder) == [1]
    quiet = run(*words, "--steps", 1, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "nowhere"], "no model 'nowhere' to begin with"),
        (["--learning-rate", "0"], "expected a number above 0, found '0'"),
        (["--learning-rate", "fast"], "expected a number above 0, found 'fast'"),
        (["--steps", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(run, words, message):
    try:
        result = run("train", "rl", "--out", "model", *words)
    except SystemExit as leaving:
        pytest.fail(f"left with {leaving.code}")
    assert result.code == 2 and message in result.err and "Traceback" not in result.err


@pytest.mark.parametrize("stage", [["sft"], ["rl", "--base", "countdown-thinking"]])
def test_a_device_that_is_not_here_is_refused(run, stage):
    result = run("train", *stage, "--out", "model", "--device", "cuda")
    assert result.code == 2 and "cannot train on 'cuda'" in result.err
