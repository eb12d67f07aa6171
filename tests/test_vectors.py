"""Vectors: units, arithmetic, and a file that comes back bit by bit or not at all."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import steerkit as sk
from steerkit.behaviors import behaviors
from steerkit.cosine_matrix import PARTS, Cosines
from steerkit.errors import BehaviorError, ResourceError, SteeringError, VectorsError
from steerkit.vectors import UNITS, Direction, SteeringVectors, Term, Terms, as_terms
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
        spans=30,
        tasks=12,
        n_layers=6,
        **{curve: torch.rand(3, generator=generator) for curve in CURVES},
    )
    return replace(made, **changes)


def vectors() -> SteeringVectors:
    made = {name: direction(name, n) for n, name in enumerate(("backtracking", "deduction"))}
    made["uncertainty-estimation"] = direction(
        "uncertainty-estimation", 7, layer=None, **dict.fromkeys(CURVES)
    )
    return SteeringVectors(made, {"model": "m", "seed": 0, "traces": ["b", "a"]})


def test_units_are_those_of_their_formulas() -> None:
    d = direction()
    for i, layer in enumerate(d.layers):
        raw = d.tensor[i]
        u = raw / raw.norm()
        torch.testing.assert_close(d.vector(layer), d.mean_norm[i] * u)
        torch.testing.assert_close(d.vector(layer, "norm"), d.mean_norm[i] * u)
        torch.testing.assert_close(d.vector(layer, "paper"), d.norm_of_mean[i] * u)
        torch.testing.assert_close(d.vector(layer, "one"), u)
        assert torch.equal(d.vector(layer, "raw"), raw)
    lengths = {unit: float(d.vector(4, unit).norm()) for unit in UNITS}
    assert len({round(length, 3) for length in lengths.values()}) == 4


def test_the_length_of_the_raw_difference_matters_in_raw_alone() -> None:
    d = direction()
    longer = replace(d, tensor=3 * d.tensor)
    for unit in ("norm", "paper", "one"):
        torch.testing.assert_close(longer.vector(2, unit), d.vector(2, unit))
    torch.testing.assert_close(longer.vector(2, "raw"), 3 * d.vector(2, "raw"))


@pytest.mark.usefixtures("unchecked")
def test_vectors_that_do_not_exist_are_named() -> None:
    d = direction()
    with pytest.raises(SteeringError, match=r"'backtracking' at layer 3.*layers 1, 2, 4"):
        d.vector(3)
    with pytest.raises(SteeringError, match=r"unknown unit 'meters'.*norm, paper, raw, one"):
        d.vector(2, "meters")  # type: ignore[arg-type]
    with pytest.raises(SteeringError, match=r"unknown unit 'meters'.*norm, paper, raw, one"):
        d.at(unit="meters")  # type: ignore[arg-type]
    zero = replace(d, tensor=torch.zeros(3, 8))
    for unit in ("norm", "paper", "one"):
        with pytest.raises(SteeringError, match="'backtracking' is zero at layer 2"):
            zero.vector(2, unit)
    for broken in (float("nan"), float("inf")):
        with pytest.raises(SteeringError, match="'backtracking' is not finite at layer 2"):
            replace(d, tensor=torch.full((3, 8), broken)).vector(2)


def test_a_random_control_has_the_same_norms_and_another_direction() -> None:
    d = direction(tensor=torch.randn(3, 512, generator=torch.Generator().manual_seed(1)))
    control = d.random(0)
    torch.testing.assert_close(control.tensor.norm(dim=1), d.tensor.norm(dim=1))
    for layer in d.layers:
        for unit in UNITS:
            torch.testing.assert_close(
                control.vector(layer, unit).norm(), d.vector(layer, unit).norm()
            )
    assert float(torch.cosine_similarity(control.tensor, d.tensor, dim=1).abs().max()) < 0.2
    between = torch.cosine_similarity(control.tensor[0], control.tensor[1], dim=0)
    assert float(between.abs()) < 0.2  # layers are independent
    assert torch.equal(d.random(0).tensor, control.tensor)
    assert not torch.equal(d.random(1).tensor, control.tensor)
    assert control.layer == d.layer and control.behavior == "random-0"
    assert control.spans == 0 and all(getattr(control, curve) is None for curve in CURVES)


def test_a_random_control_depends_on_seed_and_layer_alone() -> None:
    d = direction()
    whole = d.random(3)
    part = replace(
        d,
        tensor=d.tensor[1:],
        layers=d.layers[1:],
        mean_norm=d.mean_norm[1:],
        norm_of_mean=d.norm_of_mean[1:],
        **dict.fromkeys(CURVES),
    ).random(3)
    for layer in (2, 4):
        torch.testing.assert_close(part.vector(layer, "one"), whole.vector(layer, "one"))
    assert not torch.allclose(part.vector(2, "one"), whole.vector(4, "one"))
    moved = replace(d, layers=(4, 1, 2)).random(3)
    torch.testing.assert_close(moved.vector(1, "one"), whole.vector(1, "one"))


def test_random_controls_are_uniform_on_the_sphere() -> None:
    d = direction()
    drawn = torch.stack([d.random(seed).vector(1, "one") for seed in range(2000)])
    assert float(drawn.mean(dim=0).norm()) < 4 * (1 / 2000) ** 0.5
    covariance = drawn.T @ drawn / 2000
    torch.testing.assert_close(covariance, torch.eye(8) / 8, rtol=0, atol=0.02)


def described(terms: object) -> list[tuple[float, str]]:
    return [(t.coefficient, t.direction.behavior) for t in as_terms(terms)]


def test_arithmetic_makes_lists_of_terms() -> None:
    a, b = direction("backtracking"), direction("deduction")
    assert described(0.3 * a - 0.2 * b) == [(0.3, "backtracking"), (-0.2, "deduction")]
    assert described(a) == [(1.0, "backtracking")] and described(-a) == [(-1.0, "backtracking")]
    assert described(a * 2 / 4) == [(0.5, "backtracking")] and described(a / 4) == [
        (0.25, "backtracking")
    ]
    assert described(2 * (a + b) / 4) == [(0.5, "backtracking"), (0.5, "deduction")]
    assert described(-(a - 2 * b)) == [(-1.0, "backtracking"), (2.0, "deduction")]
    assert described((a + b) - (a + b)) == [
        (1.0, "backtracking"),
        (1.0, "deduction"),
        (-1.0, "backtracking"),
        (-1.0, "deduction"),
    ]  # never merged, never renormalised
    assert described(sum([0.1 * a, 0.2 * b, a])) == [
        (0.1, "backtracking"),
        (0.2, "deduction"),
        (1.0, "backtracking"),
    ]
    assert described(a + 0) == described(a) and described(a + None) == described(a)
    for nothing in (None, 0, 0.0, Terms()):
        assert as_terms(nothing) == Terms() and repr(as_terms(nothing)) == "no terms"
    assert repr(0.3 * a - 0.2 * b.at(layer=4)) == "0.3 * backtracking + -0.2 * deduction@4"


def test_numpy_numbers_multiply_like_pythons() -> None:
    a, b = direction("backtracking"), direction("deduction")
    for c in np.linspace(-1, 1, 3):
        for scaled in (c * (a + b), (a + b) * c):
            assert isinstance(scaled, Terms)
            assert described(scaled) == [(c, "backtracking"), (c, "deduction")]
        assert isinstance(c * a, Term) and isinstance(c * (2.0 * a), Term)
        assert (c * (2.0 * a)).coefficient == 2 * c


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=50, deadline=None)
def test_factors_distribute_over_terms(x: float, y: float) -> None:
    a, b = direction("backtracking"), direction("deduction")
    left, right = described(x * (y * a + b)), described(x * y * a + x * b)
    assert [name for _, name in left] == [name for _, name in right]
    np.testing.assert_allclose([c for c, _ in left], [c for c, _ in right])


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_number_or_no_term_is_refused() -> None:
    a = direction()
    for value in ("0.3", True, None, {}):
        with pytest.raises(SteeringError, match="a coefficient is a number"):
            value * a
    for value in (float("nan"), float("inf")):
        with pytest.raises(SteeringError, match="'backtracking' is not finite"):
            value * a
    for nonsense in ("backtracking", 3, [a]):
        with pytest.raises(SteeringError, match="cannot steer"):
            as_terms(nonsense)
    with pytest.raises(SteeringError, match=r"unknown place 'everywhere'.*think"):
        Term(1.0, a, where="everywhere")  # type: ignore[arg-type]
    with pytest.raises(SteeringError, match="unknown operator 'set'"):
        Term(1.0, a, operator="set")  # type: ignore[arg-type]


def test_a_term_has_its_own_layers_place_and_unit() -> None:
    a = direction()
    assert (0.3 * a).resolved_layers() == (2,)
    term = (0.3 * a).at(layer=[1, 4], where="think", unit="paper")
    assert term.resolved_layers() == (1, 4)
    assert (-2 * term).to_json() == {
        "behavior": "backtracking",
        "direction": a.digest,
        "coefficient": -0.6,
        "layers": [1, 4],
        "operator": "add",
        "where": "think",
        "unit": "paper",
    }
    assert term.at(layer=2).where == "think" and a.at(unit="raw").coefficient == 1.0
    assert a.at(layer=1).resolved_layers() == (1,)
    with pytest.raises(SteeringError, match="at layer 3"):
        a.at(layer=3)
    homeless = replace(a, layer=None)
    with pytest.raises(SteeringError, match=r"no layer was chosen.*1, 2, 4.*@layer"):
        (0.3 * homeless).resolved_layers()
    assert (0.3 * homeless).at(layer=1).resolved_layers() == (1,)


def test_a_layer_named_twice_is_steered_once_and_none_is_refused() -> None:
    a = direction()
    assert a.at(layer=[4, 1, 4, 1]).resolved_layers() == (4, 1)
    assert Term(0.3, a, layers=(2, 2)).resolved_layers() == (2,)
    for make in (lambda: a.at(layer=[]), lambda: Term(0.3, a, layers=())):
        with pytest.raises(SteeringError, match="no layer was named"):
            make()


@pytest.mark.usefixtures("unchecked")
def test_layers_may_be_numbers_of_numpy_and_of_tables() -> None:
    v = vectors()
    a = v["backtracking"]
    table = v.table().set_index("behavior")
    numbers = (np.int64(2), np.array(2), np.array([2]), torch.tensor(2), [np.int32(2)])
    for layer in (*numbers, table.loc["backtracking"]["layer"]):
        (found,) = a.at(layer=layer).resolved_layers()
        assert found == 2 and type(found) is int
        assert json.dumps(a.at(layer=layer).to_json())
    assert torch.equal(a.vector(np.int64(2)), a.vector(2))
    missing = table.loc["uncertainty-estimation"]["layer"]
    for nonsense in (missing, pd.NA, 2.5, "2", [1, "2"], True, float("nan"), [None]):
        with pytest.raises(SteeringError, match="a layer is a whole number"):
            a.at(layer=nonsense)
    with pytest.raises(SteeringError, match="a layer is a whole number"):
        a.vector(missing)


def test_the_digest_tells_directions_apart() -> None:
    a = direction()
    assert a.digest == direction().digest == replace(a, spans=1).digest
    others = (direction(seed=1), replace(a, layers=(0, 1, 2)), a.random(0))
    assert len({d.digest for d in (a, *others)}) == 4


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
    layers = v.layers_table()
    assert len(layers) == 9 and set(layers["layer"]) == {1, 2, 4}
    row = layers[(layers["behavior"] == "backtracking") & (layers["layer"] == 4)].iloc[0]
    np.testing.assert_allclose(row["auroc"], float(d.auroc[2]))
    assert row["mean_norm"] == 40 and row["norm_of_mean"] == 5
    assert "<table" in v._repr_html_() and "backtracking" in v._repr_html_()


def assert_same(a: SteeringVectors, b: SteeringVectors) -> None:
    assert list(a) == list(b) and a.provenance == b.provenance
    for name, d in a.items():
        for field in ("layers", "layer", "spans", "tasks", "n_layers", "behavior"):
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


def measured(names: tuple[str, ...], layers: tuple[int, ...], seed: int = 0) -> Cosines:
    """Made-up cosines with intervals, some of them unknown."""
    generator = torch.Generator().manual_seed(seed)
    n = len(names)
    parts = {p: torch.rand(len(layers), n, n, generator=generator).double() for p in PARTS}
    parts["low"][0, 0, 1] = parts["high"][0, 0, 1] = parts["corrected"][0, 1, 0] = torch.nan
    return Cosines(names, layers, **parts)


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


@pytest.mark.usefixtures("unchecked")
def test_a_unit_that_is_not_known_is_not_used() -> None:
    d = direction(mean_norm=None)
    assert (0.3 * d).unit == d.default_unit == "paper" and (0.3 * direction()).unit == "norm"
    assert torch.equal(d.vector(2), direction().vector(2, "paper"))
    assert "not calibrated" in repr(d) and "not calibrated" not in repr(direction())
    assert (0.3 * d).at(layer=1).unit == "paper" and d.at(unit="one").unit == "one"
    assert not d.random(0).calibrated and d.random(0).default_unit == "paper"
    for make in (
        lambda: d.vector(2, "norm"),
        lambda: d.at(unit="norm"),
        lambda: Term(1.0, d, unit="norm"),
    ):
        with pytest.raises(
            SteeringError, match=r"mean norm.*not known.*calibrate\(.*unit=\"paper\""
        ):
            make()
    broken = direction(norm_of_mean=torch.full((3,), float("nan")))
    assert broken.vector(2).isfinite().all()
    with pytest.raises(SteeringError, match="unit 'paper' of 'backtracking' is not finite"):
        broken.vector(2, "paper")


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


def test_nothing_is_half_written(tmp_path: Path) -> None:
    path = vectors().save(tmp_path / "v")
    before = path.read_bytes()
    bad = SteeringVectors(dict(vectors()), {"model": object()})
    with pytest.raises(TypeError):
        bad.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["v"]
