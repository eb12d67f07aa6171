import json
import math

import pytest

import steerkit as sk
from steerkit.cli.sources import chain_format
from steerkit.errors import ExtractionError
from steerkit.traces import Traces
from tests.tiny import SENTENCES, tiny_traces

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def test_writes_vectors_and_figure_and_prints_a_table(
    run, model_folder, chains, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "120")  # remarks on one line
    result = run("extract", "--model", model_folder, "--traces", chains)
    assert result.code == 0, result.err
    assert result.err == ""
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["vectors.png", "vectors.safetensors"]
    assert (out / "vectors.png").read_bytes().startswith(SIGNATURE)
    vectors = sk.read_vectors(out / "vectors.safetensors")
    assert set(vectors) == set(SENTENCES)
    lines = result.out.splitlines()
    expected = "behaviour spans tasks norm split-half shuffled AUROC layer"
    assert lines[0].split() == expected.split()
    printed = {line.split()[0]: line.split()[1:] for line in lines[2 : 2 + len(vectors)]}
    for row in vectors.table().to_dict("records"):
        spans, tasks, *numbers, layer = printed[row["behavior"]][:7]
        assert " ".join(printed[row["behavior"]][7:]) == row["note"]
        assert (int(spans), int(tasks), int(layer)) == (row["spans"], row["tasks"], row["layer"])
        names = ("norm", "split_half", "split_half_shuffled", "auroc")
        assert [float(n) for n in numbers] == pytest.approx([row[n] for n in names], abs=0.006)
    assert "kept back for evaluation" in result.out and "Layers:  chosen by gradient." in result.out
    assert "out/vectors.safetensors" in result.out and "out/vectors.png" in result.out
    assert "Next: steerkit generate 'Use " in result.out


def test_any_model_gets_directions_without_chains_of_its_own(run, long_folder, tmp_path):
    """One command, no annotation: the bundled chains in plain English, by default and by name."""
    words = ["extract", "--model", long_folder, "--choose-by", "auroc", "--no-figure", "--layers"]
    words += ["1", "--out", "v.safetensors"]
    result = run(*words)
    assert result.code == 0, result.err
    assert "Chains:  reasoning (bundled)\n" in result.out
    expected = sk.extract(
        sk.load(long_folder),
        sk.read_traces(sk.data("traces/reasoning.jsonl")),
        choose_by="auroc",
        layers=[1],
    )
    found = (tmp_path / "v.safetensors").read_bytes()
    assert found == expected.save(tmp_path / "expected.safetensors").read_bytes()
    named = run(*words, "--traces", "reasoning", "--json")
    assert named.json["traces"] == ["reasoning"]
    assert found == (tmp_path / "v.safetensors").read_bytes()


def test_is_what_the_library_extracts(run, model_folder, chains, tmp_path):
    words = ["--behavior", "uncertainty", "--contrast", "overall", "--layers", "0,2"]
    words += ["--window", "2,3", "--seed", 7, "--batch-tokens", 300, "--choose-by", "auroc"]
    result = run("extract", "--model", model_folder, "--traces", chains, *words, "--no-figure")
    assert result.code == 0, result.err
    expected = sk.extract(
        sk.load(model_folder),
        sk.read_traces(chains),
        behaviors=["uncertainty-estimation"],
        contrast="overall",
        layers=[0, 2],
        window=sk.Window(2, 3),
        seed=7,
        batch_tokens=300,
        choose_by="auroc",
    )
    found = (tmp_path / "out" / "vectors.safetensors").read_bytes()
    assert found == expected.save(tmp_path / "expected.safetensors").read_bytes()
    assert not (tmp_path / "out" / "vectors.png").exists()


