import csv
from dataclasses import replace

import pytest
import torch

import steerkit as sk
from steerkit.training import sft

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
