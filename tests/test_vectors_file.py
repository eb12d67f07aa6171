"""A vectors file comes back bit by bit or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import steerkit as sk
from steerkit.behaviors import behaviors
from steerkit.cosine_matrix import PARTS
from steerkit.errors import ResourceError, VectorsError
from steerkit.vectors import SteeringVectors
from steerkit.vectors_file import read_vectors
from tests.test_vectors import CURVES, direction, measured, vectors


def assert_same(a: SteeringVectors, b: SteeringVectors) -> None:
    assert list(a) == list(b) and a.provenance == b.provenance
    for name, d in a.items():
        for field in ("layers", "layer", "spans", "tasks", "n_layers", "behavior", "chosen_by"):
            assert getattr(d, field) == getattr(b[name], field)
        for field in ("tensor", "mean_norm", "norm_of_mean", *CURVES):
            mine, theirs = getattr(d, field), getattr(b[name], field)
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.equal(mine, theirs)


def test_a_file_comes_back_and_is_written_the_same_again(tmp_path: Path) -> None:
    v = vectors()
    path = v.save(tmp_path / "deep" / "v.safetensors")
    back = read_vectors(path)
    assert_same(v, back)
    assert back.save(tmp_path / "again").read_bytes() == path.read_bytes()
    assert vectors().save(tmp_path / "twice").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "deep", "twice"]
    changed = SteeringVectors({**v, "deduction": direction("deduction", 9)}, v.provenance)
    with pytest.raises(AssertionError):
        assert_same(changed, back)


def test_cosines_come_back_with_the_file(tmp_path: Path) -> None:
    bare = vectors()
    known = measured(tuple(bare), (1, 2, 4))
    v = SteeringVectors(bare, bare.provenance, known)
    path = v.save(tmp_path / "v")
    back = read_vectors(path)
    assert_same(v, back)
    assert back.geometry is not None
    assert (back.geometry.behaviors, back.geometry.layers) == (known.behaviors, known.layers)
    for part in PARTS:
        found = getattr(back.geometry, part)
        torch.testing.assert_close(found, getattr(known, part).float(), equal_nan=True)
    assert back.save(tmp_path / "again").read_bytes() == path.read_bytes()
    other = SteeringVectors(bare, bare.provenance, measured(tuple(bare), (1, 2, 4), seed=1))
    assert other.save(tmp_path / "other").read_bytes() != path.read_bytes()
    for table in (v.cosines(4), back.cosines(4)):
        row = table.set_index(["behavior_a", "behavior_b"]).loc[("deduction", "backtracking")]
        a, b = (bare[name].tensor[2].double() for name in ("deduction", "backtracking"))
        np.testing.assert_allclose(row["cosine"], float(torch.cosine_similarity(a, b, dim=0)))
        for part in PARTS[1:]:
            np.testing.assert_allclose(row[part], float(getattr(known, part)[2, 1, 0]), atol=1e-7)
    # files made without them have cosines, but know no more of them
    table = read_vectors(bare.save(tmp_path / "old")).cosines()
    assert len(table) == 27 and table["cosine"].notna().all()
    assert table[["corrected", "low", "high"]].isna().all().all()


def test_the_file_holds_no_paths_and_no_times(tmp_path: Path) -> None:
    content = vectors().save(tmp_path / "v.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["steerkit"]
    metadata = header["__metadata__"]["steerkit"]
    assert str(tmp_path) not in metadata and "/" not in metadata
    assert json.dumps(json.loads(metadata), sort_keys=True, separators=(",", ":")) == metadata
    assert set(json.loads(metadata)) == {"format", "directions", "provenance"}
    assert set(json.loads(metadata)["provenance"]) == {"model", "seed", "traces"}
    assert load(content)["deduction.direction"].shape == (3, 8)


def test_a_file_says_that_a_direction_is_not_calibrated_only_where_it_is_not(
    tmp_path: Path,
) -> None:
    def header(v: SteeringVectors) -> dict:
        content = v.save(tmp_path / "v").read_bytes()
        outer = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return json.loads(outer["__metadata__"]["steerkit"])

    first = header(vectors())  # as files have always been
    assert first["format"] == 1
    assert not any("calibrated" in entry for entry in first["directions"])
    mixed = SteeringVectors({**vectors(), "deduction": direction("deduction", mean_norm=None)}, {})
    second = header(mixed)
    assert second["format"] == 2
    assert [entry.get("calibrated") for entry in second["directions"]] == [None, False, None]
    back = read_vectors(tmp_path / "v")
    assert [d.calibrated for d in back.values()] == [True, False, True]
    assert back.save(tmp_path / "w").read_bytes() == (tmp_path / "v").read_bytes()
    assert np.isnan(back.table().set_index("behavior").loc["deduction", "norm"])


def test_directions_that_share_tensors_are_saved(tmp_path: Path) -> None:
    d = direction()
    v = SteeringVectors({"backtracking": d, "deduction": replace(d, behavior="deduction")}, {})
    assert_same(v, read_vectors(v.save(tmp_path / "v")))
    slices = replace(d, tensor=torch.randn(8, 3).T)
    v = SteeringVectors({"backtracking": slices}, {})
    assert_same(v, read_vectors(v.save(tmp_path / "w")))


def test_a_behaviour_of_ones_own_comes_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import steerkit.behaviors

    monkeypatch.setattr(steerkit.behaviors, "_known", dict(steerkit.behaviors._known))
    own = sk.declare(sk.Behavior("summing-up", "says what was found", "#123456", "sum"))
    path = SteeringVectors({"summing-up": direction("summing-up")}, {}).save(tmp_path / "v")
    del steerkit.behaviors._known["summing-up"]
    assert own not in behaviors()
    assert list(read_vectors(path)) == ["summing-up"] and own in behaviors()
    assert read_vectors(path)["sum"] is not None
    # the cell that declares it, run after the file was read, says how it is called from now on
    anew = sk.declare(replace(own, definition="says it again", short="so"))
    assert anew in behaviors() and list(read_vectors(path)) == ["summing-up"]
    assert "so" in read_vectors(path) and "sum" not in read_vectors(path)
    # a short name that another behaviour has by now is left to it
    del steerkit.behaviors._known["summing-up"]
    sk.declare(sk.Behavior("addition", "adds", short="sum"))
    assert list(read_vectors(path)) == ["summing-up"]
    assert steerkit.behaviors.behavior("sum").name == "addition"


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"nowhere.*no such vectors file.*steerkit extract"):
        read_vectors(tmp_path / "nowhere")
    with pytest.raises(ResourceError, match="no such vectors file"):
        read_vectors(tmp_path)
    whole = vectors().save(tmp_path / "whole").read_bytes()
    path = tmp_path / "damaged"
    for content in (b"", b"nonsense", whole[:100], whole[:-1], whole[8:], b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(VectorsError, match=r"damaged.*not a readable safetensors file"):
            read_vectors(path)


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v"
    content = vectors().save(path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors, good = load(content), json.loads(header["__metadata__"]["steerkit"])

    def write(meta: object, parts: dict[str, torch.Tensor] = tensors) -> None:
        metadata = None if meta is None else {"steerkit": json.dumps(meta)}
        path.write_bytes(save(parts, metadata=metadata))

    write(good)
    assert_same(read_vectors(path), vectors())
    entry = good["directions"][0]
    few, normless = (
        {k: v for k, v in tensors.items() if k != f"backtracking.{part}"}
        for part in ("direction", "mean_norm")
    )
    cases = [
        (None, tensors),
        ([], tensors),
        ("text", tensors),
        ({}, tensors),
        ({**good, "format": "new"}, tensors),
        ({k: v for k, v in good.items() if k != "provenance"}, tensors),
        ({**good, "directions": [3]}, tensors),
        ({**good, "directions": [{k: v for k, v in entry.items() if k != "layers"}]}, tensors),
        (good, few),
        (good, normless),
    ]
    for meta, parts in cases:
        write(meta, parts)
        with pytest.raises(VectorsError, match="but not one of steering vectors"):
            read_vectors(path)
    path.write_bytes(save(tensors, metadata={"steerkit": "{"}))
    with pytest.raises(VectorsError, match="but not one of steering vectors"):
        read_vectors(path)
    write({**good, "format": 99})
    with pytest.raises(VectorsError, match=r"newer steerkit.*format 2.*found 99"):
        read_vectors(path)
    whole = SteeringVectors(vectors(), {}, measured(tuple(vectors()), (1, 2, 4))).save(path)
    content = whole.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    with_cosines, parts = json.loads(header["__metadata__"]["steerkit"]), load(content)
    write(with_cosines, {**parts, "cosines.low": torch.zeros(3, 2, 2)})
    with pytest.raises(VectorsError, match=r"low of the cosines has the wrong shape.*3 x 3 x 3"):
        read_vectors(path)
    for meta, some in (
        (with_cosines, tensors),
        ({**with_cosines, "cosines": {"behaviors": []}}, parts),
        ({**with_cosines, "cosines": 3}, parts),
    ):
        write(meta, some)
        with pytest.raises(VectorsError, match="but not one of steering vectors"):
            read_vectors(path)
    for part, wrong in (
        ("direction", torch.zeros(2, 8)),
        ("direction", torch.zeros(3)),
        ("mean_norm", torch.zeros(2)),
        ("auroc", torch.zeros(3, 1)),
    ):
        write(good, {**tensors, f"backtracking.{part}": wrong})
        with pytest.raises(VectorsError, match=f"{part} of 'backtracking' has the wrong shape"):
            read_vectors(path)


def test_nothing_is_half_written(tmp_path: Path) -> None:
    path = vectors().save(tmp_path / "v")
    before = path.read_bytes()
    bad = SteeringVectors(dict(vectors()), {"model": object()})
    with pytest.raises(TypeError):
        bad.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["v"]
