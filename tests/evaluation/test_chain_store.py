"""Chain store: nothing is lost, and chains of other settings are never taken for ours."""

from __future__ import annotations

from dataclasses import replace

from steerkit.evaluation.chain_store import ChainStore
from steerkit.traces import Trace, Traces, read_traces


def chain(task: str, sample: int = 0, text: str = "hm") -> Trace:
    return Trace(f"{task}-{sample}-{text}", task, text, metadata={"sample": sample})


def texts(traces: Traces) -> list[tuple[str, int, str]]:
    return [(t.task_id, t.metadata["sample"], t.response) for t in traces]


def test_chains_are_added_to_those_that_are_there(tmp_path) -> None:
    store = ChainStore(tmp_path)
    assert store.read("baseline", "m") == Traces()
    store.add("baseline", "m", [chain("a"), chain("b")])
    store.add("baseline", "m", [chain("c"), chain("b", text="again")])
    assert texts(store.read("baseline", "m")) == [
        ("a", 0, "hm"),
        ("c", 0, "hm"),
        ("b", 0, "again"),
    ]
    # the file is a traces file, and says how its chains were made
    (first, *_) = read_traces(tmp_path / "traces" / "baseline.jsonl")
    assert first == replace(chain("a"), metadata={"sample": 0, "made_as": "m"})


def test_chains_of_other_settings_are_put_aside_and_come_back(tmp_path) -> None:
    store = ChainStore(tmp_path)
    store.add("baseline", "old", [chain("a", text="old"), chain("b", text="old")])
    assert store.read("baseline", "new") == Traces()
    assert len(store.read("baseline", "old")) == 2  # asking moves nothing
    store.add("baseline", "new", [chain("a", text="new")])
    assert texts(store.read("baseline", "new")) == [("a", 0, "new")]
    assert {t for _, _, t in texts(store.read("baseline", "old"))} == {"old"}
    assert [t.response for t in read_traces(store.path("baseline"))] == ["new"]
    store.add("baseline", "old", [chain("c", text="old")])
    assert len(store.read("baseline", "old")) == 3
    assert texts(store.read("baseline", "new")) == [("a", 0, "new")]
    aside = sorted(p.name for p in (tmp_path / "traces" / "earlier").iterdir())
    assert aside == ["baseline.new.jsonl"]


def test_chains_without_a_mark_are_nobody_s(tmp_path) -> None:
    from steerkit.traces import write_traces

    store = ChainStore(tmp_path)
    write_traces([chain("a")], store.path("baseline"))
    assert store.read("baseline", "m") == Traces()
    store.add("baseline", "m", [chain("b")])
    assert len(read_traces(tmp_path / "traces" / "earlier" / "baseline.unmarked.jsonl")) == 1
