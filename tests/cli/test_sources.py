"""Every command reads chains in every format."""

import json
from argparse import Namespace

import pytest

import steerkit as sk
from steerkit.cli.sources import chain_file, chain_format, chains_note, fitting, read_chains
from steerkit.errors import ResourceError, TraceError
from tests.test_chat_log import USER, answer, completion, talk

SAID = "<think>\nWait, no, that is wrong.\n</think>\n\n7"
FILES = {
    "traces.jsonl": ("traces", json.dumps({"id": "a", "response": SAID})),
    "broken.jsonl": ("traces", '{"id": "a", "resp'),
    "wire.log": (
        "chat",
        ': hello\n\nevent: message\ndata: {"choices": [{"delta": {"content": "Wait"}}]}\n\n',
    ),
    "tagged.jsonl": (
        "tagged",
        json.dumps({"response": SAID, "annotated_response": '["deduction"] Wait ["end-section"]'}),
    ),
    "tagged.json": (
        "tagged",
        json.dumps([{"response": SAID, "annotated_response": "x"}], indent=2),
    ),
    "list.json": ("tagged", "[]"),
    "broken.json": ("tagged", "[{"),
    "talk.jsonl": ("chat", json.dumps(talk(USER, answer()))),
    "pretty.json": ("chat", json.dumps(completion(answer()), indent=2)),
    "list_of_talks.json": ("chat", json.dumps([talk(USER, answer())])),
    "bare.json": ("chat", json.dumps([USER, answer()])),
    "lists.jsonl": ("chat", "\n".join(json.dumps([USER, answer()]) for _ in range(2))),
    "chain.txt": ("plain", SAID),
    "strings.json": ("plain", json.dumps([SAID])),
    "strings.jsonl": ("plain", json.dumps(SAID)),
}


@pytest.mark.parametrize("name", FILES)
def test_formats_are_told_apart(tmp_path, name):
    expected, content = FILES[name]
    (tmp_path / name).write_text(content)
    assert chain_format(str(tmp_path / name)) == expected


def test_bundled_chains_are_traces():
    for name in ("countdown", "reasoning"):
        assert chain_format(str(sk.data(f"traces/{name}.jsonl"))) == "traces"
    assert chain_format("nowhere.jsonl") == "traces"


def test_bundled_chains_have_names_and_fit_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fits = {
        "countdown-thinking": "countdown",
        str(sk.data("models/countdown-base")): "countdown",
        "someone/countdown-base": "reasoning",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": "reasoning",
        str(tmp_path): "reasoning",
    }
    assert {model: fitting(model) for model in fits} == fits
    assert read_chains(["reasoning"])[0] == sk.read_traces(sk.data("traces/reasoning.jsonl"))
    named = Namespace(traces=["mine.jsonl", "reasoning"], model="x")
    assert chains_note(named) == "Chains:  mine.jsonl, reasoning (bundled)"
    unnamed = Namespace(traces=None, model="countdown-base")
    assert chains_note(unnamed) == "Chains:  countdown (bundled)"
    with pytest.raises(ResourceError, match="no such file"):
        read_chains(["resoning"])
    # a file of that name comes first
    (tmp_path / "reasoning").write_text(FILES["traces.jsonl"][1])
    assert chain_file("reasoning").resolve() == tmp_path / "reasoning"
    assert [trace.id for trace in read_chains(["reasoning"])[0]] == ["a"]


def test_files_of_all_formats_are_read_together(tmp_path):
    names = ["traces.jsonl", "tagged.json", "talk.jsonl", "chain.txt", "strings.json"]
    for name in names:
        (tmp_path / name).write_text(FILES[name][1])
    chains, unplaced = read_chains([str(tmp_path / name) for name in names])
    assert [t.id for t in chains] == ["a", "tagged-0", "talk-0", "chain", "strings-0"]
    assert all(t.closed for t in chains) and unplaced == []
    with pytest.raises(TraceError, match="occurs twice"):
        read_chains([str(tmp_path / "chain.txt")] * 2)


@pytest.mark.parametrize("name", ["talk.jsonl", "chain.txt", "strings.json"])
def test_commands_read_them(run, tmp_path, name):
    (tmp_path / name).write_text(FILES[name][1])
    result = run("annotate", name, "--annotator", "rules", "--json")
    (found,) = result.json
    assert found["annotator"].startswith("rules@") and found["spans"]


def test_what_a_log_holds_beside_chains_is_a_warning(run, tmp_path):
    (tmp_path / "log.jsonl").write_text(
        "\n".join(map(json.dumps, (talk(USER, answer()), talk(USER)))) + "\ncut of"
    )
    result = run("annotate", "log.jsonl", "--annotator", "rules", "--out", "out.jsonl")
    assert result.code == 0
    assert "warning: log.jsonl: 1 chains read, 2 parts are no chains" in result.err
    assert "1 no answer" in result.err and "1 not JSON" in result.err
