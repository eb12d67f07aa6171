"""`make agreement`: measures are an oracle's, and the pages show what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import agreement
import pytest
from agreement import compared, markdown, tokens_of

import steerkit as sk

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def chains() -> sk.Traces:
    return sk.read_traces(sk.data("traces/reasoning.jsonl"))[:12]


def value(row: dict, unit: str, measure: str) -> float:
    return row["units"][unit][measure]["value"]


def test_measures_are_those_of_scikit_learn(chains, monkeypatch) -> None:
    from sklearn.metrics import cohen_kappa_score, f1_score

    monkeypatch.setattr(agreement, "FOLDS", 3)
    crossed, rules = compared(chains, "own", None, resamples=50)
    assert "3-fold" in crossed["annotator"] and rules["name"].startswith("rules@")
    labelled = sk.annotate(chains, "rules", keep_spans=True)
    truth = [span.label for trace in chains for span in trace.spans]
    said = [span.label for trace in labelled for span in trace.spans]
    assert rules["units"]["spans"]["count"] == len(truth)
    assert value(rules, "spans", "kappa") == pytest.approx(cohen_kappa_score(truth, said))
    expected = f1_score(truth, said, average="macro", labels=sorted(set(truth)))
    assert value(rules, "spans", "macro_f1") == pytest.approx(expected)
    known = [label != "unparsed" for label in said]
    assert value(rules, "spans", "coverage") == pytest.approx(sum(known) / len(known))
    right = sum(a == b for a, b in zip(truth, said, strict=True))
    assert value(rules, "spans", "accuracy_labelled") == pytest.approx(right / sum(known))
    # one that never abstains covers everything, and has not seen the tasks it labels
    assert value(crossed, "spans", "coverage") == 1
    assert value(crossed, "spans", "kappa") < 0.95
    for row in (crossed, rules):
        assert list(row["units"]) == ["spans", "sentences", "characters"]
        for unit in row["units"].values():
            assert unit["kappa"]["low"] <= unit["kappa"]["value"] <= unit["kappa"]["high"]


def test_the_page_has_every_measured_row(chains) -> None:
    found = {"value": 0.5, "low": 0.4, "high": 0.6}
    unit = dict.fromkeys(agreement.MEASURES, found) | {"count": 9, "unlabelled": 0}
    unit |= {"coverage": {"value": 1.0, "low": 1.0, "high": 1.0}, "f1": {"deduction": found}}
    rows = [
        {
            "of": of,
            "annotator": name,
            "name": name,
            "units": dict.fromkeys(("spans", "sentences", "tokens"), unit),
        }
        for of, name in (("own", "one"), ("reference", "two"))
    ]
    facts = {"chains": 7, "spans": 1234, "unplaced": 3}
    results = {"sets": {"own": facts, "reference": facts}, "rows": rows}
    page = markdown(results)
    row = "| two | reference chains | 0.50 (0.40 to 0.60) | 0.50 (0.40 to 0.60) | 1.00 | 0.50 (0"
    assert page.count(row) == 3 and "## Tokens, sentences found" in page
    assert "| one | these chains | 0.50 (0.40 to 0.60) |" in page  # F1 of the only label
    assert "7 that come with steerkit, 1,234 spans" in page
    assert "not at hand" in markdown({"sets": {"own": facts}, "rows": rows[:1]})


def test_without_a_tokenizer_characters_are_compared(tmp_path, capsys) -> None:
    assert tokens_of(tmp_path) is None
    assert "characters" in capsys.readouterr().err


def test_tokens_are_those_of_the_reference_tokenizer(reference) -> None:
    tokenize = tokens_of(reference)
    assert tokenize is not None
    text = "Wait, no. 17 - 9 = 8."
    pieces = [text[start:end] for start, end in tokenize(text)]
    assert "".join(pieces) == text and 5 < len(pieces) < len(text)


# -- what is kept


@pytest.fixture
def kept() -> dict:
    return json.loads((RESULTS / "agreement.json").read_text())


def test_the_kept_page_is_that_of_the_kept_results(kept, monkeypatch, tmp_path, capsys) -> None:
    assert (RESULTS / "agreement.md").read_text() == markdown(kept)
    (tmp_path / "agreement.json").write_text(json.dumps(kept))
    monkeypatch.setattr(sys, "argv", ["agreement.py", "--report", "--folder", str(tmp_path)])
    agreement.main()
    assert (tmp_path / "agreement.md").read_text() == markdown(kept)
    assert capsys.readouterr().out.strip() == markdown(kept).strip()


def test_the_page_on_annotation_names_what_was_reached(kept) -> None:
    (fitted,) = [row for row in kept["rows"] if "fitted on these" in row["annotator"]]
    kappa, macro = (value(fitted, "spans", name) for name in ("kappa", "macro_f1"))
    page = " ".join((ROOT / "docs" / "annotation.md").read_text().split())
    assert f"It is not reached: {kappa:.2f} and {macro:.2f}." in page
