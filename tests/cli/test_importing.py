import json
import shlex

import pytest
import torch

import steerkit as sk
from tests.test_published import COUNTS, means, written
from tests.tiny import LAYERS


@pytest.fixture
def file(tmp_path):
    content = means()
    content["summarizing"] = {"mean": torch.zeros(LAYERS, 32), "count": 1}
    return written(content, tmp_path / "means.pt")


def test_writes_vectors_and_prints_a_table(run, file, tmp_path):
    result = run("import", file)
    assert result.code == 0, result.err
    vectors = sk.read_vectors(tmp_path / "out" / "vectors.safetensors")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["vectors.safetensors"]
    lines = result.out.splitlines()
    assert lines[0].split() == ["behaviour", "spans", "length", "at", "layer", "layer"]
    printed = {line.split()[0]: line.split()[1:] for line in lines[2:6]}
    for name, direction in vectors.items():
        lengths = direction.tensor.norm(dim=1) / direction.norm_of_mean
        spans, length, at, layer = printed[name]
        assert (int(spans), at, layer) == (COUNTS[name], "-", "none")
        assert float(length) == pytest.approx(float(lengths.median()), abs=0.006)
    assert printed["summarizing"][0] == "1"
    assert "left out: no known behaviour" in result.out and "'summarizing'" in result.err
    assert "3 layers of width 32" in result.out and "of 5 responses" in result.out
    assert "out/vectors.safetensors" in result.out
    assert "Next: steerkit generate 'YOUR PROMPT' --model 'YOUR MODEL'" in result.out


def test_is_what_the_library_reads(run, file, tmp_path):
    words = ["--contrast", "rest", "--layer", "backtracking=1", "uncertainty=2"]
    result = run("import", file, *words, "--model-name", "some/model", "--out", "v.safetensors")
    assert result.code == 0, result.err
    expected = sk.read_published(
        file, contrast="rest", model="some/model", layers={"backtracking": 1, "uncertainty": 2}
    )
    found = (tmp_path / "v.safetensors").read_bytes()
    assert found == expected.save(tmp_path / "expected").read_bytes()
    run("import", file, "--layer", 2, "--out", "all.safetensors")
    layers = {d.layer for d in sk.read_vectors(tmp_path / "all.safetensors").values()}
    assert layers == {2}


def test_json_is_one_object_and_nothing_else(run, file):
    words = ["--layer", "backtracking=1", "--json", "--quiet", "--out", "v.safetensors"]
    result = run("import", file, *words)
    found = json.loads(result.out)
    assert result.out.count("\n") == 1 and result.err == ""
    assert list(found) == [
        *("vectors", "model", "contrast", "unit", "responses", "left_out", "behaviors")
    ]
    assert (found["contrast"], found["unit"], found["model"]) == ("overall", "paper", None)
    assert found["left_out"] == {"summarizing": {"count": 1, "reason": "no known behaviour"}}
    rows = {row["behavior"]: row for row in found["behaviors"]}
    assert rows["deduction"]["layer"] is None and rows["deduction"]["length_at_layer"] is None
    assert rows["backtracking"]["layer"] == 1 and rows["backtracking"]["length_at_layer"] > 0


def test_next_command_can_be_typed_and_steers_in_the_papers_unit(run, file, model_folder, tmp_path):
    result = run("import", file, "--model-name", model_folder, "--layer", 1)
    line = next(line for line in result.out.splitlines() if line.startswith("Next: "))
    words = shlex.split(line.removeprefix("Next: "))[1:]
    assert words[-1] == "backtracking=-1,0,1"
    result = run(*words, "--max-new-tokens", 3, "--json")
    assert result.code == 0, result.err
    units = [t["metadata"]["steering"][0]["unit"] for t in result.json]
    assert units == ["paper"] * 3
    result = run(*words, "--unit", "norm")
    assert result.code == 2 and "calibrate" in result.err and result.out == ""
    # without a layer, generate says how to name one, and the command that import prints does
    result = run("import", file, "--model-name", model_folder)
    line = next(line for line in result.out.splitlines() if line.startswith("Next: "))
    words = shlex.split(line.removeprefix("Next: "))[1:]
    assert words[-1] == "backtracking=-1,0,1@1" and run(*words, "--max-new-tokens", 3).code == 0
    result = run(*words[:-1], "backtracking=1")
    assert result.code == 2 and "name=coefficient@layer" in result.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--layer", "1", "backtracking=2"], "--layer is not clear"),
        (["--layer", "backtracking=1", "backtracking=2"], "once for each"),
        (["--layer", "seven"], "expected a layer"),
        (["--layer", "=1"], "expected a layer"),
        (["--layer", "7"], "layer 7"),
        (["--layer", "daydreaming=1"], "daydreaming"),
        (["--contrast", "within"], "cannot be computed from means"),
        (["--out", "means.pt"], "overwrite the means"),
        (["--out", "."], "it is a folder"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(run, file, tmp_path, words, named):
    before = file.read_bytes()
    result = run("import", file, "--quiet", *words)
    assert result.code == 2 and named in result.err and result.out == "", result.err
    assert [p.name for p in tmp_path.iterdir()] == ["means.pt"] and file.read_bytes() == before


def test_labels_can_be_declared(run, file, tmp_path):
    assert run("import", file, "--declare", "summarizing").err == ""
    assert "summarizing" in sk.read_vectors(tmp_path / "out" / "vectors.safetensors")


def test_means_given_as_vectors_get_a_hint(run, file, model_folder):
    words = ["generate", "x", "--model", model_folder, "--steer", "backtracking=1"]
    result = run(*words, "--vectors", file)
    assert result.code == 2 and "steerkit import FILE" in result.err
