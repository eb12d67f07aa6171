import json
import math

import pytest

import steerkit as sk
from steerkit.comparison import compare_directions
from tests.test_comparison import made

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def files(tmp_path):
    made(0).save(tmp_path / "a.safetensors")
    made(10).save(tmp_path / "b.safetensors")
    made(20).save(tmp_path / "twin.safetensors")
    return "a.safetensors", "b.safetensors"


def test_prints_a_table_and_draws(run, files, tmp_path):
    result = run("compare", *files, "--shuffled", "twin.safetensors")
    assert result.code == 0, result.err
    assert result.err == ""
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(SIGNATURE)
    lines = result.out.splitlines()
    columns = "behaviour layer cosine low high corrected others shuffled"
    assert lines[0].split() == columns.split()
    a, b, twin = made(0), made(10), made(20)
    table, control = compare_directions(a, b), compare_directions(twin, b)
    for line in lines[2:4]:
        marked, layer, *numbers = line.split()
        name = marked.rstrip("*")
        weak = bool(a[name].weakness or b[name].weakness)
        assert (marked != name) == weak == (f" {name} (" in result.out)
        here = table[(table["behavior_a"] == name) & (table["layer"] == int(layer))]
        assert int(layer) == a[name].layer
        same, other = here[here["matched"]].iloc[0], here[~here["matched"]].iloc[0]
        where = (control["behavior_a"] == name) & (control["layer"] == int(layer))
        own = control[where & control["matched"]].iloc[0]
        expected = [same[part] for part in ("cosine", "low", "high", "corrected")]
        expected += [other["cosine"], own["cosine"]]
        assert [float(n) for n in numbers] == pytest.approx(expected, abs=0.006)
    assert f"width 8 stay within {table['chance'].iloc[0]:.2f}" in result.out
    assert max(map(len, lines[:4])) <= 80
    assert "model m0, contrast rest" in result.out and "out/comparison.png" in result.out


def test_a_layer_can_be_chosen_and_no_figure_made(run, files, tmp_path):
    result = run("compare", *files, "--layer", 4, "--behavior", "deduction", "--no-figure")
    (line,) = [line for line in result.out.splitlines() if line.startswith("deduction")]
    table = compare_directions(made(0), made(10), behaviors="deduction", layers=4)
    assert line.split()[1] == "4"
    assert float(line.split()[2]) == pytest.approx(table["cosine"].iloc[0], abs=0.006)
    assert line.split()[6] == "-"  # no other behaviour was asked for
    assert not (tmp_path / "out").exists()


def test_json_has_every_pair_and_layer(run, files):
    result = run("compare", *files, "--json", "--layers", "1-2", "--out", "f.svg")
    found = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert list(found) == ["figure", "d_model", "a", "b", "chance", "rows", "shuffled"]
    assert (found["figure"], found["d_model"], found["shuffled"]) == ("f.svg", 8, None)
    assert found["a"] == {"model": "m0", "contrast": "rest"}
    table = compare_directions(made(0), made(10), layers=[1, 2])
    assert len(found["rows"]) == len(table) == 8
    for row, expected in zip(found["rows"], table.to_dict("records"), strict=True):
        assert row == pytest.approx(expected)
        assert all(math.isfinite(row[part]) for part in ("cosine", "low", "high"))


def test_what_is_missing_is_null_or_a_dash(run, tmp_path):
    bare = made(0, split_half=None, cone=None, layer=None).save(tmp_path / "bare.safetensors")
    result = run("compare", bare, bare, "--json", "--no-figure")
    assert "NaN" not in result.out
    assert {row["low"] for row in result.json["rows"]} == {None}
    line = run("compare", bare, bare, "--no-figure").out.splitlines()[2].split()
    assert line[1] == "2" and line[3:6] == ["-", "-", "-"]  # the middle layer
    other = made(0, ("initializing",)).save(tmp_path / "other.safetensors")
    assert "no behaviour in both" in run("compare", bare, other, "--no-figure").out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["a.safetensors", "missing.safetensors"], "no such vectors file"),
        (["a.safetensors", "overall.safetensors"], "--force"),
        (["a.safetensors", "b.safetensors", "--layer", "3"], "layer 3"),
        (["a.safetensors", "b.safetensors", "--layers", "3"], "layer 3"),
        (["a.safetensors", "b.safetensors", "--behavior", "initializing"], "initializing"),
        (["a.safetensors", "b.safetensors", "--out", "f.bmp"], "not a format for figures"),
        (["a.safetensors", "b.safetensors", "--out", "."], "it is a folder"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(run, files, tmp_path, words, named):
    sk.SteeringVectors(dict(made(3)), {"contrast": "overall"}).save(
        tmp_path / "overall.safetensors"
    )
    before = sorted(p.name for p in tmp_path.iterdir())
    result = run("compare", *words)
    assert result.code == 2 and named in result.err and result.out == "", result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_shuffled_twin_comes_from_the_command_line(run, model_folder, chains, tmp_path):
    words = ["extract", "--model", model_folder, "--traces", chains, "--no-figure", "--json"]
    assert run(*words, "--out", "v.safetensors").code == 0
    assert run(*words, "--shuffle-labels", 3, "--out", "twin.safetensors").code == 0
    twin = sk.read_vectors(tmp_path / "twin.safetensors")
    assert twin.provenance["annotators"] == ["planted, labels shuffled within chains, seed 3"]
    expected = sk.extract(sk.load(model_folder), sk.shuffle_labels(sk.read_traces(chains), 3))
    found = (tmp_path / "twin.safetensors").read_bytes()
    assert found == expected.save(tmp_path / "expected").read_bytes()
    result = run("compare", "v.safetensors", "v.safetensors", "--shuffled", "twin.safetensors")
    for line in result.out.splitlines()[2:7]:
        assert float(line.split()[2]) == 1.0 and float(line.split()[7]) < 0.9
