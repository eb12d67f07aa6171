import json

import pytest
import torch

import steerkit as sk
from steerkit import adapters
from steerkit.cli import build_parser
from steerkit.cli.train_adapter import BASE_MODEL


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def words(model_folder, chains):
    start = ["train", "adapter", "--out", "adapter", "--model", model_folder, "--traces", chains]
    return [*start, "--held-out", 4, "--threads", 1]


def test_trains_resumes_cuts_and_begins_anew(run, words, model_folder, tmp_path):
    result = run(*words, "--steps", 3, "--base-name", "hub/Tiny", "--learning-rate", 0.01)
    assert (result.code, result.out) == (0, "Adapter: adapter\n")
    assert "tokens a second, forward and backward: 3 steps" in result.err
    assert "left out: 8 chains without a closed thinking section" in result.err
    assert "step 3 of 3: loss=" in result.err and "held-out loss" in result.err
    folder = tmp_path / "adapter"
    described = json.loads((folder / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "hub/Tiny"
    assert "chains.jsonl" in (folder / "README.md").read_text()
    again = run(*words, "--steps", 3, "--learning-rate", 0.01)
    assert "resuming at step 3 of 3" in again.err and "step 3 of 3: loss" not in again.err
    refused = run(*words, "--steps", 3, "--rank", 2)
    assert refused.code == 2 and "another" in refused.err and "rank" in refused.err
    fresh = run(*words, "--minutes", 10, "--passes", 1, "--fresh", "--targets", "q_proj,v_proj")
    assert fresh.code == 0 and "resuming" not in fresh.err and "q_proj, v_proj" in fresh.err
    quiet = run(*words, "--steps", 1, "--fresh", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")


def test_other_commands_take_the_adapter(run, words, model_folder, chains, tmp_path):
    assert run(*words, "--steps", 2).code == 0
    model = ["--model", model_folder, "--adapter", "adapter"]
    out = run("generate", "Use 3, 7, 8 to make 29.", *model, "--max-new-tokens", 4, "--json")
    assert out.code == 0 and out.json[0]["model"] == "tiny+adapter"
    made = run("extract", *model, "--traces", chains, "--out", "own.safetensors", "--no-figure")
    assert made.code == 0 and "--adapter adapter" in made.out
    assert sk.read_vectors(tmp_path / "own.safetensors").provenance["adapter"]["name"] == "adapter"
    wrong = run("generate", "?", "--model", model_folder, "--adapter", "nowhere")
    assert wrong.code == 2 and "no adapter 'nowhere'" in wrong.err and "Traceback" not in wrong.err
    alone = run("generate", "?", "--model", "adapter")
    assert alone.code == 2 and "--model BASE --adapter adapter" in alone.err


def test_vectors_of_the_base_are_used_on_the_model_with_the_adapter(
    run, words, vectors, model_folder
):
    assert run(*words, "--steps", 2).code == 0
    steered = run(
        *("generate", "Use 3, 7, 8 to make 29.", "--model", model_folder, "--adapter", "adapter"),
        *("--vectors", vectors, "--steer", "backtracking=0.2@1", "--max-new-tokens", 4, "--json"),
    )
    assert steered.code == 0 and "warning" not in steered.err
    assert steered.json[0]["metadata"]["steering"][0]["behavior"] == "backtracking"


def test_without_peft_the_extra_is_named_before_anything_is_done(run, words, monkeypatch, tmp_path):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    result = run(*words)
    assert result.code == 2 and "pip install 'steerkit-thinking[adapter]'" in result.err
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--minutes", "0"], "expected a number above 0"),
        (["--held-out", "-1"], "at least 1"),
        (["--targets", "q_proj,,"], "expected names such as"),
        (["--targets", "c_attn"], "lacks the linear layers"),
        (["--longest", "5"], "too few chains"),
        (["--adapter", "x"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(run, words, more, message):
    try:
        result = run(*words, *more)
    except SystemExit as leaving:
        pytest.fail(f"left with {leaving.code}")
    assert result.code == 2 and message in result.err and "Traceback" not in result.err


def test_the_default_is_the_recipe_of_the_1_5b_model():
    arguments = build_parser().parse_args(["train", "adapter", "--out", "x"])
    assert arguments.model == BASE_MODEL == "Qwen/Qwen2.5-Coder-1.5B-Instruct"
    assert arguments.adapter is None and arguments.traces is None
