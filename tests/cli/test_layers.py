"""``steerkit layers``: what the library chooses, stored and shown."""

from __future__ import annotations

import pytest

import steerkit as sk
from steerkit.layer_choice.scores import chosen_layers, score_layers

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def words(model_folder, chains, vectors):
    return ["layers", "--model", model_folder, "--traces", chains, "--vectors", vectors]


GRAMMAR = ["--annotator", "grammar"]


def test_stores_the_library_s_choice(run, words, model_folder, chains, vectors, tmp_path) -> None:
    out = tmp_path / "chosen.safetensors"
    result = run(*words, "--no-sweep", "--no-ranges", "--by", "auroc", "--out", out, "--json")
    assert result.code == 0, result.err
    model, before = sk.load(model_folder), sk.read_vectors(vectors)
    table = score_layers(model, before, sk.read_traces(chains))
    expected = chosen_layers(table, "auroc")
    assert result.json["layers"] == expected and result.json["score"] == "auroc"
    assert result.json["annotator"] is None
    assert len(result.json["scores"]) == len(table)
    after = sk.read_vectors(out)
    assert {name: after[name].layer for name in after} == expected
    assert {after[name].chosen_by for name in after} == {"auroc"}
    assert (tmp_path / "chosen.layers.png").read_bytes().startswith(SIGNATURE)
    # the file that it came from is as it was
    assert before.provenance["layer_choice"]["score"] == "gradient"


def test_sweeps_finds_ranges_and_says_why(run, words, tmp_path, monkeypatch) -> None:
    from steerkit.layer_choice import causal

    def planted(trace: sk.Trace, label: str) -> float:
        pushed = [t for t in trace.metadata.get("steering") or () if t["behavior"] == label]
        return 0.5 + sum(term["coefficient"] for term in pushed)

    monkeypatch.setattr(causal, "_share", planted)
    out = tmp_path / "chosen.safetensors"
    options = ["--count", 2, "--max-new-tokens", 6, "--layers", "0,1", "--out", out, *GRAMMAR]
    result = run(*words, *options)
    assert result.code == 0, result.err
    assert "where sweep is largest" in result.out and "Fluent from" in result.out
    chosen = sk.read_vectors(out)
    assert all(direction.layer in (0, 1) for direction in chosen.values())
    assert all(direction.fluent is not None for direction in chosen.values())
    facts = chosen.provenance["layer_choice"]
    assert facts == {"score": "sweep", "coefficient": 0.2, "tasks": 2, "annotator": "grammar"}
    ranged = chosen.provenance["ranges"]
    assert ranged.pop("model") and ranged == {"tasks": 2, "annotator": "grammar"}
    assert "Labels:  by grammar" in result.out


def test_a_sweep_that_raised_nothing_says_so(run, words, vectors, tmp_path) -> None:
    """An untrained model writes no sentence that the grammar knows, pushed or not."""
    out = tmp_path / "chosen.safetensors"
    options = ["--count", 2, "--max-new-tokens", 6, "--layers", "0,1", "--out", out, *GRAMMAR]
    result = run(*words, *options, "--no-ranges")
    assert result.code == 0, result.err
    assert "raised at no layer by sweep; it keeps layer" in result.out
    before, after = sk.read_vectors(vectors), sk.read_vectors(out)
    assert {n: d.layer for n, d in after.items()} == {n: d.layer for n, d in before.items()}


def test_what_cannot_be_chosen_by_is_one_clear_line(run, words, tmp_path) -> None:
    result = run(*words, "--by", "gain")
    assert result.code == 2 and "not scored by 'gain'" in result.err
    result = run(*words, "--scores", "auroc,magic")
    assert result.code == 2 and "found 'magic'" in result.err
    result = run("layers", "--vectors", tmp_path / "none.safetensors")
    assert result.code == 2 and "no such vectors file" in result.err


def test_without_a_sweep_the_gradient_chooses(run, words, vectors, tmp_path) -> None:
    out = tmp_path / "chosen.safetensors"
    result = run(*words, "--no-sweep", "--no-ranges", "--out", out, "--json")
    assert result.code == 0, result.err
    before = sk.read_vectors(vectors)
    # extraction chose by the same score, on the same chains
    assert result.json["score"] == "gradient"
    assert result.json["layers"] == {name: d.layer for name, d in before.items()}


@pytest.mark.parametrize("named", ["rules", "file"])
def test_the_annotator_can_be_named(run, words, tmp_path, named) -> None:
    from steerkit.annotation import read_rules

    name = sk.data("annotators/rules.toml") if named == "file" else named
    options = ["--count", 2, "--max-new-tokens", 6, "--layers", "0,1", "--batch-size", 8]
    out = tmp_path / "chosen.safetensors"
    result = run(*words, *options, "--annotator", name, "--out", out, "--json", "--quiet")
    assert result.code == 0, result.err
    assert result.json["annotator"] == read_rules().name
    facts = sk.read_vectors(out).provenance
    assert facts["layer_choice"]["annotator"] == facts["ranges"]["annotator"] == read_rules().name
    result = run(*words, "--annotator", "oracle")
    assert result.code == 2 and "unknown annotator 'oracle'" in result.err


def test_the_annotator_of_the_chains_labels_again(run, model_folder, chains, tmp_path) -> None:
    """Vectors of chains that the bundled rules labelled are chosen by the bundled rules."""
    from steerkit.annotation import annotate, read_classifier, read_rules
    from steerkit.cli.layers import _annotator

    traces = sk.read_traces(chains)
    assert {t.annotator for t in traces} == {"planted"}
    model = sk.load(model_folder)
    planted = sk.extract(model, traces)
    # "planted" does not come with steerkit: whoever knows what this model writes
    assert _annotator(None, planted, "countdown-thinking").name == "grammar"
    assert _annotator(None, planted, str(model_folder)).name == read_classifier().name
    labelled = annotate(traces, "rules")
    vectors = sk.extract(model, labelled)
    for name in ("countdown-thinking", str(model_folder)):
        assert _annotator(None, vectors, name).name == read_rules().name
        assert _annotator("grammar", vectors, name).name == "grammar"


def test_any_model_has_chains_and_an_annotator(run, long_folder, tmp_path) -> None:
    """Extracted and chosen without a word about chains: plain English, and who knows it."""
    from steerkit.annotation import read_classifier

    model = ["--model", long_folder, "--layers", "0,1"]
    extracted = run("extract", *model, "--choose-by", "auroc", "--no-figure", "--quiet")
    assert extracted.code == 0, extracted.err
    options = ["--scores", "auroc", "--no-ranges", "--count", 2, "--max-new-tokens", 4]
    result = run("layers", *model, *options, "--json", "--quiet")
    assert result.code == 0, result.err
    assert result.json["traces"] == ["reasoning"]
    assert result.json["annotator"] == read_classifier().name


def test_one_task_is_refused_before_anything_is_written(run, words, tmp_path, monkeypatch) -> None:
    def never(*_, **__):
        raise AssertionError("chains were written")

    monkeypatch.setattr("steerkit.layer_choice.causal.sweep", never)
    result = run(*words, "--count", 1, "--out", tmp_path / "v.safetensors")
    assert result.code == 2 and "one select task gives a causal sweep no interval" in result.err
    assert not (tmp_path / "v.safetensors").exists()
