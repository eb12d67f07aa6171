"""Provenance: hashes that follow contents and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import steerkit.provenance
from steerkit.collection import trace_digest
from steerkit.provenance import chain_facts, model_facts, task_keys, versions
from steerkit.tasks import task_hash
from steerkit.traces import Traces
from tests.tiny import LAYERS, WIDTH, tiny_model, tiny_traces


def test_a_model_is_told_by_name_tokenizer_shape_and_precision() -> None:
    model = tiny_model()
    facts = model_facts(model)
    assert facts == {
        "model": "tiny-qwen2",
        "revision": None,
        "tokenizer_hash": model.tokenizer_hash,
        "d_model": WIDTH,
        "n_layers": LAYERS,
        "dtype": "float32",
    }
    half = tiny_model()
    half.hf.bfloat16()
    assert model_facts(half) == {**facts, "dtype": "bfloat16"}


def test_chains_are_told_by_content_and_tasks_by_prompt() -> None:
    used, kept = tiny_traces(6)[:4], tiny_traces(6)[4:]
    facts = chain_facts(used, kept)
    assert facts["traces"] == sorted(map(trace_digest, used)) and len(facts["traces"]) == 4
    assert facts["select_traces"] == sorted(map(trace_digest, kept))
    assert facts["extract_tasks"] == sorted(task_hash(t.prompt or "") for t in used)
    assert facts["annotators"] == ["planted"]
    # the order of the chains does not matter, what is in them does
    assert chain_facts(used[::-1], kept) == facts
    longer = Traces([replace(used[0], response=used[0].response + " So."), *used[1:]])
    other = chain_facts(longer, kept)
    assert other["traces"] != facts["traces"]
    assert other["extract_tasks"] == facts["extract_tasks"]


def test_every_annotator_is_named_once_and_none_is_nobody() -> None:
    traces = tiny_traces(4)
    mixed = [replace(t, annotator=by) for t, by in zip(traces, ("b", "a", "b", None), strict=True)]
    assert chain_facts(mixed, [])["annotators"] == ["a", "b"]
    assert chain_facts([mixed[3]], [])["annotators"] == []


def test_two_chains_of_a_task_are_one_task() -> None:
    first, second = tiny_traces(2)
    again = replace(first, id="again", response=f"{first.response} So it is.")
    assert task_keys([first, again]) == task_keys([first]) == [task_hash(first.prompt or "")]
    assert len(task_keys([first, second])) == 2


def test_versions_are_those_that_are_installed(monkeypatch) -> None:
    found = versions()
    assert found["torch"] == version("torch") and "transformer-lens" in found
    assert json.loads(json.dumps(found)) == found

    def missing(package: str) -> str:
        if package == "steerkit-thinking":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(steerkit.provenance, "version", missing)
    assert "steerkit-thinking" not in versions()  # a source tree that was never installed
    assert versions()["torch"] == found["torch"]
