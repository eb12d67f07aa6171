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

import steerkit as sk
from steerkit.adapters import CONFIG as CONFIG_NAME
from steerkit.adapters import WEIGHTS, Adapter
from steerkit.errors import TrainingError
from steerkit.training import adapter as fitting
from steerkit.training.adapter import train_adapter
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.chat_examples import chat_examples
from steerkit.training.checkpoints import latest_checkpoint, saved_config
from steerkit.training.config import share_of_rate
from steerkit.training.response_loss import mean_loss
from tests.tiny import tiny_model, tiny_traces
from tests.training.adapters import PLAIN, base_folder, plain_model

CHAINS = tiny_traces(30)  # 24 of them close
CONFIG = AdapterConfig(learning_rate=2e-2, held_out=4, steps=20, dropout=0.1, rank=4)


def rows(out):
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def steps_done(out):
    folder = latest_checkpoint(out)
    return 0 if folder is None else int(folder.name.removeprefix("step-"))


def state(out):
    folder = latest_checkpoint(out)
    return {
        f"{file} {name}": tensor
        for file in ("model", "optimizer")
        for name, tensor in load_file(folder / f"{file}.safetensors").items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter") / "thinker"
    return train_adapter(out, tiny_model(), CHAINS, CONFIG, chains_name="tiny chains")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("base") / "tiny-qwen2")


def test_the_held_out_loss_falls_and_both_are_logged(finished):
    logged = rows(finished)
    assert [row["step"] for row in logged] == ["0", *map(str, range(1, 21)), "20"]
    before, after = float(logged[0]["heldout_loss"]), float(logged[-1]["heldout_loss"])
    assert after < before - 0.5
    losses = [float(row["loss"]) for row in logged if row["loss"]]
    assert sum(losses[-5:]) < sum(losses[:5]) - 2
    assert (finished / "training.png").is_file()


def test_the_folder_loads_as_the_model_that_was_measured(finished, base):
    examples = chat_examples(tiny_model(), CHAINS, CONFIG)
    logged = rows(finished)
    thinking, plain = sk.load(base, adapter=finished), sk.load(base)
    assert thinking.name == "tiny-qwen2+thinker"
    for model, row in ((thinking, logged[-1]), (plain, logged[0])):
        loss = mean_loss(model, examples.held_out, 768)
        assert loss == pytest.approx(float(row["heldout_loss"]), abs=2e-4)
    steered = sk.extract(plain, CHAINS)["deduction"].at(layer=1)
    (trace,) = thinking.generate("Use 3, 7, 8 to make 29.", steer=steered, max_new_tokens=5)
    assert trace.model == "tiny-qwen2+thinker"


def test_the_record_and_the_card_say_how_it_was_made(finished):
    record = json.loads((finished / "training.json").read_text())
    assert record["think"] == ["<think>", "</think>"] and record["base"] == "tiny-qwen2"
    assert record["recipe"]["rank"] == 4 and record["recipe"]["steps"] == 20
    assert record["chains"]["train"] == 20 and record["chains"]["held_out"] == 4
    assert record["chains"]["left_out"] == {"without a closed thinking section": 6}
    assert len(record["chains"]["tasks"]) == 20
    figures = record["figures"]
    assert figures["heldout_loss_after"] < figures["heldout_loss_before"]
    assert figures["tokens"] == int(rows(finished)[-1]["tokens"]) and figures["seconds"] > 0
    card = (finished / "README.md").read_text()
    assert "base_model: tiny-qwen2" in card and "20 chains (tiny chains)" in card
    assert f"{figures['heldout_loss_after']:.3f} with it" in card and "{" not in card
    assert Adapter.find(finished).base == "tiny-qwen2"
    assert not (finished / "chat_template.jinja").exists()  # the base's own opens already


def test_the_base_is_left_as_it_was(tmp_path):
    model = tiny_model()
    before = {name: p.clone() for name, p in model.hf.named_parameters()}
    train_adapter(tmp_path, model, CHAINS, replace(CONFIG, steps=2))
    after = dict(model.hf.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in after.values())


def test_a_killed_run_goes_on_to_the_same_bits(finished, tmp_path):
    out = tmp_path / "thinker"
    code = (
        "import sys, torch; from steerkit.training.adapter import train_adapter;"
        "from steerkit.training.adapter_config import AdapterConfig;"
        "from tests.tiny import tiny_model, tiny_traces;"
        f"torch.set_num_threads({torch.get_num_threads()});"
        f"train_adapter(sys.argv[1], tiny_model(), tiny_traces(30), {CONFIG!r},"
        " chains_name='tiny chains', checkpoint_seconds=0)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(out)])
    try:
        deadline = time.monotonic() + 60
        while steps_done(out) < 3:
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.005)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert 3 <= steps_done(out) < CONFIG.steps and not (out / WEIGHTS).exists()
    train_adapter(out, tiny_model(), CHAINS, CONFIG, chains_name="tiny chains")
    expected, found = state(finished), state(out)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    for name in (CONFIG_NAME, WEIGHTS):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    assert [row["step"] for row in rows(out)] == [row["step"] for row in rows(finished)]
    assert [row["loss"] for row in rows(out)] == [row["loss"] for row in rows(finished)]


