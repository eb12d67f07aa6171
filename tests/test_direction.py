"""A direction: its units, its arithmetic, and controls of the same length."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.direction import UNITS
from steerkit.errors import SteeringError
from steerkit.terms import Term, Terms, as_terms
from tests.test_vectors import CURVES, direction, vectors


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
