"""``steerkit methods`` shows what ``sk.compare_methods`` returns."""

from __future__ import annotations

import pytest

import steerkit as sk


def test_prints_a_row_a_method_and_behaviour(run, model_folder, chains) -> None:
    words = ["methods", "--model", model_folder, "--traces", chains, "--behavior", "backtracking"]
    words += ["--methods", "mean-difference,mass-mean,pca", "--contrasts", "rest,overall"]
    words += ["--windows", "1,0", "--seed", 3]
    result = run(*words, "--json")
    assert result.code == 0, result.err
    table = sk.compare_methods(
        sk.load(model_folder),
        sk.read_traces(chains),
        methods=["mean-difference", "mass-mean", "pca"],
        contrasts=["rest", "overall"],
        behaviors="backtracking",
        windows=[sk.Window(1, 0)],
        seed=3,
    )
    rows = {(row["method"], row["contrast"]): row for row in result.json}
    assert len(rows) == len(table) == 5  # pca knows no overall
    for row in table.itertuples():
        assert rows[row.method, row.contrast]["layer"] == row.layer
        assert rows[row.method, row.contrast]["split_half"] == pytest.approx(row.split_half)
        assert rows[row.method, row.contrast]["auroc"] == pytest.approx(row.auroc)
    shown = run(*words)
    assert shown.out.count("backtracking") == 5 and "AUROC" in shown.out
    assert f"Chains:  {chains}" in shown.out
    both = run(*words[:-3], "1,0", "1,10", "--methods", "mean-difference")
    assert both.code == 0 and "1,10" in both.out and "1,10" not in shown.out


def test_any_model_is_compared_on_the_chains_in_plain_english(run, long_folder) -> None:
    words = ["methods", "--model", long_folder, "--methods", "mean-difference", "--layers", 0]
    result = run(*words, "--behavior", "backtracking")
    assert result.code == 0, result.err
    assert "Chains:  reasoning (bundled)" in result.out


def test_unknown_methods_are_one_clear_line(run, model_folder, chains) -> None:
    words = ["methods", "--model", model_folder, "--traces", chains]
    result = run(*words, "--methods", "mean")
    assert result.code == 2 and "unknown method 'mean'" in result.err
