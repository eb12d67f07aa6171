"""The bundled model, its tasks and its chains are what their cards say."""

from __future__ import annotations

import hashlib

import pytest

import steerkit as sk
from steerkit.annotation import annotate
from steerkit.behaviors import UNPARSED, behaviors
from steerkit.puzzles.tasks import parse_prompt
from steerkit.tasks import SPLITS

MODEL = sk.data("models/countdown-thinking")


@pytest.fixture(scope="module")
def chains() -> sk.Traces:
    return sk.read_traces(sk.data("traces/countdown.jsonl"))


def test_the_model_is_small_and_whole() -> None:
    files = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert sum(files.values()) <= 10_000_000
    needed = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert needed <= files.keys()


def test_chains_are_the_models_own_on_the_bundled_tasks(chains) -> None:
    tasks = {task.id: task for task in sk.read_tasks(sk.data("tasks/countdown.jsonl"))}
    assert len(chains) >= 500 and len({trace.task_id for trace in chains}) == len(chains)
    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    for trace in chains:
        assert trace.prompt == tasks[trace.task_id].prompt
        assert (trace.model, trace.revision) == ("countdown-thinking", weights[:16])
        assert trace.metadata["steering"] == [] and trace.metadata["temperature"] == 1.0
    assert {trace.split for trace in chains} == set(SPLITS)


def test_the_model_writes_these_chains_again(chains) -> None:
    model = sk.load("countdown-thinking", device="cpu")
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
            assert without / len(chains) > 0.2, known.name


def test_held_out_chains_close_parse_and_are_often_right(chains) -> None:
    tasks = [parse_prompt(trace.prompt) for trace in chains]
    assert all(task.pool == "heldout" for task in tasks)
    assert sum(trace.closed for trace in chains) / len(chains) >= 0.98
    counts = chains.counts()
    assert counts[UNPARSED] / sum(counts.values()) <= 0.03
    right = [task.verify(t.answer).correct for task, t in zip(tasks, chains, strict=True)]
    assert sum(right) / len(chains) >= 0.35
