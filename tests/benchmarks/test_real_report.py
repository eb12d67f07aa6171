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


def with_new_parts(results: dict) -> dict:
    """The kept results as a newer run would have them: own chains, reference chains, adapter."""
    rest = results["extraction"]["contrasts"]["rest"]
    same = {"cosine": 0.71, "low": 0.5, "high": 0.9, "corrected": 0.75}
    between = {label: {**same, "cosine_with_other_labels": -0.1} for label in rest}
    share = {"value": 0.75, "low": 0.5, "high": 0.9}
    names = ("closed", "right", "truncated", "backtracking", "uncertainty-estimation")
    shares = {"tasks": 24, "tokens": 321.4, **dict.fromkeys(names, share)}
    written = {name: results[name] for name in ("conditions", "excerpts", "generation")}
    adapter = {**written, "name": "thinker", "digest": "abc", "base": "b", "thinking_tokens": 600}
    return {
        **results,
        "chains": "own",
        "dtype": "float32",
        "reference": {**results["extraction"], "directions": between},
        "thinking": {"shares": shares},
        "adapter": {**adapter, "thinking": {"shares": shares}},
    }


def test_a_page_of_own_chains_and_an_adapter_has_all_parts(results) -> None:
    page = markdown(with_new_parts(results))
    for part in (
        "## From which chains?",
        "## Does it think?",
        "With the adapter thinker (digest abc)",
    ):
        assert page.count(part) == 1, part
    assert "float32" in page and "earlier quick run" not in page
    assert (
        "| chains that close their thinking section | 75 % (50 to 90) | 75 % (50 to 90) |" in page
    )
    row = next(line for line in page.splitlines() if line.startswith("| backtracking | 79 | 79 "))
    assert row == "| backtracking | 79 | 79 | 0.71 | 0.50 | 0.90 | 0.75 | -0.10 | 0.59 | 0.59 |"


def test_notes_follow_the_figures(results) -> None:
    other = copy.deepcopy(results)
    other["extraction"]["contrasts"]["rest"]["deduction"]["cosine"] = 0.11
    other["extraction"]["seconds"]["all layers"] = 321.0
    text = "\n".join(notes(other))
    assert "0.60 at most (deduction, cosine" in text and "321 s" in text
    assert text != "\n".join(notes(results))
