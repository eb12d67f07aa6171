"""``steerkit calibrate``: what the library measures, written and shown."""

from __future__ import annotations

import pytest

import steerkit as sk
from tests.test_published import means, written


@pytest.fixture
def imported(run, tmp_path):
    file = written(means(), tmp_path / "means.pt")
    assert run("import", file, "--out", "v.safetensors", "--layer", 1).code == 0
    return tmp_path / "v.safetensors"


def test_measures_what_the_library_measures(run, imported, model_folder, chains, tmp_path) -> None:
    before = sk.read_vectors(imported)
    words = ["calibrate", imported, "--model", model_folder, "--traces", chains]
    result = run(*words, "--out", "calibrated.safetensors")
    assert result.code == 0, result.err
    expected = before.calibrate(sk.load(model_folder), sk.read_traces(chains))
    found = (tmp_path / "calibrated.safetensors").read_bytes()
    assert found == expected.save(tmp_path / "expected").read_bytes()
    assert not next(iter(sk.read_vectors(imported).values())).calibrated  # left as it was
    first = next(iter(expected.values()))
    line = next(row for row in result.out.splitlines() if row.startswith(first.behavior))
    shown = [float(cell) for cell in line.split()[1:]]
    was = before[first.behavior].norm_of_mean[1]
    numbers = [1, first.mean_norm[1], first.norm_of_mean[1], was]
    assert shown == pytest.approx([float(n) for n in numbers], abs=0.006)
    assert "40 chains" in result.out and "Unit:    norm" in result.out


def test_replaces_the_file_and_then_steers_in_mean_norms(
    run, imported, model_folder, chains
) -> None:
    words = ["calibrate", imported, "--model", model_folder, "--traces", chains]
    result = run(*words, "--json", "--quiet")
    assert result.code == 0, result.err
    assert result.out.count("\n") == 1
    assert list(result.json) == ["vectors", "model", "unit", "tokens", "counts", "behaviors"]
    assert result.json["unit"] == "norm" and result.json["counts"]["chains"] == 40
    vectors = sk.read_vectors(imported)
    assert all(direction.calibrated for direction in vectors.values())
    assert (0.3 * vectors["backtracking"]).unit == "norm"
    for row in result.json["behaviors"]:
        direction = vectors[row["behavior"]]
        assert row["mean_norm"] == pytest.approx(float(direction.mean_norm[1]))


def test_what_cannot_be_measured_is_one_clear_line(run, imported, model_folder, tmp_path) -> None:
    words = ["calibrate", imported, "--model", model_folder]
    result = run(*words)
    assert result.code == 2 and "--traces" in result.err
    bare = [sk.Trace("a", "t", "", prompt="Use 3, 7, 8 to make 29.")]
    sk.write_traces(sk.Traces(bare), tmp_path / "bare.jsonl")
    before = imported.read_bytes()
    result = run(*words, "--traces", "bare.jsonl")
    assert result.code == 2 and "no thinking position" in result.err
    assert imported.read_bytes() == before
    result = run("calibrate", "nowhere.safetensors", *words[2:], "--traces", "bare.jsonl")
    assert result.code == 2 and "no such vectors file" in result.err


def test_ranges_found_before_are_those_after(run, imported, model_folder, chains) -> None:
    words = ["--model", model_folder, "--traces", chains]
    options = ["--no-sweep", "--scores", "auroc", "--layers", 1, "--count", 2]
    result = run("layers", *words, "--vectors", imported, *options, "--max-new-tokens", 6)
    assert result.code == 0, result.err
    before = sk.read_vectors(imported)
    assert run("calibrate", imported, *words).code == 0
    after = sk.read_vectors(imported)
    for name, direction in before.items():
        if direction.layer is None or direction.fluent is None:
            continue
        factor = float(direction.unit_length(direction.layer))
        factor /= float(after[name].unit_length(direction.layer))
        assert after[name].fluent == pytest.approx([factor * c for c in direction.fluent])
    assert any(d.fluent for d in after.values())
