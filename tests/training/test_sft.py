import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from steerkit.errors import TrainingError
from steerkit.loading import load
from steerkit.puzzles.tasks import parse_prompt
from steerkit.training.batches import IGNORED, chunk_of_batches, collate
from steerkit.training.checkpoints import latest_checkpoint
from steerkit.training.config import SFTConfig, learning_rate
from steerkit.training.sft import train_sft
from steerkit.training.tokenizer import build_tokenizer

SMALL = SFTConfig(
    tokens=60_000,
    batch_tokens=1024,
    warmup_tokens=5_000,
    learning_rate=5e-3,
    hidden_size=48,
    layers=2,
    heads=2,
    kv_heads=1,
    intermediate_size=96,
)
QUICK = {"log_steps": 5, "sampled_tasks": 0, "evaluated_tasks": 0}


def rows(out):
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train_sft(
        tmp_path_factory.mktemp("sft") / "run", SMALL, **(QUICK | {"evaluated_tasks": 8})
    )


def test_loss_falls(finished):
    losses = [float(row["loss"]) for row in rows(finished)]
    assert losses[0] > 5 and losses[-1] < 0.65 * losses[0]
    assert float(rows(finished)[-1]["heldout_loss"]) < 0.65 * losses[0]


def test_result_is_a_hugging_face_folder(finished):
    model = AutoModelForCausalLM.from_pretrained(finished)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(finished)
    assert model.dtype == torch.float32
    assert model.config.model_type == "qwen2"
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(tokenizer) == model.config.vocab_size
    stored = load_file(finished / "model.safetensors")
    trained = load_file(latest_checkpoint(finished) / "model.safetensors")
    assert stored.keys() == trained.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert stored[name].dtype == torch.float16
        torch.testing.assert_close(parameter.data, stored[name].float(), rtol=0, atol=0)
        torch.testing.assert_close(parameter.data, trained[name], rtol=1e-3, atol=1e-6)


def test_result_loads_with_the_tokenizer_it_was_trained_with(finished):
    """transformers' AutoTokenizer takes any Qwen2 model's tokenizer for Qwen's own."""
    text = "<|bos|><|user|>Use 15, 6, 14 to make 23.<|assistant|><think>\n"
    pieces = ["Use", " 15", ",", " 6", ",", " 14", " to", " make", " 23", "."]
    for tokenizer in (build_tokenizer(), load(finished).tokenizer):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert tokens == ["<|bos|>", "<|user|>", *pieces, "<|assistant|>", "<think>", "\n"]


def test_model_card_holds_the_scorecard(finished):
    card = (finished / "README.md").read_text()
    assert "8 held-out tasks" in card and "steerkit train sft --out DIR" in card
    assert "| accuracy | " in card and "license: apache-2.0" in card
    assert "{" not in card


def test_a_killed_run_goes_on_to_the_same_weights(finished, tmp_path):
    out = tmp_path / "run"
    code = (
        "import sys; from steerkit.training.sft import train_sft;"
        "from steerkit.training.config import SFTConfig;"
        f"import torch; torch.set_num_threads({torch.get_num_threads()});"
        f"train_sft(sys.argv[1], {SMALL!r}, checkpoint_seconds=0, **{QUICK!r})"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(out)])
    try:
        deadline = time.monotonic() + 60
        while latest_checkpoint(out) is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    state = json.loads((latest_checkpoint(out) / "state.json").read_text())
    assert 0 < state["position"]["tokens"] < SMALL.tokens
    train_sft(out, SMALL, **QUICK)
    expected = load_file(latest_checkpoint(finished) / "model.safetensors")
    found = load_file(latest_checkpoint(out) / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    moments = [
        load_file(latest_checkpoint(folder) / "optimizer.safetensors") for folder in (finished, out)
    ]
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.equal(moments[0][key], moments[1][key]) for key in moments[0])
    assert [row["step"] for row in rows(out)] == [row["step"] for row in rows(finished)]


def test_another_seed_gives_other_weights(finished, tmp_path):
    """Positive control of the test above."""
    out = train_sft(tmp_path, replace(SMALL, seed=1), stop_step=2, **QUICK)
    name = "model.norm.weight"
    found = load_file(latest_checkpoint(out) / "model.safetensors")[name]
    assert not torch.equal(
        found, load_file(latest_checkpoint(finished) / "model.safetensors")[name]
    )


def test_resuming_with_another_configuration_is_refused(tmp_path):
    train_sft(tmp_path, SMALL, stop_step=2, **QUICK)
    with pytest.raises(TrainingError, match="another learning_rate"):
        train_sft(tmp_path, replace(SMALL, learning_rate=1e-3), **QUICK)
    # the budget may change before the decay begins
    train_sft(tmp_path, replace(SMALL, tokens=80_000), stop_step=3, **QUICK)
    assert latest_checkpoint(tmp_path).name == "step-00000003"
    with pytest.raises(TrainingError, match="another tokens"):
        train_sft(tmp_path, replace(SMALL, tokens=1_000), **QUICK)
    # resume=False starts anew
    train_sft(tmp_path, replace(SMALL, seed=5), resume=False, stop_step=1, **QUICK)
    assert latest_checkpoint(tmp_path).name == "step-00000001"


def test_a_finished_run_is_left_as_it_is(finished):
    before = (finished / "model.safetensors").read_bytes()
    train_sft(finished, SMALL, **QUICK)
    assert (finished / "model.safetensors").read_bytes() == before


def test_learning_rate_rises_holds_and_falls():
    config = SFTConfig(
        tokens=1000, batch_tokens=10, warmup_tokens=100, learning_rate=1.0, decay=0.5
    )
    rates = [learning_rate(config, tokens) for tokens in (0, 40, 90, 300, 500, 750, 1000, 1010)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0])


def test_batches_hold_train_tasks_only_and_loss_is_on_responses():
    tokenizer = build_tokenizer()
    batches = chunk_of_batches(SMALL, tokenizer, 3)
    assert batches == chunk_of_batches(SMALL, tokenizer, 3)
    assert batches != chunk_of_batches(SMALL, tokenizer, 4)
    for batch in batches:
        ids, labels = collate(batch, tokenizer.pad_token_id)
        assert ids.numel() <= SMALL.batch_tokens and ids.shape[1] <= SMALL.longest
        for row, (tokens, prompt) in enumerate(batch):
            text = tokenizer.decode(tokens[:prompt])
            task = parse_prompt(text.split("<|user|>")[1].split("<|assistant|>")[0])
            assert task.pool == "train"
            kept = labels[row] != IGNORED
            assert kept.nonzero().flatten().tolist() == list(range(prompt, len(tokens)))
            assert labels[row][kept].tolist() == tokens[prompt:]
            assert tokens[-1] == tokenizer.eos_token_id
