"""Every operator is its formula at the hooked layer, where and when it should, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.errors import SteeringError
from steerkit.operators import rotate, set_projection
from steerkit.places import PLACES, Mask, Steps, where_mask
from steerkit.schedules import Decay, Gate, Ramp
from steerkit.terms import Term, Terms
from tests.test_steering import AT, INDEX, PHASE, STEP, direction, streams
from tests.tiny import tiny_model

D = replace(direction(), mean_projection=torch.tensor([0.5, -2.0, 1.0]))
"""Layer 1 is the suggested one; its mean norm is 5 and its mean projection -2."""
U = D.tensor[1].double() / D.tensor[1].double().norm()


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2")


@pytest.fixture(scope="module")
def plain(model):
    return streams(model, None)


def expected(term: Term, hidden: torch.Tensor) -> torch.Tensor:
    """The formula of the docstring in float64 numbers, one position at a time."""
    h, c, out = hidden.double(), term.coefficient, []
    n = {"norm": 5.0, "one": 1.0}[term.unit]
    for x in h:
        along = x @ U
        if term.operator == "add":
            out.append(x + c * n * U)
        elif term.operator == "rotate":
            # turn in the plane of an orthonormal basis by a rotation matrix, never past +-u
            w = x - along * U
            w = w / w.norm()
            angle = math.degrees(math.atan2(float(x @ w), float(along)))
            by = math.radians(min(c, angle) if c > 0 else max(c, angle - 180))
            a, b = float(along), float(x @ w)
            out.append((a * math.cos(by) + b * math.sin(by)) * U)
            out[-1] = out[-1] + (b * math.cos(by) - a * math.sin(by)) * w
        else:
            target = {"ablate": 0.0, "center": -2.0, "clamp": (term.target or 0) * n}
            out.append(x + c * (target[term.operator] - along) * U)
    return torch.stack(out)


OPERATORS = [
    0.4 * D,
    -0.7 * D.at(unit="one"),
    D.ablate(),
    D.ablate(0.3),
    D.center(),
    D.clamp(0.8),
    D.clamp(-0.5, 0.6).at(unit="one"),
    D.rotate(25),
    D.rotate(-25),
    D.rotate(400),
]


@pytest.mark.parametrize("term", OPERATORS, ids=repr)
@pytest.mark.parametrize("where", ["think", Steps(1, 3)])
def test_the_edit_is_the_formula_and_nothing_else(model, plain, term, where) -> None:
    term = term.at(where=where)
    steered = streams(model, [Terms((term,)), Terms(), Terms((term,))])
    assert torch.equal(plain[0], steered[0])  # the layer before
    assert torch.equal(plain[1][1], steered[1][1])  # the row without terms
    chosen = where_mask(where, AT)
    for row in (0, 2):
        here = chosen[row]
        assert here.any()
        torch.testing.assert_close(
            steered[1][row][here].double(),
            expected(term, plain[1][row][here]),
            rtol=1e-5,
            atol=2e-5,
        )
        assert torch.equal(steered[1][row][~here], plain[1][row][~here])
        assert not torch.equal(steered[1][row][here], plain[1][row][here])
        assert not torch.equal(steered[2][row], plain[2][row])


@pytest.mark.parametrize("term", OPERATORS, ids=repr)
def test_strength_zero_is_no_hook(model, term) -> None:
    from steerkit.steering import RowSteering

    assert RowSteering(model, [Terms((0.0 * term,))]).layers == ()


def test_after_a_set_the_projection_is_the_target(model) -> None:
    for term, target in ((D.ablate(), 0.0), (D.center(), -2.0), (D.clamp(0.8), 4.0)):
        found = streams(model, [Terms((term,))] * 3)[1][PHASE != 3].double() @ U
        torch.testing.assert_close(found, torch.full_like(found, target), atol=1e-5, rtol=0)


@given(
    st.lists(st.floats(-5, 5), min_size=4, max_size=4).filter(lambda x: sum(map(abs, x)) > 0.1),
    st.floats(-400, 400),
)
@settings(max_examples=200, deadline=None)
def test_a_rotation_keeps_the_length_and_turns_by_its_angle(values, degrees) -> None:
    u = torch.tensor([0.6, 0.8, 0.0, 0.0], dtype=torch.float64)
    h = torch.tensor([values], dtype=torch.float64)
    turned = rotate(h, u, torch.tensor([degrees], dtype=torch.float64))
    torch.testing.assert_close(turned.norm(), h.norm())

    def angle(x):
        across = (x - (x @ u)[..., None] * u).norm()
        return math.degrees(math.atan2(float(across), float(x @ u)))

    before, after = angle(h), angle(turned)
    if 1e-3 < before < 180 - 1e-3:
        assert after == pytest.approx(min(max(before - degrees, 0), 180), abs=1e-6)
        # in the plane of h and u: what is at right angles to both stays nothing
        basis = torch.linalg.qr(torch.stack([h[0], u]).T).Q
        torch.testing.assert_close(turned[0] @ basis @ basis.T, turned[0], atol=1e-9, rtol=1e-9)


def test_along_the_direction_there_is_no_plane_to_turn_in() -> None:
    u = torch.tensor([1.0, 0.0])
    for h in (torch.tensor([[3.0, 0.0]]), torch.tensor([[-3.0, 0.0]]), torch.zeros(1, 2)):
        assert torch.equal(rotate(h, u, torch.tensor([30.0])), h)
    assert set_projection(torch.zeros(1, 2), u, 2.0, 1.0).tolist() == [[2.0, 0.0]]


def test_terms_of_a_row_act_in_their_order_and_rows_keep_their_own(model, plain) -> None:
    """Adds first, together; then clamp and rotation as they stand, which is not the same."""
    clamp, turn, push = D.clamp(0.8), D.rotate(30), 0.4 * D
    first, second = clamp + turn + push, turn + clamp + push
    steered = streams(model, [Terms(first), Terms(second), Terms((clamp,))])
    for row, order in ((0, (push, clamp, turn)), (1, (push, turn, clamp)), (2, (clamp,))):
        real = PHASE[row] != 3
        h = plain[1][row][real]
        for term in order:
            h = expected(term, h)
        torch.testing.assert_close(steered[1][row][real].double(), h, rtol=1e-5, atol=2e-5)
    ends = [steered[1][row][-1] - plain[1][row][-1] for row in (0, 1)]
    assert not torch.allclose(ends[0] / ends[0].norm(), ends[1] / ends[1].norm(), atol=1e-2)


def test_the_same_term_twice_acts_twice(model, plain) -> None:
    twice = streams(model, [D.rotate(10) + D.rotate(10)] * 3)
    once = streams(model, [Terms((D.rotate(20),))] * 3)
    torch.testing.assert_close(twice[1], once[1], rtol=1e-5, atol=2e-5)
    assert not torch.equal(twice[1], plain[1])


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        (Ramp(4), lambda t: min(1, (t + 1) / 4)),
        (Decay(2.0), lambda t: 2 ** (-t / 2)),
        (lambda step: (step % 2).float(), lambda t: t % 2),
        (lambda step: 0.5, lambda t: 0.5),
    ],
)
def test_schedules_are_factors_of_the_step(model, plain, schedule, factor) -> None:
    steered = streams(model, [Terms((D.at(schedule=schedule),))] * 3)
    for row in range(3):
        for place in range(PHASE.shape[1]):
            if PHASE[row, place] == 3:
                continue
            found = steered[1][row, place] - plain[1][row, place]
            c = factor(max(int(STEP[row, place]), 0))
            torch.testing.assert_close(found.double(), c * 5.0 * U, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operator", [0.4 * D, D.ablate(), D.rotate(20)], ids=repr)
@pytest.mark.parametrize("other", [None, direction(3, name="deduction")])
def test_a_gate_lets_edits_pass_by_the_projection_of_the_moment(
    model, plain, operator, other
) -> None:
    asked = D if other is None else other
    unit = asked.tensor[1] / asked.tensor[1].norm()
    projections = (plain[1] @ unit) / 5.0  # in the unit of the term
    real = PHASE != 3
    middle = float(projections[real].median())
    for gate, passes in (
        (Gate(above=middle, direction=other), projections > middle),
        (Gate(below=middle, direction=other), projections < middle),
        (
            Gate(above=middle - 0.1, below=middle + 0.1, direction=other),
            (projections - middle).abs() < 0.1,
        ),
    ):
        always = streams(model, [Terms((operator,))] * 3)
        gated = streams(model, [Terms((operator.at(gate=gate),))] * 3)
        changed = (gated[1] != plain[1]).any(dim=-1)
        assert torch.equal(changed, passes & real)
        torch.testing.assert_close(gated[1][changed], always[1][changed])
        assert changed.any() and (real & ~changed).any()


def test_a_gate_sees_the_state_before_other_terms(model, plain) -> None:
    high = Gate(above=float((plain[1] @ U.float() / 5.0).max()) + 0.1)
    steered = streams(model, [3.0 * D + (0.5 * direction(4)).at(gate=high, layer=1)] * 3)
    alone = streams(model, [Terms((3.0 * D,))] * 3)
    assert torch.equal(steered[1], alone[1])


def test_places_and_masks_may_differ_within_a_row(model, plain) -> None:
    push = 0.3 * D.at(where=Mask([True, False, True]))
    steered = streams(model, [push + -0.3 * D.at(where="answer")] * 3)
    real = PHASE != 3
    first, last = real & ((INDEX == 0) | (INDEX == 2)), PHASE == 2
    moved = (steered[1] - plain[1]).double() @ U
    wanted = 1.5 * first.double() - 1.5 * last.double()
    torch.testing.assert_close(moved[real], wanted[real], atol=1e-5, rtol=1e-5)
    assert set(PLACES) >= {"answer", "sentences"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: direction().center(), "mean projection"),
        (lambda: Term(1.0, D, operator="clamp"), "target"),
        (lambda: Term(1.0, D, target=3.0), "target"),
        (lambda: D.clamp(float("inf")), "not finite"),
        (lambda: Ramp(0), "ramp"),
        (lambda: Decay(-1), "half-life"),
        (lambda: Gate(), "bound"),
    ],
)
def test_what_cannot_act_is_refused(model, make, message) -> None:
    from steerkit.steering import RowSteering

    with pytest.raises(SteeringError, match=message):
        RowSteering(model, [Terms((make(),))])


def test_terms_say_all_that_they_do() -> None:
    found = D.clamp(0.8).at(where=Steps(0, 9), gate=Gate(above=1.0), schedule=Ramp(3)).to_json()
    assert found["operator"] == "clamp" and found["target"] == 0.8
    assert found["where"] == {"steps": [0, 9]} and found["gate"] == {"above": 1.0}
    assert found["schedule"] == {"ramp": 3}
    assert repr(D.rotate(30)) == "rotate(30 * backtracking)"


def test_orthogonal_terms_share_nothing_and_push_as_far(model, plain) -> None:
    other = direction(5, name="deduction")
    other = replace(other, tensor=other.tensor + D.tensor)
    third = direction(6, name="initializing")
    terms = (0.4 * D + 0.2 * other - 0.1 * third + 0.3 * D.at(layer=2)).orthogonal()
    first, second, last, again = (term.direction for term in terms)
    assert torch.equal(first.tensor, D.tensor) and again is first
    for a, b in ((first, second), (first, last), (second, last)):
        cosines = torch.nn.functional.cosine_similarity(a.tensor, b.tensor, dim=1)
        torch.testing.assert_close(cosines, torch.zeros(3), atol=1e-5, rtol=0)
    assert torch.nn.functional.cosine_similarity(D.tensor, other.tensor, dim=1).min() > 0.3
    steered = streams(model, [Terms((terms[1],))] * 3)[1] - plain[1]
    lengths = steered[PHASE != 3].norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 1.0), rtol=1e-4, atol=1e-4)
    with pytest.raises(SteeringError, match="nothing of 'backtracking' is left"):
        (0.4 * D + 0.2 * replace(D, layer=2)).orthogonal()


def correlated() -> tuple[torch.Tensor, list]:
    """Hidden states of every layer and three directions that overlap, with their measures."""
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(3, 400, 32, generator=generator, dtype=torch.float64) * 3 + 1
    mean, found, shared = hidden.mean(dim=1), [], torch.zeros(3, 32)
    for seed, name in ((0, "backtracking"), (5, "deduction"), (6, "initializing")):
        d = direction(seed, name=name)
        shared = d.tensor + 0.7 * shared
        u = shared.double() / shared.double().norm(dim=1, keepdim=True)
        measured = torch.tensor([0.1, 0.2, 0.3])
        found.append(
            replace(
                d,
                tensor=shared,
                mean_projection=(mean * u).sum(dim=1).float(),
                auroc=measured,
                split_half=measured,
                cone=measured,
                fluent=(-0.5, 0.5),
                chosen_by="auroc",
            )
        )
    return hidden, found


def test_orthogonal_terms_know_the_mean_projection_of_their_new_directions() -> None:
    hidden, (a, b, c) = correlated()
    terms = (a.center() + b.center() + 0.2 * c).orthogonal()
    for old, term in zip((a, b, c), terms, strict=True):
        new = term.direction
        u = new.tensor.double() / new.tensor.double().norm(dim=1, keepdim=True)
        mean = (hidden.mean(dim=1) * u).sum(dim=1).float()
        torch.testing.assert_close(new.mean_projection, mean, rtol=1e-4, atol=1e-4)
        if old is not a:
            assert (old.mean_projection - mean).abs().max() > 0.2


def test_what_was_measured_of_the_old_directions_is_not_said_of_the_new() -> None:
    _, (a, b, _) = correlated()
    first, second = (term.direction for term in (a.center() + 0.2 * b).orthogonal())
    assert first is a
    for name in ("auroc", "split_half", "cone", "fluent"):
        assert getattr(b, name) is not None and getattr(second, name) is None
    assert not second.chosen_by and second.layer == b.layer
    assert (second.spans, second.tasks, second.mean_norm is b.mean_norm) == (10, 5, True)


def test_orthogonal_terms_push_as_far_in_every_unit(model, plain) -> None:
    _, (a, b, _) = correlated()
    for unit in ("norm", "paper", "raw", "one"):
        term = 0.4 * b.at(unit=unit)
        new = (0.1 * a + term).orthogonal()[1]
        pushed = streams(model, [Terms((new,))] * 3)[1] - plain[1]
        lengths = pushed[PHASE != 3].norm(dim=-1)
        wanted = 0.4 * float(b.unit_length(1, unit))
        torch.testing.assert_close(lengths, torch.full_like(lengths, wanted), rtol=1e-4, atol=1e-4)


def test_a_center_whose_new_mean_projection_is_unknown_is_refused() -> None:
    _, (a, b, _) = correlated()
    bare = replace(a, mean_projection=None)
    with pytest.raises(SteeringError, match=r"'deduction'.*'backtracking'"):
        (0.2 * bare + b.center()).orthogonal()
    pushed = (0.2 * bare + 0.2 * b).orthogonal()
    assert pushed[1].direction.mean_projection is None
    assert (b.center() + 0.2 * bare).orthogonal()[0].direction.mean_projection is not None


def test_a_schedule_of_another_shape_is_refused_and_leaves_no_hook(model) -> None:
    for schedule in (lambda step: step[:1].float(), lambda step: float("nan")):
        with pytest.raises(SteeringError, match="the schedule of 'backtracking'"):
            streams(model, [Terms((D.at(schedule=schedule),))] * 3)
    assert all(not len(b.hook_resid_post._forward_hooks) for b in model.residual.blocks)
