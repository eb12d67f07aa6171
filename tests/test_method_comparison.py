"""One pass compares what extraction would give one by one."""

from __future__ import annotations

import pytest

import steerkit as sk
from steerkit.errors import ExtractionError
from steerkit.methods import METHODS
from tests.test_extraction import planted_model
from tests.tiny import tiny_traces


def test_rows_are_those_of_single_extractions() -> None:
    model, _ = planted_model(400.0)
    traces = tiny_traces(40)
    table = sk.compare_methods(model, traces, contrasts=("rest", "overall"))
    assert set(table.method) == set(METHODS)
    combined = set(zip(table.method, table.contrast, strict=True))
    assert ("mass-mean", "overall") in combined and ("probe", "overall") not in combined
    for method in ("mean-difference", "mass-mean", "lda"):
        vectors = sk.extract(model, traces, method=method, choose_by="auroc")
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


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ExtractionError, match="unknown method"):
        sk.compare_methods(planted_model(1.0)[0], tiny_traces(8), methods=("mean",))
