"""One pass compares what extraction would give one by one."""

from __future__ import annotations

import pytest
import torch

import steerkit as sk
from steerkit.errors import ExtractionError
from steerkit.methods import METHODS
from tests.test_extraction import planted_model, with_one_alone
from tests.tiny import tiny_traces


def test_rows_are_those_of_single_extractions() -> None:
    model, _ = planted_model(400.0)
    traces = tiny_traces(40)
    table = sk.compare_methods(model, traces, contrasts=("rest", "overall"))
    assert set(table.method) == set(METHODS)
    combined = set(zip(table.method, table.contrast, strict=True))
    assert ("mass-mean", "overall") in combined and ("probe", "overall") not in combined
    for method in ("mean-difference", "mass-mean", "lda"):
        vectors = sk.extract(model, traces, method=method, contrast="rest", choose_by="auroc")
        for name, direction in vectors.items():
            row = table[
                (table.method == method) & (table.contrast == "rest") & (table.behavior == name)
            ].iloc[0]
            assert row.layer == direction.layer
            i = direction.row(direction.layer)
            assert row.auroc == pytest.approx(float(direction.auroc[i]), abs=1e-6)
            assert row.split_half == pytest.approx(float(direction.split_half[i]), abs=1e-5)
    own = table[(table.method == "mean-difference") & (table.contrast == "rest")]
    assert own.cosine.to_numpy() == pytest.approx(1.0, abs=1e-6)
    assert (table.seconds >= 0).all()


def test_windows_are_compared_with_the_first() -> None:
    model, _ = planted_model(400.0)
    traces = tiny_traces(40)
    windows = [sk.Window(1, 10), sk.Window(1, 0)]
    only = {"methods": ("mean-difference",), "contrasts": ("balanced",)}
    table = sk.compare_methods(model, traces, **only, windows=windows)
    assert set(table.window) == {"1,10", "1,0"}
    onset = sk.extract(model, traces, window=windows[1], choose_by="auroc")
    usual = sk.extract(model, traces, window=windows[0], choose_by="auroc")
    rows = table[table.window == "1,0"].set_index("behavior")
    assert len(rows) == len(onset) >= 2
    for name, direction in onset.items():
        i = direction.row(direction.layer)
        assert rows.loc[name, "layer"] == direction.layer
        assert rows.loc[name, "auroc"] == pytest.approx(float(direction.auroc[i]), abs=1e-6)
        cosine = torch.cosine_similarity(direction.tensor[i], usual[name].tensor[i], dim=0)
        assert rows.loc[name, "cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert table[table.window == "1,10"].cosine.to_numpy() == pytest.approx(1.0, abs=1e-6)
    assert (rows.cosine < 1 - 1e-6).any()
    with pytest.raises(ExtractionError, match="no window"):
        sk.compare_methods(model, traces, windows=[])


def test_a_method_that_fails_for_a_behaviour_says_so_in_its_row() -> None:
    traces = with_one_alone(tiny_traces(40))
    table = sk.compare_methods(
        planted_model(400.0)[0], traces, methods=("mean-difference", "pca"), contrasts=("rest",)
    )
    rows = table.set_index(["method", "behavior"])
    failed = rows.loc["pca", "backtracking"]
    assert "left out: no span has another behaviour's span" in failed.note
    assert "at layer 0" in failed.note
    assert failed[["layer", "auroc", "split_half", "cosine"]].isna().all()
    assert "left out" not in rows.loc["mean-difference", "backtracking"].note
    assert "left out" not in rows.loc["pca", "deduction"].note
    assert rows.loc["pca", "deduction"].auroc == rows.loc["pca", "deduction"].auroc
    # asked for by name it is a row as well
    asked = sk.compare_methods(
        planted_model(400.0)[0], traces, methods=("pca",), behaviors="backtracking"
    )
    assert asked.note.str.startswith("left out").tolist() == [True]


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ExtractionError, match="unknown method"):
        sk.compare_methods(planted_model(1.0)[0], tiny_traces(8), methods=("mean",))
