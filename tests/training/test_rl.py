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

from steerkit.errors import TrainingError
from steerkit.loading import load
from steerkit.training import rollouts as rollouts_module
from steerkit.training.base import Base
from steerkit.training.checkpoints import latest_checkpoint
from steerkit.training.config import RLConfig, SFTConfig, learning_rate
from steerkit.training.rl import describe, log_columns, train_rl
from steerkit.training.rollouts import write_rollouts

SMALL = RLConfig(
    steps=12,
    tasks=4,
    samples=4,
    kinds=("rules",),
    longest=20,
    learning_rate=1e-3,
    warmup_steps=2,
    snapshots=2,
)
QUICK = {"sampled_tasks": 0, "evaluated_tasks": 0}


def rows(out):
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(out, name):
    return torch.tensor([float(row[name]) for row in rows(out)])


@pytest.fixture
def model(base_folder):
    return Base.find(base_folder).load(torch.device("cpu"))


@pytest.fixture(scope="module")
def finished(base_folder, tmp_path_factory):
    options = {"sampled_tasks": 3, "evaluate_steps": 10, "evaluated_tasks": 8}
    return train_rl(tmp_path_factory.mktemp("rl") / "run", SMALL, base=base_folder, **options)


@pytest.fixture
def four_tasks(monkeypatch, known_tasks):
    """Every step is on the same tasks, so that a tiny model can learn them."""

    def generate_tasks(pool, seed, count, kinds):
        assert pool == "rl" and count == 4 and kinds == ("rules",)
        return known_tasks

    monkeypatch.setattr(rollouts_module, "generate_tasks", generate_tasks)


def test_the_reward_rises(base_folder, four_tasks, tmp_path):
    config = replace(SMALL, steps=70, samples=16, learning_rate=2e-3, warmup_steps=5)
    out = train_rl(tmp_path / "learned", config, base=base_folder, **QUICK)
    # 5 steps are 320 chains: four standard errors of their mean accuracy are 0.11
    reward, accuracy = column(out, "reward"), column(out, "accuracy")
    assert accuracy[:3].mean() < 0.6
    assert accuracy[-5:].mean() > accuracy[:3].mean() + 0.2
    assert reward[-5:].mean() > reward[:3].mean() + 0.2
    # positive control: without steps of any size it stays where it was
    still = replace(config, steps=8, learning_rate=1e-9)
    out = train_rl(tmp_path / "still", still, base=base_folder, **QUICK)
    assert column(out, "accuracy").mean() < 0.6


