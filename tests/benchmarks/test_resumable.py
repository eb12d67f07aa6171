"""What long benchmarks go on from."""

from __future__ import annotations

import pandas as pd
import pytest
from resumable import budget, kept_table, open_state


def test_a_state_is_emptied_when_it_belongs_to_other_settings(tmp_path):
    state = open_state(tmp_path / "state", {"a": 1}, fresh=False)
    (state / "done.csv").write_text("x")
    assert (open_state(state, {"a": 1}, fresh=False) / "done.csv").is_file()
    assert not (open_state(state, {"a": 2}, fresh=False) / "done.csv").exists()
    (state / "done.csv").write_text("x")
    assert not (open_state(state, {"a": 2}, fresh=True) / "done.csv").exists()


def test_a_table_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return pd.DataFrame({"layer": [0, 1], "value": [0.5, float("nan")]})

    first = kept_table(tmp_path / "t.csv", make)
    pd.testing.assert_frame_equal(first, kept_table(tmp_path / "t.csv", make))
    assert made == [1] and first.value.isna().tolist() == [False, True]


def test_a_budget_is_tokens_over_speed():
    lines, minutes = budget([("reading", 6_000, 100.0), ("writing", 1_200, 10.0)])
    assert minutes == pytest.approx(1 + 2)
    assert "6,000 tokens" in lines and lines.splitlines()[-1].endswith("3.0 min")
