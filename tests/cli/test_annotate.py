import json

import pytest

import steerkit as sk
from steerkit.annotation import annotate
from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.tasks import generate_tasks
from steerkit.traces import Trace, Traces
from tests.annotation.planted import planted


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


@pytest.mark.parametrize(
    ("words", "message", "option"),
    [
        # by the default output
        (["--fit", "chains.annotated.jsonl"], "chains that the classifier is fitted on", "--out"),
        (["--fit", "a.jsonl", "labels.jsonl", "--out", "labels.jsonl"], "is fitted on", "--out"),
        (["--fit", "labels.jsonl", "--save", "./labels.jsonl"], "is fitted on", "--save"),
        (["--fit", "labels.jsonl", "--save", "chains.jsonl"], "chains that are read", "--save"),
        (
            ["--fit", "labels.jsonl", "--save", "new.jsonl", "--out", "new.jsonl"],
            "the classifier would overwrite",
            "--save",
        ),
        (
            ["--fit", "labels.jsonl", "--save", "chains.annotated.jsonl"],
            "the classifier would overwrite",
            "--save",
        ),
        (["--annotator", "own.toml", "--out", "own.toml"], "overwrite the annotator", "--out"),
        (
            ["--annotator", "mine.safetensors", "--out", "mine.safetensors"],
            "overwrite the annotator",
            "--out",
        ),
    ],
)
def test_never_overwrites_what_labels(run, written, tmp_path, words, message, option):
    names = ["a.jsonl", "labels.jsonl", "chains.annotated.jsonl", "own.toml", "mine.safetensors"]
    for name in names:
        (tmp_path / name).write_text("kept")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kind = [] if "--annotator" in words else ["--annotator", "classifier"]
    result = run("annotate", "chains.jsonl", *kind, *words)
    assert result.code == 2 and message in result.err and option in result.err, result.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_bad_line_is_named_and_nothing_is_written(run, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "response": "b"}\n{"id": \n')
    result = run("annotate", "bad.jsonl")
    assert result.code == 2 and "bad.jsonl, line 2" in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


# -- plain English

OWN = "<think>\nOkay, so I need the sum. Wait, no, that can't be right. Purple.\n</think>\n\n7"


@pytest.fixture
def english(tmp_path):
    chains = [Trace(f"e{i}", f"e{i}", OWN, prompt=f"Sum {i}?") for i in range(3)]
    return sk.read_traces(sk.write_traces(chains, tmp_path / "english.jsonl"))


@pytest.fixture
def labelled(tmp_path):
    """Chains whose labels follow from their words, as a traces file."""
    return sk.write_traces(planted(12), tmp_path / "labelled.jsonl")


def labels_of(traces):
    return [[span.label for span in trace.spans] for trace in traces]


def test_rules_from_the_package_or_a_file(run, english, tmp_path):
    result = run("annotate", "english.jsonl", "--annotator", "rules")
    assert (result.code, result.err) == (0, "")
    found = sk.read_traces(tmp_path / "english.annotated.jsonl")
    assert labels_of(found) == [["initializing", "backtracking", "unparsed"]] * 3
    assert found[0].annotator.startswith("rules@") and found[0].annotator in result.out
    rules = '[[behaviors]]\nname = "colour"\ndefinition = "names one"\n'
    rules += '[[rules]]\nbehavior = "colour"\nphrases = ["purple"]\n'
    (tmp_path / "own.toml").write_text(rules)
    own = run("annotate", "english.jsonl", "--annotator", "own.toml", "--json")
    assert [s["label"] for s in own.json[0]["spans"]] == ["unparsed", "unparsed", "colour"]
    assert own.json[0]["annotator"] != found[0].annotator


def test_a_classifier_is_fitted_saved_and_used_again(run, labelled, tmp_path):
    sk.write_traces((t.with_spans([], None) for t in planted(4, seed=5)), tmp_path / "bare.jsonl")
    words = ["annotate", "bare.jsonl", "--annotator"]
    first = run(
        *words, "classifier", "--fit", labelled, "--save", "mine.safetensors", "--json", "--quiet"
    )
    assert first.code == 0, first.err
    again = run(*words, "mine.safetensors", "--json", "--quiet")
    assert again.json == first.json
    truth = planted(4, seed=5)
    shown = [[s["label"] for s in trace["spans"]] for trace in first.json]
    assert shown == labels_of(truth)
    strict = run(*words, "mine.safetensors", "--threshold", "1", "--json", "--quiet")
    assert {s["label"] for trace in strict.json for s in trace["spans"]} == {"unparsed"}


def test_folds_label_a_file_by_fits_on_its_other_tasks(run, labelled, tmp_path):
    result = run(
        *("annotate", labelled, "--annotator", "classifier", "--folds", 4, "--keep-spans"),
        *("--out", "again.jsonl"),
    )
    assert (result.code, result.err) == (0, "")
    found = sk.read_traces(tmp_path / "again.jsonl")
    gold = sk.read_traces(labelled)
    (name,) = {t.annotator for t in found}
    assert name.startswith("classifier, 4-fold@")
    assert [[(s.start, s.end) for s in t.spans] for t in found] == [
        [(s.start, s.end) for s in t.spans] for t in gold
    ]
    agreed = run("agree", labelled, "again.jsonl", "--unit", "spans", "--json")
    rows = {row["measure"]: row["value"] for row in agreed.json["summary"]}
    assert rows["accuracy"] > 0.9


def test_tagged_text_can_be_labelled_anew(run, tmp_path):
    tagged = '["deduction"] Wait, no, that is wrong. ["end-section"]'
    record = {"response": "<think>Wait, no, that is wrong.</think>7", "annotated_response": tagged}
    (tmp_path / "tagged.json").write_text(json.dumps([record]))
    result = run("annotate", "tagged.json", "--annotator", "rules", "--keep-spans", "--json")
    assert [s["label"] for s in result.json[0]["spans"]] == ["backtracking"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "0.5"], "--threshold: not for the annotator grammar"),
        (["--annotator", "rules", "--fit", "english.jsonl"], "--fit: not for the annotator rules"),
        (["--annotator", "x.toml", "--threshold", "0.5"], "--threshold: not for the annotator x"),
        (["--annotator", "magic"], "unknown annotator 'magic'"),
        (["--keep-spans"], "grammar cuts sentences itself"),
        (["--annotator", "classifier", "--save", "x"], "Give --fit"),
        (["--annotator", "b.safetensors", "--fit", "a"], "exclude each other"),
        (["--annotator", "classifier", "--threshold", "2"], "number from 0 to 1"),
        (["--annotator", "none.safetensors"], "no such classifier"),
        (["--annotator", "none.toml"], "no such rules file"),
        (["--annotator", "classifier", "--folds", "3"], "at least two labels"),
        (["--annotator", "classifier", "--fit", "english.jsonl"], "at least two labels"),
    ],
)
def test_options_without_effect_or_sense_are_refused(run, english, tmp_path, words, message):
    result = run("annotate", "english.jsonl", *words)
    assert result.code == 2 and message in result.err, result.err
    assert [p.name for p in tmp_path.iterdir()] == ["english.jsonl"]
