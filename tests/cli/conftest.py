"""A tiny model's folder and chains for it, and a way to run a command in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from steerkit.cli import main
from steerkit.traces import write_traces
from steerkit.training.tokenizer import build_tokenizer
from tests.annotation.judge_server import plain_environment as plain_environment
from tests.annotation.judge_server import server as server
from tests.tiny import tiny_hf, tiny_traces


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory) -> Path:
    """A model that does not come with steerkit, with room for the chains in plain English."""
    folder = tmp_path_factory.mktemp("models") / "roomy"
    tiny_hf(max_position_embeddings=2048).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chains(tmp_path_factory) -> Path:
    return write_traces(tiny_traces(40), tmp_path_factory.mktemp("chains") / "chains.jsonl")


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Runs ``steerkit`` with these words in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: object) -> Result:
        capfd.readouterr()
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def vectors(model_folder, chains, tmp_path_factory) -> Path:
    """A vectors file of the tiny model."""
    out = tmp_path_factory.mktemp("vectors") / "vectors.safetensors"
    words = ["extract", "--model", model_folder, "--traces", chains, "--out", out, "--no-figure"]
    assert main([str(word) for word in (*words, "--json", "--quiet")]) == 0
    return out
