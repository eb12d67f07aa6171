"""The page of `make real` holds the figures of its JSON file, and follows them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from real_report import markdown, notes

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture
def results() -> dict:
    found = json.loads((RESULTS / "real.json").read_text())
    found.pop("texts")
    return found


def test_the_kept_page_is_that_of_the_kept_results(results) -> None:
    assert markdown(results) == (RESULTS / "real.md").read_text()


def test_notes_follow_the_figures(results) -> None:
    other = copy.deepcopy(results)
    other["extraction"]["contrasts"]["rest"]["deduction"]["cosine"] = 0.11
    other["extraction"]["seconds"]["all layers"] = 321.0
    text = "\n".join(notes(other))
    assert "0.60 at most (deduction, cosine" in text and "321 s" in text
    assert text != "\n".join(notes(results))
