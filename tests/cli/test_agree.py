import pytest

import steerkit as sk
from steerkit.annotation import agree, annotate
from steerkit.traces import Span
from tests.annotation.planted import planted


@pytest.fixture
def files(tmp_path):
    """The same chains, labelled by the hand that wrote them and by rules."""
    gold = planted(8)
    sk.write_traces(gold, tmp_path / "a.jsonl")
    sk.write_traces(annotate(gold, "rules"), tmp_path / "b.jsonl")
    return sk.read_traces(tmp_path / "a.jsonl"), sk.read_traces(tmp_path / "b.jsonl")


def test_tables_say_what_agree_says(run, files):
    result = run("agree", "a.jsonl", "b.jsonl")
    assert (result.code, result.err) == (0, "")
    found = agree(*files)
    for unit in ("sentences", "characters"):
        assert f"{found.value('kappa', unit):.2f}" in result.out
    assert "deduction" in result.out and "coverage" in result.out
    assert "8 chains of 8 tasks in both, 0 only in A" in result.out
    assert "hand" in result.out and "rules@" in result.out


def test_json_is_the_tables(run, files):
    result = run("agree", "a.jsonl", "b.jsonl", "--json", "--unit", "spans", "--resamples", 100)
    expected = agree(*files, units=("spans",), resamples=100).to_json()
    assert result.json == {**expected, "unplaced": {"a": 0, "b": 0}}


def test_tokens_are_those_of_a_model(run, files, model_folder):
    words = ["agree", "a.jsonl", "a.jsonl", "--unit", "tokens", "--json"]
    for model in (model_folder, "countdown-thinking"):
        result = run(*words, "--tokenizer", model)
        rows = {row["measure"]: row for row in result.json["summary"]}
        assert rows["kappa"]["value"] == 1.0
        assert rows["kappa"]["count"] > 8 * 10 * 3


def test_only_what_both_hold_is_compared(run, files, tmp_path):
    sk.write_traces(files[0][:5], tmp_path / "fewer.jsonl")
    result = run("agree", "a.jsonl", "fewer.jsonl")
    assert "5 chains of 5 tasks in both, 3 only in A, 0 only in B" in result.out


def test_labels_of_ones_own_are_declared(run, files, tmp_path):
    sk.declare(sk.Behavior("checking", "checks"))
    other = [t.with_spans([Span(7, 12, "checking")], "me") for t in files[0]]
    sk.write_traces(other, tmp_path / "own.jsonl")
    assert "checking" in run("agree", "a.jsonl", "own.jsonl", "--declare", "checking").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.jsonl", "none.jsonl"], "no such file"),
        (["a.jsonl", "other.jsonl"], "no chain in common"),
        (["a.jsonl", "b.jsonl", "--unit", "tokens"], "--tokenizer together"),
        (["a.jsonl", "b.jsonl", "--tokenizer", "x"], "--tokenizer together"),
        (
            ["a.jsonl", "b.jsonl", "--unit", "tokens", "--tokenizer", "/nowhere/x"],
            "cannot load the tokenizer",
        ),
        (["a.jsonl", "b.jsonl", "--unit", "words"], "invalid choice"),
    ],
)
def test_what_cannot_be_compared_is_one_message(run, files, tmp_path, words, message):
    sk.write_traces(planted(2, seed=7), tmp_path / "other.jsonl")
    result = run("agree", *words)
    assert result.code == 2 and message in result.err and result.out == "", result.err
    assert "Traceback" not in result.err
