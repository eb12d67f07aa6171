"""The page of `make report` says what the tables say, and keeps no text of chains."""

from __future__ import annotations

import report

from tests.evaluations import planted_evaluation, stored


def test_the_page_has_every_claim_and_its_reason(tmp_path) -> None:
    made = planted_evaluation(tmp_path / "made", tasks=24, samples=1)
    page = report.page(made)
    own = made.verdicts[made.verdicts["annotator"] == made.annotators[0]]
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(own) == 4
    for line, row in zip(rows, own.to_dict("records"), strict=True):
        assert row["behavior"] in line and f"{row['coefficient']:+g} at layer" in line
        assert f"{100 * row['rate']:.1f} %" in line
        assert line.endswith("| holds |") == bool(row["holds"])
        assert row["reason"] in line
    assert "24 held-out tasks, 1 chain each" in page
    # the check can fail: where nothing was planted, claims do not hold
    nothing = report.page(planted_evaluation(tmp_path / "no", tasks=24, samples=1, effect=0.0))
    assert nothing.count("does not hold") == 4


def test_what_is_kept_holds_no_chains(tmp_path) -> None:
    made = planted_evaluation(tmp_path / "made", tasks=8, samples=1, controls=2)
    stored(made)
    report.keep(made, tmp_path / "results")
    kept = {path.name for path in (tmp_path / "results" / "report").iterdir()}
    assert {"settings.json", "verdicts.csv", "rates.csv"} <= kept
    assert "generations.csv" not in kept and "traces" not in kept
    assert (tmp_path / "results" / "report.md").read_text() == report.page(made)