def test_json_is_one_object_and_nothing_else(run, model_folder, chains, tmp_path):
    words = ["extract", "--model", model_folder, "--traces", chains, "--out", "v.safetensors"]
    result = run(*words, "--json")
    found = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert list(found) == [
        "vectors",
        "figure",
        "model",
        "traces",
        "contrast",
        "method",
        "counts",
        "left_out",
        "behaviors",
    ]
    assert (found["vectors"], found["figure"]) == ("v.safetensors", "v.png")
    assert (found["model"], found["traces"]) == (model_folder.name, [str(chains)])
    splits = {name: len(sk.read_traces(chains).split(name)) for name in found["counts"]["chains"]}
    assert found["counts"]["chains"] == splits and sum(splits.values()) == 40
    facts = sk.read_vectors(tmp_path / "v.safetensors").provenance
    for name in ("extract", "select"):
        assert found["counts"]["tasks"][name] == len(facts[f"{name}_tasks"])
    columns = ["behavior", "spans", "tasks", "norm", "split_half", "split_half_shuffled"]
    columns += ["auroc", "cone", "norm_low", "norm_high"]
    for row in found["behaviors"]:
        assert list(row) == [*columns, "layer", "chosen_by", "note"]
        texts = ("behavior", "chosen_by", "note")
        numbers = {name: value for name, value in row.items() if name not in texts}
        assert all(math.isfinite(value) for value in numbers.values())
        direction = sk.read_vectors(tmp_path / "v.safetensors")[row["behavior"]]
        i = direction.row(row["layer"])
        assert row["cone"] == pytest.approx(float(direction.cone[i]))
        length = float(direction.norm_high[i] / direction.mean_norm[i])
        assert row["norm_low"] <= row["norm_high"] == pytest.approx(length)


def test_fitted_methods_say_how_large_their_file_is_and_can_be_bounded(
    run, model_folder, chains, tmp_path
):
    words = ["extract", "--model", model_folder, "--traces", chains, "--no-figure"]
    words += ["--choose-by", "auroc", "--layers", "1", "--method", "lda"]
    result = run(*words, "--json")
    assert result.code == 0, result.err
    spans = sum(len(t.spans) for t in sk.read_traces(chains).split("extract"))
    assert f"the means of {spans} spans go to a temporary file of" in result.err
    row = result.json["behaviors"][0]
    assert row["cone"] is None and row["split_half"] is not None
    few = run(*words, "--sample-gib", "0.000001")
    assert few.code == 2 and "--sample-gib" in few.err
    with pytest.raises(ExtractionError, match="sample_bytes"):
        sk.extract(sk.load(model_folder), sk.read_traces(chains), method="pca", sample_bytes=1000)


def test_numbers_that_are_missing_are_null(run, model_folder, tmp_path):
    only = Traces(trace for trace in tiny_traces(40) if trace.split == "extract")
    sk.write_traces(only, tmp_path / "only.jsonl")
    words = ["extract", "--model", model_folder, "--traces", "only.jsonl"]
    result = run(*words, "--json", "--quiet")
    assert result.code == 0 and "NaN" not in result.out
    assert {row["layer"] for row in result.json["behaviors"]} == {None}
    assert {row["norm"] for row in result.json["behaviors"]} == {None}
    # the table says so too, and the next command names a layer
    result = run(*words)
    assert "none" in result.out and "0.3@1" in result.out


