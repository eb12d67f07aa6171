"""An edit adds exactly c n u where it should, and leaves every other bit as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steerkit.direction import Direction
from steerkit.errors import SteeringError, VectorsError
from steerkit.models import ThinkingModel
from steerkit.places import PLACES, Positions
from steerkit.positions import ANSWER, PAD, PROMPT, THINK
from steerkit.steering import RowSteering, rows_of
from steerkit.terms import Term, Terms
from tests.tiny import tiny_model

LAYERS, WIDTH = 3, 32


def direction(seed: int = 0, *, layer: int | None = 1, name: str = "backtracking") -> Direction:
    generator = torch.Generator().manual_seed(seed)
    return Direction(
        behavior=name,
        tensor=torch.randn(LAYERS, WIDTH, generator=generator),
        layers=(0, 1, 2),
        mean_norm=torch.tensor([3.0, 5.0, 7.0]),
        norm_of_mean=torch.tensor([2.0, 2.5, 3.0]),
        layer=layer,
        spans=10,
        tasks=5,
        n_layers=LAYERS,
    )


@pytest.fixture(scope="module")
def model() -> ThinkingModel:
    return tiny_model("qwen2")


PHASE = torch.tensor(
    [
        [PAD, PAD, PROMPT, PROMPT, THINK, THINK, THINK, ANSWER],
        [PROMPT, PROMPT, PROMPT, THINK, THINK, ANSWER, ANSWER, ANSWER],
        [PAD, PROMPT, THINK, THINK, THINK, THINK, THINK, ANSWER],
    ],
    dtype=torch.int8,
)
STEP = torch.full(PHASE.shape, -1)
STEP[:, 4:] = torch.arange(4)
GENERATED = STEP >= 0
STARTS = torch.tensor(
    [[0, 0, 0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1, 0, 1], [0, 1, 1, 0, 1, 0, 0, 1]]
)
INDEX = ((PHASE != PAD).long().cumsum(1) - 1).clamp(min=0)
AT = Positions(PHASE, INDEX, STEP, STARTS.bool())


def streams(model: ThinkingModel, rows: list[Terms] | None, dtype=None) -> list[torch.Tensor]:
    """The residual stream after every layer, for one fixed input with padding on the left."""
    ids = torch.arange(24).reshape(3, 8) + 40
    mask = (PHASE != PAD).long()
    found: list[torch.Tensor] = []
    steering = RowSteering(model, rows or [Terms()] * 3)
    steering.place(AT)

    def keep(hidden: torch.Tensor, hook: object) -> None:
        found.append(hidden.clone())

    with model.inference(), steering.attached():
        stack = [model.residual.hooked(layer, keep) for layer in range(LAYERS)]
        for hooked in stack:
            hooked.__enter__()
        model.hf(input_ids=ids, attention_mask=mask, position_ids=INDEX)
        for hooked in reversed(stack):
            hooked.__exit__(None, None, None)
    return found


def places(where: str) -> torch.Tensor:
    """An oracle of every place, by the letter of its definition."""
    codes = {"prompt": [PROMPT], "think": [THINK], "answer": [ANSWER]}
    if where == "generated":
        return GENERATED & (PHASE != PAD)
    if where == "sentences":
        return STARTS.bool() & (PHASE == THINK)
    chosen = codes.get(where, [PROMPT, THINK, ANSWER])
    return torch.stack([code == PHASE for code in chosen]).any(dim=0)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("unit", ["norm", "paper", "raw", "one"])
def test_the_edit_is_the_formula_and_nothing_else(model, where, unit) -> None:
    d = direction()
    rows = [
        Terms((0.4 * d.at(where=where, unit=unit),)),
        Terms(),
        Terms((-0.7 * d.at(where=where, unit=unit),)),
    ]
    plain, steered = streams(model, None), streams(model, rows)
    assert torch.equal(plain[0], steered[0])  # the layer before
    assert torch.equal(plain[1][1], steered[1][1])  # the row without terms
    assert torch.equal(plain[2][1], steered[2][1])
    u = d.tensor[1] / d.tensor[1].norm()
    scale = {"norm": 5.0, "paper": 2.5, "raw": float(d.tensor[1].norm()), "one": 1.0}[unit]
    for row, coefficient in ((0, 0.4), (2, -0.7)):
        chosen = places(where)[row]
        difference = steered[1][row] - plain[1][row]
        torch.testing.assert_close(
            difference[chosen],
            (coefficient * scale * u).expand(int(chosen.sum()), WIDTH),
            rtol=1e-5,
            atol=1e-5,
        )
        assert torch.equal(steered[1][row][~chosen], plain[1][row][~chosen])
        assert chosen.any()
        assert not torch.equal(plain[2][row], steered[2][row])


def test_terms_of_a_row_add_and_layers_are_independent(model) -> None:
    a, b = direction(0), direction(1, name="deduction")
    plain = streams(model, None)
    both = 0.4 * a - 0.2 * b.at(where="think") + 0.1 * a.at(layer=2)
    steered = streams(model, [Terms(), both, Terms()])
    expected = 0.4 * a.vector(1) - 0.2 * b.vector(1) * places("think")[1][:, None]
    torch.testing.assert_close(
        steered[1][1] - plain[1][1], expected.expand(8, WIDTH), rtol=1e-5, atol=1e-5
    )
    assert RowSteering(model, [both]).layers == (1, 2)


def test_equal_and_opposite_terms_leave_no_edit(model) -> None:
    d = direction()
    plain, steered = streams(model, None), streams(model, [0.3 * d + -0.3 * d] * 3)
    assert all(torch.equal(a, b) for a, b in zip(plain, steered, strict=True))


def test_coefficient_zero_hooks_nothing(model) -> None:
    assert RowSteering(model, [Terms((0.0 * direction(),))]).layers == ()
    assert RowSteering(model, [Terms((0.1 * direction(),))]).layers == (1,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_edited_in_float32_and_cast_back(dtype) -> None:
    model = tiny_model("llama")
    model.hf.to(dtype)
    d = direction()
    plain, steered = streams(model, None), streams(model, [Terms((0.4 * d,))] * 3)
    expected = (plain[1].float() + 0.4 * d.vector(1)).to(dtype)
    shown = PHASE != PAD
    assert steered[1].dtype == dtype
    assert torch.equal(steered[1][shown], expected[shown])


def test_running_without_word_of_places_is_an_error_and_leaves_no_hook(model) -> None:
    steering = RowSteering(model, [Terms((0.1 * direction(),))])
    with pytest.raises(SteeringError, match="rows and positions"), steering.attached():
        model.hf(input_ids=torch.tensor([[1, 2, 3]]))
    assert all(not len(b.hook_resid_post._forward_hooks) for b in model.residual.blocks)


def test_what_does_not_fit_is_refused_before_anything_runs(model) -> None:
    d = direction()
    wide = replace(d, tensor=torch.randn(LAYERS, WIDTH + 1))
    deep = replace(d, n_layers=LAYERS + 1)
    for other in (wide, deep):
        with pytest.raises(VectorsError, match="does not fit"):
            RowSteering(model, [Terms((0.1 * other,))])
    with pytest.raises(SteeringError, match="layer 9"):
        d.at(layer=9)
    with pytest.raises(SteeringError, match="no layer was chosen"):
        RowSteering(model, [Terms((0.1 * direction(layer=None),))])
    with pytest.raises(SteeringError, match="not finite"):
        float("nan") * d


def test_rows_of_takes_one_for_all_or_one_for_each() -> None:
    d = direction()
    assert rows_of(None, 2) == [Terms(), Terms()]
    assert [len(terms) for terms in rows_of(0.1 * d + 0.2 * d, 3)] == [2, 2, 2]
    mixed = rows_of([None, 0.1 * d, d], 3)
    assert [len(terms) for terms in mixed] == [0, 1, 1]
    assert isinstance(mixed[2][0], Term) and mixed[2][0].coefficient == 1.0
    with pytest.raises(SteeringError, match="does not match"):
        rows_of([None, 0.1 * d], 3)


def test_the_context_sets_terms_and_goes_without_a_trace(model) -> None:
    d, ids = direction(), torch.tensor([[1, 2, 3]])
    hooks = len(model.hf._forward_pre_hooks)
    with model.steer(0.3 * d):
        assert repr(model.steering) == "0.3 * backtracking"
        with model.steer(0.1 * d, 0.2 * d):
            assert len(model.steering) == 2
        assert len(model.steering) == 1
        model.hf(input_ids=ids)
    assert model.steering is None and len(model.hf._forward_pre_hooks) == hooks
    model.hf(input_ids=ids)
    with pytest.raises(ZeroDivisionError), model.steer(0.3 * d):
        raise ZeroDivisionError
    assert model.steering is None and len(model.hf._forward_pre_hooks) == hooks
