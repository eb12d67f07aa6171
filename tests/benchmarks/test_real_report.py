"""The page of `make real` holds the figures of its JSON file, and follows them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from real_comparison_report import BUNDLED, EARLIER
from real_report import markdown, write_results

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture
def results() -> dict:
    found = json.loads((RESULTS / "real.json").read_text())
    found.pop("texts")
    return found


def test_the_kept_page_is_that_of_the_kept_results(results) -> None:
    assert markdown(results) == (RESULTS / "real.md").read_text()


def with_new_parts(results: dict) -> dict:
    """The kept results with every part that a run can have, some of their figures planted."""
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
        "dtype": "float32",
        "reference": {**results["extraction"], "directions": between},
        "thinking": {"shares": shares},
        "adapter": {**adapter, "thinking": {"shares": shares}},
    }


def test_a_page_with_an_adapter_and_reference_chains_has_all_parts(results) -> None:
    page = markdown(with_new_parts(results))
    for part in (
        "## From which chains?",
        "## Does it think?",
        "With the adapter thinker (digest abc)",
    ):
        assert page.count(part) == 1, part
    assert "float32" in page
    assert (
        "| chains that close their thinking section | 75 % (50 to 90) | 75 % (50 to 90) |" in page
    )
    spans = results["extraction"]["spans"]["backtracking"]
    published = f"{results['extraction']['contrasts']['rest']['backtracking']['cosine']:.2f}"
    row = next(line for line in page.splitlines() if line.endswith(f"{published} | {published} |"))
    assert row == (
        f"| backtracking | {spans} | {spans} | 0.71 | 0.50 | 0.90 | 0.75 | -0.10 "
        f"| {published} | {published} |"
    )


def test_shares_by_annotator_stand_below_the_markers(results) -> None:
    whole = with_new_parts(results)
    assert "labelled sentence by sentence" not in markdown(whole)  # older results have none
    for part, value in ((whole, 0.04), (whole["adapter"], 0.5)):
        share = {"value": value, "low": value - 0.03, "high": value + 0.25}
        by = {
            "chains_with": {"uncertainty-estimation": share},
            "sentences": 1234,
            "unparsed": 56,
        }
        part["thinking"] = {**part["thinking"], "labelled": {"rules": by}}
    page = markdown(whole)
    assert "| `rules` | uncertainty-estimation | 4 % (1 to 29) | 50 % (47 to 75) |" in page
    assert "| `rules` | sentences in all (unparsed) | 1,234 (56) | 1,234 (56) |" in page


def test_the_page_says_how_the_bundled_adapters_recipe_was_chosen(results) -> None:
    whole = with_new_parts(results)
    said = "held out from the training, not from the choice of its recipe"
    assert said not in markdown(whole)  # of another adapter nothing is known
    whole["adapter"] |= {"name": BUNDLED}
    assert said in markdown(whole) and f"of which {EARLIER['closed']} closed" in markdown(whole)
    whole["adapter"] |= {"digest": EARLIER["digest"]}
    assert said not in markdown(whole)  # the earlier adapter itself


def test_steering_by_either_chains_is_set_side_by_side(results, tmp_path) -> None:
    whole = with_new_parts(results)
    for part in (whole, whole["adapter"]):
        part.pop("reference_steering", None)
    assert "directions from either chains" not in markdown(whole)
    texts = [
        {"prompt": "p", "direction": "backtracking", "coefficient": 0.5, "zlib": 0.4, "text": "Hm"}
    ]
    for part in (whole, whole["adapter"]):
        rows = [
            {**row, "backtracking": 7.25, "backtracking_low": 6.0, "backtracking_high": 8.0}
            for row in part["conditions"]
        ]
        part["texts"] = texts
        part["reference_steering"] = {"conditions": rows, "texts": texts}
    own = next(
        row
        for row in whole["conditions"]
        if (row["direction"], row["coefficient"]) == ("backtracking", 0.5)
    )
    page = markdown(whole)
    interval = f"({own['backtracking_low']:.2f} to {own['backtracking_high']:.2f})"
    row = f"| plain | backtracking | +0.5 | {own['backtracking']:.2f} {interval} | 7.25 (6.00 to 8"
    assert row in page
    assert page.count("| with adapter | none | +0 |") == 1
    columns = {
        line.count("|")
        for line in page.split("## Steering by directions from either chains")[1].splitlines()
        if line.startswith("|")
    }
    # a row has as many cells as the head, none of them lost
    assert columns == {10}
    write_results(whole, tmp_path)
    with (tmp_path / "real.csv").open(newline="") as file:
        rows = [(row["model"], row["directions_from"]) for row in csv.DictReader(file)]
    assert rows == [
        ("plain", "own"),
        ("plain", "reference"),
        ("adapter", "own"),
        ("adapter", "reference"),
    ]