def test_same_command_same_bytes(run, model_folder, chains, tmp_path):
    for out in ("a/v.safetensors", "b/v.safetensors"):
        run("extract", "--model", model_folder, "--traces", chains, "--out", out)
    for name in ("v.safetensors", "v.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def tagged(trace):
    text = "".join(
        f'["{span.label}"] {trace.response[span.start : span.end]} ["end-section"] '
        for span in trace.spans
    )
    return {"id": trace.id, "prompt": trace.prompt, "response": trace.response} | {
        "annotated_response": text + '["deduction"] Not in the chain. ["end-section"]'
    }


@pytest.mark.parametrize("name", ["tagged.json", "tagged.jsonl"])
def test_tagged_text_is_read_and_what_could_not_be_placed_is_shown(
    run, model_folder, chains, tmp_path, name
):
    records = [tagged(trace) for trace in sk.read_traces(chains)]
    whole = json.dumps(records) if name.endswith(".json") else "\n".join(map(json.dumps, records))
    (tmp_path / name).write_text(whole)
    assert (chain_format(name), chain_format(str(chains))) == ("tagged", "traces")
    words = ["extract", "--model", model_folder, "--no-figure", "--traces"]
    expected = run(*words, chains, "--json").json
    result = run(*words, name, "--json")
    for found, same in zip(result.json["behaviors"], expected["behaviors"], strict=True):
        # shuffles are drawn by chain, and its annotator is part of a chain
        assert found.pop("split_half_shuffled") != same.pop("split_half_shuffled")
        assert found == same
    assert result.json["counts"]["unplaced"] == {"not found": 40}
    assert "40 parts could not be placed (40 not found)" in run(*words, name).out


def test_declared_behaviors_can_be_labels(run, model_folder, chains, tmp_path):
    text = chains.read_text().replace('"backtracking"', '"second-thought"')
    (tmp_path / "own.jsonl").write_text(text)
    words = ["extract", "--model", model_folder, "--traces", "own.jsonl", "--no-figure"]
    result = run(*words)
    assert result.code == 2 and "own.jsonl, line 1" in result.err and "--declare" in result.err
    result = run(*words, "--declare", "second-thought", "--json")
    assert "second-thought" in [row["behavior"] for row in result.json["behaviors"]]
    assert run(*words, "--declare", "Second Thought").code == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--layers", "1,7"], "layer 7 does not exist"),
        (["--contrast", "sideways"], "sideways"),
        (["--window", "0,0"], "window"),
        (["--behavior", "daydreaming"], "daydreaming"),
        (["--dtype", "int3"], "int3"),
        (["--device", "abacus"], "abacus"),
        (["--out", "v.png"], "overwritten"),
        (["--out", "."], "it is a folder"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    run, model_folder, chains, tmp_path, words, named
):
    result = run("extract", "--model", model_folder, "--traces", chains, *words)
    assert result.code == 2 and named in result.err, result.err
    assert result.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_chain_in_two_files_is_refused(run, model_folder, chains):
    result = run("extract", "--model", model_folder, "--traces", chains, chains)
    assert result.code == 2 and "occurs twice" in result.err


def test_next_command_can_be_typed(run, model_folder, chains):
    import shlex

    result = run("extract", "--model", model_folder, "--traces", chains, "--no-figure")
    line = next(line for line in result.out.splitlines() if line.startswith("Next: "))
    words = shlex.split(line.removeprefix("Next: "))
    result = run(*words[1:], "--max-new-tokens", 3)
    assert result.code == 0, result.err
    assert result.out.count("cut off") == 3


def test_who_is_left_out_stands_in_the_table(run, model_folder, tmp_path) -> None:
    from steerkit.traces import write_traces
    from tests.test_extraction import with_one_alone
    from tests.tiny import tiny_traces

    file = write_traces(with_one_alone(tiny_traces(40)), tmp_path / "alone.jsonl")
    words = ["extract", "--model", model_folder, "--traces", file, "--method", "pca"]
    words += ["--choose-by", "auroc", "--no-figure"]
    result = run(*words)
    assert result.code == 0, result.err
    # a remark is wrapped where it is long, and no number is cut short for it
    assert "left out: no span has another" in " ".join(result.out.split())
    assert "spans tasks norm" in " ".join(result.out.split()) and "…" not in result.out
    assert "backtracking is left out" in result.err
    result = run(*words, "--json", "--quiet")
    assert list(result.json["left_out"]) == ["backtracking"]
    shown = run("inspect", "out/vectors.safetensors")
    assert "left out: no span has another" in " ".join(shown.out.split())
    shown = run("inspect", "out/vectors.safetensors", "--behavior", "deduction")
    assert "left out" not in shown.out
    result = run(*words, "--behavior", "backtracking")
    assert result.code == 2 and "at layer 0" in result.err