def test_a_step_without_any_advantage_moves_nothing(base_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(rollouts_module, "reward", lambda task, trace, form_reward: 0.5)
    out = train_rl(tmp_path / "run", replace(SMALL, steps=2), base=base_folder, **QUICK)
    assert [row["unused"] for row in rows(out)] == ["1.0", "1.0"]
    assert [row["grad_norm"] for row in rows(out)] == ["0", "0"]
    found = load_file(latest_checkpoint(out) / "model.safetensors")
    for name, tensor in load_file(base_folder / "model.safetensors").items():
        assert torch.equal(found[name], tensor.float())


def test_a_gradient_that_is_not_finite_is_refused(base_folder, tmp_path, monkeypatch):
    rewards = iter([float("nan"), *[0.5] * 100])
    monkeypatch.setattr(rollouts_module, "reward", lambda *_, form_reward: next(rewards))
    with pytest.raises(TrainingError, match=r"gradient is not finite .*found nan"):
        train_rl(tmp_path / "run", SMALL, base=base_folder, **QUICK)
    assert latest_checkpoint(tmp_path / "run") is None and not rows(tmp_path / "run")


def test_the_result_is_a_folder_like_the_base(finished, base_folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"):
        assert (finished / name).read_bytes() == (base_folder / name).read_bytes()
    trained = load_file(latest_checkpoint(finished) / "model.safetensors")
    stored = load_file(finished / "model.safetensors")
    before = load_file(base_folder / "model.safetensors")
    assert stored.keys() == trained.keys() == before.keys()
    assert all(torch.equal(stored[name], trained[name].half()) for name in stored)
    assert not any(torch.equal(stored[name], before[name]) for name in stored)
    assert load(finished).generate("Hm?", max_new_tokens=3, seed=1)[0].token_ids


def test_snapshots_are_states_on_the_way(finished, base_folder):
    folders = sorted((finished / "snapshots").iterdir())
    assert [folder.name for folder in folders] == ["step-0006", "step-0012"]
    half, last = (load_file(folder / "model.safetensors") for folder in folders)
    name = "model.norm.weight"
    assert torch.equal(last[name], load_file(finished / "model.safetensors")[name])
    assert not torch.equal(half[name], last[name])
    assert load(folders[0]).name == "step-0006"


def test_the_log_says_how_every_step_went(finished, base_folder):
    log = rows(finished)
    assert list(log[0]) == log_columns()
    assert [int(row["step"]) for row in log] == list(range(1, 13))
    assert {row["base"] for row in log} == {Base.find(base_folder).sha256[:16]}
    tokens = [int(row["tokens"]) for row in log]
    assert tokens == sorted(set(tokens))
    assert float(log[0]["length"]) == pytest.approx(tokens[0] / 16)
    for row in log:
        assert row["accuracy"] == row["accuracy_rules"] and not row["accuracy_countdown-3"]
        assert bool(row["heldout_accuracy"]) is (row["step"] in ("1", "11"))
    assert (finished / "training.png").read_bytes().startswith(b"\x89PNG")


def test_description_of_planted_chains(model):
    found = write_rollouts(model, replace(SMALL, tasks=1), 0)
    answer = found.tasks[0].answer
    planted = [
        f"That does not work, let me go back. 3 + 4 = 7.\n</think>\nThe answer is {answer}.",
        "Bananas. 3 + 4 = 7. From 7 I cannot reach 29.\n</think>\nI do not know.",
        "Let me go",
        "\n</think>\nThe answer is 0.",
    ]
    row = describe(replace(found, responses=planted))
    assert row["accuracy"] == row["accuracy_rules"] == 0.25
    assert row["closed"] == 0.75 and "accuracy_countdown-3" not in row
    # five whole sentences, one of them unknown
    assert row["unparsed"] == 0.2 and row["backtracking"] == 0.2
    assert row["deduction"] == 0.6 and row["dead_ends"] == 0.25
    assert "silent_dead_ends" not in row  # nothing is tried after it


def test_the_model_card_tells_base_reward_and_accuracy(finished, base_folder):
    card = (finished / "README.md").read_text()
    assert Base.find(base_folder).sha256 in card and "# countdown-thinking" in card
    for part in (
        "8 held-out tasks",
        "12 steps",
        "16 chains",
        f"with {SMALL.form_reward} for",
        "| accuracy rules |",
    ):
        assert part in card
    assert "{" not in card and "| accuracy countdown-3 |" in card


def test_a_killed_run_goes_on_to_the_same_weights(finished, base_folder, tmp_path):
    out = tmp_path / "run"
    code = (
        "import sys; from steerkit.training.rl import train_rl;"
        "from steerkit.training.config import RLConfig;"
        f"import torch; torch.set_num_threads({torch.get_num_threads()});"
        f"train_rl(sys.argv[1], {SMALL!r}, base=sys.argv[2], checkpoint_seconds=0, **{QUICK!r})"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(out), str(base_folder)])
    try:
        deadline = time.monotonic() + 120
        while latest_checkpoint(out) is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    state = json.loads((latest_checkpoint(out) / "state.json").read_text())
    assert 0 < state["position"]["step"] < SMALL.steps
    assert state["base"] == Base.find(base_folder).sha256
    train_rl(out, SMALL, base=base_folder, **QUICK)
    for name in ("model.safetensors", "optimizer.safetensors"):
        expected = load_file(latest_checkpoint(finished) / name)
        found = load_file(latest_checkpoint(out) / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert (out / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    kept = ("tokens", "loss", "reward", "grad_norm", "learning_rate", "backtracking")
    for name in kept:
        assert [row[name] for row in rows(out)] == [row[name] for row in rows(finished)]


def test_another_seed_gives_other_weights(finished, base_folder, tmp_path):
    """Positive control of the test above."""
    out = train_rl(tmp_path / "run", replace(SMALL, seed=1), base=base_folder, **QUICK)
    found = load_file(latest_checkpoint(out) / "model.safetensors")
    expected = load_file(latest_checkpoint(finished) / "model.safetensors")
    assert not any(torch.equal(found[name], expected[name]) for name in found)


def test_resuming_something_else_is_refused(base_folder, finished, tmp_path):
    out = tmp_path / "run"
    train_rl(out, SMALL, base=base_folder, stop_step=1, **QUICK)
    with pytest.raises(TrainingError, match="another base"):
        train_rl(out, SMALL, base=finished, **QUICK)
    with pytest.raises(TrainingError, match="another kinds, longest"):
        other = replace(SMALL, kinds=("rules", "countdown-3"), longest=21)
        train_rl(out, other, base=base_folder, **QUICK)
    # the budget may change before the decay begins
    train_rl(out, replace(SMALL, steps=20), base=base_folder, stop_step=2, **QUICK)
    assert latest_checkpoint(out).name == "step-00000002"
    with pytest.raises(TrainingError, match="another steps"):
        train_rl(out, replace(SMALL, steps=2), base=base_folder, **QUICK)
    # resume=False starts anew
    train_rl(out, replace(SMALL, seed=5), base=base_folder, resume=False, stop_step=1, **QUICK)
    assert latest_checkpoint(out).name == "step-00000001" and len(rows(out)) == 1


def test_a_folder_is_not_its_own_base(base_folder):
    with pytest.raises(TrainingError, match="would replace the base"):
        train_rl(base_folder, SMALL, base=base_folder)


def test_checkpoints_of_the_other_stage_are_refused(base_folder, tmp_path):
    from steerkit.training.sft import train_sft

    tiny = SFTConfig(hidden_size=16, layers=1, heads=1, kv_heads=1, intermediate_size=16)
    quick = {"log_steps": 5, **QUICK}
    train_sft(tmp_path / "sft", tiny, stop_step=1, **quick)
    with pytest.raises(
        TrainingError, match=r"another stage.*expected .*samples.*; found .*batch_tokens"
    ):
        train_rl(tmp_path / "sft", SMALL, base=base_folder, **QUICK)
    train_rl(tmp_path / "rl", SMALL, base=base_folder, stop_step=1, **QUICK)
    with pytest.raises(TrainingError, match="another stage"):
        train_sft(tmp_path / "rl", tiny, **quick)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("sudoku",)}, "unknown kinds.*countdown-3.*found sudoku"),
        ({"kinds": ()}, "found none"),
        ({"samples": 1}, "samples is out of range.*at least 2; found 1"),
        ({"steps": 0}, "steps is out of range"),
        ({"snapshots": -1}, "snapshots is out of range"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(TrainingError, match=message):
        RLConfig(**changes)


def test_learning_rate_rises_holds_and_falls():
    config = RLConfig(steps=100, warmup_steps=10, learning_rate=1.0, decay=0.5)
    rates = [learning_rate(config, step) for step in (0, 4, 9, 30, 50, 75, 99, 100)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.02, 0.0])
    flat = replace(config, warmup_steps=0, decay=0.0)
    assert {learning_rate(flat, step) for step in range(100)} == {1.0}
