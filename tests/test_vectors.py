"""SteeringVectors: a mapping with tables, cosines and subsets, that refuses other models."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from steerkit.cosine_matrix import PARTS, Cosines
from steerkit.direction import Direction
from steerkit.errors import BehaviorError, VectorsError
from steerkit.vectors import SteeringVectors
from steerkit.vectors_file import read_vectors
from tests.tiny import tiny_model

CURVES = ("split_half", "split_half_shuffled", "auroc", "cone")


def direction(name: str = "backtracking", seed: int = 0, **changes) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    made = Direction(
        behavior=name,
        tensor=torch.randn(3, 8, generator=generator),
        layers=(1, 2, 4),
        mean_norm=torch.tensor([10.0, 20.0, 40.0]),
        norm_of_mean=torch.tensor([2.0, 3.0, 5.0]),
        layer=2,
        chosen_by="gradient",
        spans=30,
        tasks=12,
        n_layers=6,
        **{curve: torch.rand(3, generator=generator) for curve in CURVES},
    )
    return replace(made, **changes)


def vectors() -> SteeringVectors:
    made = {name: direction(name, n) for n, name in enumerate(("backtracking", "deduction"))}
    made["uncertainty-estimation"] = direction(
        "uncertainty-estimation", 7, layer=None, chosen_by="", **dict.fromkeys(CURVES)
    )
    return SteeringVectors(made, {"model": "m", "seed": 0, "traces": ["b", "a"]})


def test_vectors_are_a_mapping_that_knows_short_names() -> None:
    v = vectors()
    assert list(v) == ["backtracking", "deduction", "uncertainty-estimation"] and len(v) == 3
    assert v["uncertainty"] is v["uncertainty-estimation"]
    assert "uncertainty" in v and "initializing" not in v and 3 not in v
    with pytest.raises(BehaviorError, match=r"no direction of 'initializing'.*backtracking, ded"):
        v["initializing"]
    assert v.get("deduction") is v["deduction"] is v.get("deduction", 3)
    assert v.get("uncertainty") is v["uncertainty-estimation"]
    for absent in ("initializing", "nope"):
        assert v.get(absent) is None and v.get(absent, 3) == v.get(absent, default=3) == 3
        with pytest.raises(BehaviorError, match=f"no direction of '{absent}'"):
            v[absent]
    assert "backtracking, deduction" in repr(v) and "model m" in repr(v)


def test_tables_show_what_was_measured() -> None:
    v = vectors()
    table = v.table().set_index("behavior")
    d = v["backtracking"]
    assert d.split_half is not None and d.auroc is not None
    assert table.loc["backtracking", "layer"] == 2 and table.loc["backtracking", "spans"] == 30
    np.testing.assert_allclose(table.loc["backtracking", "norm"], float(d.tensor[1].norm()) / 20)
    np.testing.assert_allclose(table.loc["backtracking", "split_half"], float(d.split_half[1]))
    assert table.loc["uncertainty-estimation"].isna()[["norm", "auroc", "layer"]].all()
    assert table["chosen_by"].tolist() == ["gradient", "gradient", ""]
    layers = v.layers_table()
    assert len(layers) == 9 and set(layers["layer"]) == {1, 2, 4}
    row = layers[(layers["behavior"] == "backtracking") & (layers["layer"] == 4)].iloc[0]
    np.testing.assert_allclose(row["auroc"], float(d.auroc[2]))
    assert row["mean_norm"] == 40 and row["norm_of_mean"] == 5
    assert "<table" in v._repr_html_() and "backtracking" in v._repr_html_()


def measured(names: tuple[str, ...], layers: tuple[int, ...], seed: int = 0) -> Cosines:
    """Made-up cosines with intervals, some of them unknown."""
    generator = torch.Generator().manual_seed(seed)
    n = len(names)
    parts = {p: torch.rand(len(layers), n, n, generator=generator).double() for p in PARTS}
    parts["low"][0, 0, 1] = parts["high"][0, 0, 1] = parts["corrected"][0, 1, 0] = torch.nan
    return Cosines(names, layers, **parts)


def test_a_subset_keeps_its_cosines(tmp_path: Path) -> None:
    bare = vectors()
    v = SteeringVectors(bare, bare.provenance, measured(tuple(bare), (1, 2, 4)))
    part = v.subset(["uncertainty", "backtracking"])
    assert tuple(part) == ("uncertainty-estimation", "backtracking")
    assert part["backtracking"] is v["backtracking"] and part.provenance == v.provenance
    names = ["behavior_a", "behavior_b", "layer"]
    expected = v.cosines().set_index(names).loc[part.cosines().set_index(names).index]
    pd.testing.assert_frame_equal(part.cosines().set_index(names), expected)
    back = read_vectors(part.save(tmp_path / "part"))
    assert back.geometry is not None and back.geometry.behaviors == tuple(part)
    assert v.subset(v).save(tmp_path / "all").read_bytes() == v.save(tmp_path / "v").read_bytes()
    assert vectors().subset(["deduction"]).geometry is None
    with pytest.raises(BehaviorError, match="no direction of 'initializing'"):
        v.subset(["initializing"])
    with pytest.raises(VectorsError, match="no cosines at layer 3"):
        v.cosines(3)


def test_vectors_refuse_a_model_of_another_shape(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(num_hidden_layers=6, hidden_size=8, head_dim=4)
    fitting = SteeringVectors(dict(vectors()), {"model": model.name})
    with caplog.at_level(logging.WARNING):
        fitting.check(model)
        assert not caplog.records
        vectors().check(model)
    assert "vectors of m are used on tiny-qwen2" in caplog.text
    for other, found in (
        (tiny_model(num_hidden_layers=6), "width 32 and 6 layers"),
        (tiny_model(num_hidden_layers=5, hidden_size=8, head_dim=4), "width 8 and 5 layers"),
    ):
        with pytest.raises(VectorsError, match=rf"do not fit.*{found}; found width 8 and 6 layers"):
            vectors().check(other)


def test_weak_directions_are_marked_in_every_table(tmp_path: Path) -> None:
    from safetensors import safe_open

    from steerkit.comparison import compare_directions
    from steerkit.vectors import weaknesses

    whole = {"split_half": torch.full((3,), 0.9), "split_half_shuffled": torch.zeros(3)}
    good = replace(direction("deduction"), spans=200, tasks=50, **whole)
    weak = replace(direction("backtracking", 1), spans=7, tasks=50, **whole)
    v = SteeringVectors({"deduction": good, "backtracking": weak}, {})
    assert weaknesses(v) == {"backtracking": "7 spans"}
    assert v.layers_table().groupby("behavior")["note"].unique().to_dict() == {
        "deduction": [""],
        "backtracking": ["7 spans"],
    }
    notes = v.cosines().set_index(["behavior_a", "behavior_b"])["note"]
    assert set(notes[("deduction", "deduction")]) == {""}
    assert set(notes[("deduction", "backtracking")]) == {"backtracking: 7 spans"}
    assert set(notes[("backtracking", "backtracking")]) == {"backtracking: 7 spans"}
    few = replace(good, behavior="backtracking", spans=3)
    other = SteeringVectors({"deduction": replace(good, spans=200), "backtracking": few}, {})
    found = compare_directions(v, other).groupby(["behavior_a", "behavior_b"])["note"].first()
    assert found[("deduction", "deduction")] == ""
    assert found[("deduction", "backtracking")] == "B: 3 spans"
    assert found[("backtracking", "deduction")] == "A: 7 spans"
    assert found[("backtracking", "backtracking")] == "A: 7 spans; B: 3 spans"
    with safe_open(v.save(tmp_path / "v"), "pt") as file:
        header = json.loads(file.metadata()["steerkit"])
    assert [entry.get("weakness") for entry in header["directions"]] == [None, "7 spans"]
    assert read_vectors(tmp_path / "v").save(tmp_path / "w").read_bytes() == (
        (tmp_path / "v").read_bytes()
    )


def test_a_direction_without_a_layer_says_so() -> None:
    table = SteeringVectors(
        {
            n: replace(direction(n), layer=at)
            for n, at in (("deduction", None), ("backtracking", 2))
        },
        {},
    ).table()
    assert ["no layer chosen" in note for note in table["note"]] == [True, False]
