import json

import pytest

import steerkit as sk
from steerkit.annotation import annotate
from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.tasks import generate_tasks
from steerkit.traces import Trace, Traces


@pytest.fixture
def written(tmp_path):
    """Chains of the grammar, and one sentence that it does not know."""
    traces = [
        Trace(task.id, task.id, write_chain(task, 0).response, prompt=task.prompt)
        for task in generate_tasks("heldout", count=6)
    ]
    traces.append(Trace("other", "other", "The moon is round.\n</think>\nYes."))
    return sk.read_traces(sk.write_traces(traces, tmp_path / "chains.jsonl"))


def test_labels_chains_and_counts_labels(run, written, tmp_path):
    result = run("annotate", "chains.jsonl")
    assert (result.code, result.err) == (0, "")
    found = sk.read_traces(tmp_path / "chains.annotated.jsonl")
    assert found == annotate(written)
    total = sum(found.counts().values())
    rows = {line.split()[0]: line.split() for line in result.out.splitlines() if line.strip()}
    for label, n in found.counts().items():
        assert int(rows[label][1]) == n
        assert float(rows[label][2]) == pytest.approx(100 * n / total, abs=0.06)
    assert rows["unparsed"][1] == "1" and "of spans unparsed" in result.out


def test_prints_lines_or_an_array(run, written, tmp_path):
    expected = [trace.to_json() for trace in annotate(written)]
    lines = run("annotate", "chains.jsonl", "--out", "-")
    assert [json.loads(line) for line in lines.out.splitlines()] == expected
    array = run("annotate", "chains.jsonl", "--json", "--annotator", "grammar")
    assert array.json == expected
    assert "unparsed" in lines.err and "unparsed" in array.err
    assert run("annotate", "chains.jsonl", "--json", "--quiet").err == ""
    assert [p.name for p in tmp_path.iterdir()] == ["chains.jsonl"]
    run("annotate", "chains.jsonl", "--json", "--out", "out/both.jsonl")
    assert sk.read_traces(tmp_path / "out" / "both.jsonl") == Traces(annotate(written))


def test_never_overwrites_what_it_reads(run, written, tmp_path):
    before = (tmp_path / "chains.jsonl").read_bytes()
    result = run("annotate", "chains.jsonl", "--out", tmp_path / "chains.jsonl")
    assert result.code == 2 and "overwrite" in result.err
    assert (tmp_path / "chains.jsonl").read_bytes() == before


def test_a_bad_line_is_named_and_nothing_is_written(run, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "response": "b"}\n{"id": \n')
    result = run("annotate", "bad.jsonl")
    assert result.code == 2 and "bad.jsonl, line 2" in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]