def test_another_seed_gives_another_adapter(finished, tmp_path):
    """Positive control of the test above: also for the dropout, which A and order do not show."""
    out = train_adapter(tmp_path / "seed", tiny_model(), CHAINS, replace(CONFIG, seed=1))
    assert (out / WEIGHTS).read_bytes() != (finished / WEIGHTS).read_bytes()
    out = train_adapter(tmp_path / "none", tiny_model(), CHAINS, replace(CONFIG, dropout=0.0))
    assert (out / WEIGHTS).read_bytes() != (finished / WEIGHTS).read_bytes()


def test_a_finished_run_is_left_as_it_is(finished):
    kept = {
        name: (finished / name).read_bytes()
        for name in (CONFIG_NAME, WEIGHTS, "log.csv", "README.md")
    }
    train_adapter(finished, tiny_model(), CHAINS, CONFIG, chains_name="tiny chains")
    assert kept == {name: (finished / name).read_bytes() for name in kept}


def test_resuming_another_run_is_refused(tmp_path):
    train_adapter(tmp_path, tiny_model(), CHAINS, CONFIG, stop_step=2)
    assert latest_checkpoint(tmp_path).name == "step-00000002" and not (tmp_path / WEIGHTS).exists()
    with pytest.raises(TrainingError, match="another rank"):
        train_adapter(tmp_path, tiny_model(), CHAINS, replace(CONFIG, rank=8))
    with pytest.raises(TrainingError, match="another data"):
        train_adapter(tmp_path, tiny_model(), CHAINS[:-2], CONFIG)
    with pytest.raises(TrainingError, match="another weights"):
        train_adapter(tmp_path, tiny_model(seed=1), CHAINS, CONFIG)
    train_adapter(tmp_path, tiny_model(seed=1), CHAINS, CONFIG, resume=False, stop_step=1)
    assert latest_checkpoint(tmp_path).name == "step-00000001"


def test_minutes_cut_the_plan_by_the_measured_speed_and_it_is_kept(tmp_path, monkeypatch, caplog):
    examples = chat_examples(tiny_model(), CHAINS, CONFIG)
    config = replace(CONFIG, steps=0, passes=3)
    assert len(examples.train) == 20  # fifteen steps of four
    tokens = sum(len(ids) for ids, _ in examples.train)
    # so slow that a pass takes a minute, and two minutes are for two passes, about
    monkeypatch.setattr(fitting, "_speed", lambda *_: tokens / 60)
    out = train_adapter(tmp_path / "cut", tiny_model(), CHAINS, config, minutes=2, stop_step=1)
    steps = saved_config(latest_checkpoint(out))["steps"]
    assert steps in (9, 10) and f"cut to {steps} of 15 steps" in caplog.text
    # twice as fast by now, but the plan stays
    monkeypatch.setattr(fitting, "_speed", lambda *_: tokens / 30)
    train_adapter(out, tiny_model(), CHAINS, config, minutes=2)
    assert latest_checkpoint(out).name == f"step-{steps:08d}"
    assert rows(out)[-2]["step"] == str(steps)
    with pytest.raises(TrainingError, match=r"not one step fits in 0\.01 minutes.*tokens a second"):
        train_adapter(tmp_path / "none", tiny_model(), CHAINS, config, minutes=0.01)
    assert not (tmp_path / "none" / CONFIG_NAME).exists()


def test_a_model_with_think_strings_as_text_learns_to_open_and_close(tmp_path, caplog):
    model = plain_model()
    config = AdapterConfig(learning_rate=2e-2, steps=6, held_out=0)
    out = train_adapter(tmp_path / "plain", model, CHAINS, config)
    assert (out / "chat_template.jinja").is_file()
    adapter = Adapter.find(out)
    assert adapter.think == PLAIN and PLAIN[0] in adapter.chat_template
    assert "without a closed" in caplog.text  # what was left out is said
    assert "nothing was measured" in (out / "README.md").read_text()
    folder = base_folder(tmp_path / "tiny-plain")
    thinking = sk.load(folder, adapter=out)
    assert thinking.opens_thinking and thinking.think == PLAIN


def test_an_adapter_upon_another_is_refused(finished, base, tmp_path):
    with pytest.raises(TrainingError, match="has an adapter already"):
        train_adapter(tmp_path, sk.load(base, adapter=finished), CHAINS, CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}, {"decay": 1.5}, {"chains": 0}],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(TrainingError, match=f"{next(iter(wrong))} is out of range"):
        AdapterConfig(**wrong)


def test_the_rate_rises_holds_and_falls_to_zero(finished):
    rates = [float(row["learning_rate"]) for row in rows(finished) if row["learning_rate"]]
    expected = [
        CONFIG.learning_rate * share_of_rate(step, 1, 3, 20, 0.5) for step in range(CONFIG.steps)
    ]
    assert rates == pytest.approx(expected, abs=1e-8)
    assert rates[0] == pytest.approx(2e-2 / 3) and max(rates) == 2e-2
    assert rates[10] == 2e-2 > rates[11] > rates[-1] == pytest.approx(2e-3)
