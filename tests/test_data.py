"""The bundled models, their tasks and their chains are what their cards say."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import load_file

import steerkit as sk
from steerkit.annotation import annotate
from steerkit.behaviors import UNPARSED, behaviors
from steerkit.puzzles.tasks import KINDS, parse_prompt
from steerkit.resources import bundled_models
from steerkit.tasks import SPLITS

BASE, THINKING = "countdown-base", "countdown-thinking"
MODELS = bundled_models()
WEIGHTS = "model.safetensors"
SHARED = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="module")
def chains() -> sk.Traces:
    return sk.read_traces(sk.data("traces/countdown.jsonl"))


def digest(name: str) -> str:
    return hashlib.sha256((MODELS[name] / WEIGHTS).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_and_whole(name) -> None:
    files = {path.name: path.stat().st_size for path in MODELS[name].iterdir()}
    assert sum(files.values()) <= 10_000_000
    assert {WEIGHTS, *SHARED} <= files.keys()
    weights = load_file(MODELS[name] / WEIGHTS)
    assert sum(tensor.numel() for tensor in weights.values()) <= 5_000_000
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


@pytest.mark.parametrize("name", [BASE, THINKING])
def test_a_model_has_a_card_and_the_log_of_its_training(name) -> None:
    folder = MODELS[name]
    assert f"# {name}\n" in (folder / "README.md").read_text()
    assert (folder / "training.csv").is_file() and (folder / "training.png").is_file()


def test_the_pair_differs_by_reinforcement_learning_alone() -> None:
    """Same tokenizer, same architecture; the base's weights are what it began with."""
    snapshots = [name for name in MODELS if name.startswith(f"{THINKING}-step-")]
    assert len(snapshots) >= 3
    for name in (THINKING, *snapshots):
        for shared in SHARED:
            assert (MODELS[name] / shared).read_bytes() == (MODELS[BASE] / shared).read_bytes()
    assert len({digest(name) for name in MODELS}) == len(MODELS)
    assert digest(BASE) in (MODELS[THINKING] / "README.md").read_text()
    log = (MODELS[THINKING] / "training.csv").read_text()
    assert f",{digest(BASE)[:16]}," in log and digest(THINKING)[:16] not in log


def test_chains_are_the_models_own_on_the_bundled_tasks(chains) -> None:
    tasks = {task.id: task for task in sk.read_tasks(sk.data("tasks/countdown.jsonl"))}
    assert len(chains) >= 500 and len({trace.task_id for trace in chains}) == len(chains)
    for trace in chains:
        assert trace.prompt == tasks[trace.task_id].prompt
        assert (trace.model, trace.revision) == (THINKING, digest(THINKING)[:16])
        assert trace.metadata["steering"] == [] and trace.metadata["temperature"] == 1.0
    assert {trace.split for trace in chains} == set(SPLITS)
    counts = [sum(trace.category == kind for trace in chains) for kind in KINDS]
    assert max(counts) - min(counts) <= 1


def test_the_model_writes_these_chains_again(chains) -> None:
    model = sk.load(THINKING, device="cpu")
    tasks = sk.read_tasks(sk.data("tasks/countdown.jsonl"))[:8]
    again = model.generate(tasks)
    same = sum(a.token_ids == b.token_ids for a, b in zip(again, chains, strict=False))
    assert same >= 7  # another machine may round a tie the other way
    other = model.generate(tasks, seed=1)
    assert sum(a.token_ids == b.token_ids for a, b in zip(other, chains, strict=False)) <= 1


def test_labels_are_exact_and_every_behaviour_is_there(chains) -> None:
    assert annotate(chains) == chains
    counts = chains.counts()
    assert all(counts[known.name] >= 100 for known in behaviors()[:6])
    # optional: chains without each of the five that are not a step
    for known in behaviors()[:6]:
        if known.name != "deduction":
            without = sum(all(s.label != known.name for s in t.spans) for t in chains)
            assert without / len(chains) > 0.1, known.name


def test_held_out_chains_close_parse_and_are_often_right(chains) -> None:
    tasks = [parse_prompt(trace.prompt) for trace in chains]
    assert all(task.pool == "heldout" for task in tasks)
    assert sum(trace.closed for trace in chains) / len(chains) >= 0.98
    counts = chains.counts()
    assert counts[UNPARSED] / sum(counts.values()) <= 0.03
    right = [task.verify(t.answer).correct for task, t in zip(tasks, chains, strict=True)]
    assert sum(right) / len(chains) >= 0.35
