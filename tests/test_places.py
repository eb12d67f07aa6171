"""Places name the positions that their definitions name, and never padding."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from steerkit.errors import SteeringError
from steerkit.places import (
    PLACES,
    Mask,
    Positions,
    Steps,
    check_where,
    ends_sentence,
    where_json,
    where_mask,
    where_words,
)
from steerkit.positions import ANSWER, PAD, PROMPT, THINK


@pytest.fixture
def positions() -> Positions:
    """A closed chain with padding on the left, and one with it on the right."""
    phase = torch.tensor(
        [
            [PAD, PAD, PROMPT, PROMPT, THINK, THINK, ANSWER, ANSWER],
            [PROMPT, THINK, THINK, ANSWER, ANSWER, ANSWER, PAD, PAD],
        ],
        dtype=torch.int8,
    )
    # the prompts end at positions 3 and 1: these predict the first tokens of the responses
    return Positions(
        phase=phase,
        index=torch.tensor([[0, 0, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 5, 5]]),
        step=torch.tensor([[-1, -1, -1, 0, 1, 2, 3, 4], [-1, 0, 1, 2, 3, 4, 4, 4]]),
        starts=torch.tensor([[0, 0, 0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0, 1, 1]]).bool(),
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("all", [[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]]),
        ("prompt", [[0, 0, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]),
        ("generated", [[0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0, 0]]),
        ("think", [[0, 0, 0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]),
        ("answer", [[0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0]]),
        ("sentences", [[0, 0, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]),
        (Steps(), [[0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0, 0]]),
        (Steps(1, 3), [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]]),
        (Steps(3), [[0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0]]),
        (Mask([True, False, True]), [[0, 0, 1, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0, 0]]),
        (Mask(torch.ones(20)), [[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]]),
    ],
)
def test_places_are_positions(positions, where, expected) -> None:
    assert where_mask(where, positions).int().tolist() == expected


def test_phases_part_every_position_and_padding_is_in_none(positions) -> None:
    masks = [where_mask(where, positions) for where in ("prompt", "think", "answer")]
    assert torch.equal(sum(m.int() for m in masks), (positions.phase != PAD).int())
    for where in (*PLACES, Steps(), Mask([True] * 9)):
        assert not where_mask(where, positions)[positions.phase == PAD].any()


def test_rows_are_selected_and_joined(positions) -> None:
    turned = Positions.joined([positions.select([1]), positions.select([0])])
    for where in (*PLACES, Steps(1, 3)):
        assert torch.equal(where_mask(where, turned), where_mask(where, positions).flip(0))


def test_an_unknown_place_lists_the_known(positions) -> None:
    # the tests' type checks would refuse it before the function can
    for refuse in (lambda: inspect.unwrap(where_mask)("thinking", positions), None):
        with pytest.raises(SteeringError, match="unknown place 'thinking'") as error:
            refuse() if refuse else check_where("thinking")
        assert all(where in str(error.value) for where in PLACES)
    for start, stop in ((-1, 4), (3, 3), (5, 2)):
        with pytest.raises(SteeringError, match="empty window"):
            Steps(start, stop)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (".", True),
        (" so.", True),
        ("?", True),
        ('!"', True),
        (".)", True),
        ("\n", True),
        (" \n\n", True),
        ("3", False),
        (",", False),
        ("Mr", False),
        (".5", False),
        (" ", None),
        ("", None),
    ],
)
def test_sentences_end_where_their_marks_are(text, ends) -> None:
    assert ends_sentence(text) is ends


def test_places_are_recorded_as_json() -> None:
    assert where_json("think") == "think"
    assert where_json(Steps(2, 5)) == {"steps": [2, 5]}
    assert where_json(Mask([False, True, True])) == {"positions": [1, 2]}


@pytest.mark.parametrize(
    "positions",
    [
        torch.ones(2, 3),
        np.ones((2, 3), dtype=bool),
        [[True, False], [False, True]],
        [torch.ones(2), torch.ones(2)],
        [3, 5],
        [0.5],
        [float("nan")],
        ["yes"],
        [None],
        torch.tensor(True),
        3,
        "think",
    ],
    ids=repr,
)
def test_a_mask_is_one_dimension_of_truth_values(unchecked, positions) -> None:
    with pytest.raises(SteeringError, match="truth value for every position"):
        Mask(positions)


def test_masks_are_lists_tensors_and_arrays(unchecked) -> None:
    wanted = Mask((True, False, True))
    given = ([1, 0, 1], torch.tensor([1, 0, 1]), np.array([True, False, True]))
    for positions in (*given, [torch.tensor(True), torch.tensor(False), torch.tensor(True)]):
        assert Mask(positions) == wanted and Mask(positions).positions == (True, False, True)


@pytest.mark.parametrize("window", [(0.5, 3), ("0", 3), (0, 2.5), (True, 3), (None, 3)])
def test_steps_are_whole_numbers(unchecked, window) -> None:
    with pytest.raises(SteeringError, match="whole number"):
        Steps(*window)
    assert where_json(Steps(np.int64(2), np.int64(5))) == {"steps": [2, 5]}


def test_a_recorded_place_has_words() -> None:
    assert where_words(where_json("all")) == where_words(None) == ""
    assert where_words(where_json(Steps(1))) == "at chosen steps"
    assert where_words(where_json(Mask([True]))) == "at chosen positions"
    named = {where_words(where) for where in PLACES}
    assert len(named) == len(PLACES)
