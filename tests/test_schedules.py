"""Schedules give finite factors of the right shape, gates can pass, and what cannot is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from steerkit.errors import SteeringError
from steerkit.schedules import Decay, Gate, Ramp, factors
from tests.test_steering import direction

STEP = torch.tensor([[0, 1, 2], [0, 0, 1]])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Ramp(2), [[0.5, 1.0, 1.0], [0.5, 0.5, 1.0]]),
        (Decay(1.0), [[1.0, 0.5, 0.25], [1.0, 1.0, 0.5]]),
        (lambda step: 0.5, [[0.5] * 3] * 2),
        (lambda step: 2, [[2.0] * 3] * 2),
        (lambda step: np.float64(0.25), [[0.25] * 3] * 2),
        (lambda step: torch.tensor(0.25), [[0.25] * 3] * 2),
        (lambda step: step < 1, [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
        (lambda step: step.double() * 2, [[0.0, 2.0, 4.0], [0.0, 0.0, 2.0]]),
    ],
)
def test_schedules_are_tensors_or_plain_numbers(schedule, expected) -> None:
    found = factors(schedule, STEP, "backtracking")
    assert found.dtype == torch.float32 and found.tolist() == expected


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda step: step[:, :1], r"of shape \(2, 1\)"),
        (lambda step: step[0], r"of shape \(3,\)"),
        (lambda step: torch.ones(4), r"of shape \(4,\)"),
        (lambda step: None, "NoneType"),
        (lambda step: True, "bool"),
        (lambda step: "0.5", "str"),
        (lambda step: math.nan, "not finite"),
        (lambda step: 1 / (1.0 - step), "step 1: .* not finite"),
    ],
)
def test_other_shapes_and_values_are_refused(schedule, message) -> None:
    with pytest.raises(SteeringError, match=message) as error:
        factors(schedule, STEP, "backtracking")
    assert "'backtracking'" in str(error.value)


@pytest.mark.parametrize("make", [Ramp, Decay])
@pytest.mark.parametrize("value", [0, -1, math.nan, "3", None, True])
def test_schedules_without_a_length_are_refused(unchecked, make, value) -> None:
    with pytest.raises(SteeringError, match="more than 0"):
        make(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a bound"),
        ({"above": math.nan}, "'above' of a gate"),
        ({"below": math.nan}, "'below' of a gate"),
        ({"above": math.inf}, "finite"),
        ({"above": "1"}, "'above' of a gate"),
        ({"above": 0.5, "below": 0.5}, "lets nothing pass"),
        ({"above": 0.5, "below": -0.5}, "lets nothing pass"),
        ({"above": 0.5, "direction": "uncertainty"}, "asks a direction.*'uncertainty'"),
        ({"above": 0.5, "direction": 0.3 * direction()}, "asks a direction"),
    ],
)
def test_gates_that_cannot_pass_or_ask_are_refused(unchecked, options, message) -> None:
    with pytest.raises(SteeringError, match=message):
        Gate(**options)


def test_gates_pass_between_their_bounds_and_are_json(unchecked) -> None:
    gate = Gate(above=np.float32(0.5), below=2, direction=direction())
    assert gate(torch.tensor([0.4, 0.5, 1.0, 2.0])).tolist() == [False, False, True, False]
    found = gate.to_json()
    assert found["above"] == 0.5 and type(found["above"]) is float
    assert found["behavior"] == "backtracking"


def test_a_term_takes_a_gate_and_nothing_else(unchecked) -> None:
    with pytest.raises(SteeringError, match="no gate"):
        direction().at(gate=0.5)
    with pytest.raises(SteeringError, match="no schedule"):
        direction().at(schedule=0.5)
