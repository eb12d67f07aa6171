"""Every claim meets the controls of its layer, length and, if shuffled, of its own direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from steerkit.evaluation.claims import claims
from steerkit.evaluation.pooled import Pooled
from tests.evaluation.planted import BASELINE, Sums, controls_of, steered

PLAN = [
    BASELINE,
    steered("backtracking", -0.2, 0.02, headline=True),
    steered("backtracking", 0.2, 0.3, headline=True),
    steered("backtracking", 0.3, 0.3),
    steered("uncertainty-estimation", 0.2, 0.1, headline=True),
    *controls_of("backtracking", 0.2, [0, 0], tasks=10),
    *controls_of("backtracking", -0.2, [0, 0], kinds=("shuffled",), tasks=8),
    *controls_of("backtracking", 0.3, [0], tasks=6),
    *controls_of("uncertainty-estimation", 0.2, [0], kinds=("shuffled",)),
]


def drawn() -> Pooled:
    return Sums(PLAN, tasks=12).draw(np.random.default_rng(0))


def names(pooled: Pooled, rows: list[int]) -> list[str]:
    return pooled.conditions.condition[rows].tolist()


def test_controls_are_those_of_the_same_length_and_direction() -> None:
    pooled = drawn()
    down, up, other = claims(pooled)
    assert [(c.behavior, c.sign) for c in (down, up, other)] == [
        ("backtracking", -1),
        ("backtracking", 1),
        ("uncertainty-estimation", 1),
    ]
    random = ["random-00+0.2@4", "random-01+0.2@4"]  # for either sign and every behaviour
    for claim in (down, up, other):
        assert names(pooled, claim.controls["random"]) == random
    assert names(pooled, up.controls["shuffled"]) == [
        "shuffled-backtracking-00+0.2@4",
        "shuffled-backtracking-01+0.2@4",
    ]
    assert names(pooled, down.controls["shuffled"]) == [
        "shuffled-backtracking-00-0.2@4",
        "shuffled-backtracking-01-0.2@4",
    ]
    assert names(pooled, other.controls["shuffled"]) == ["shuffled-uncertainty-estimation-00+0.2@4"]
    # only tasks that all of them were run on
    assert (len(up.tasks), len(down.tasks), len(other.tasks)) == (10, 8, 10)


def test_controls_of_another_layer_are_not_compared() -> None:
    pooled = drawn()
    layers = pooled.conditions.layer.where(pooled.conditions.kind != "random", 5)
    elsewhere = replace(pooled, conditions=pooled.conditions.assign(layer=layers))
    assert [claim.controls["random"] for claim in claims(elsewhere)] == [[], [], []]
    # a term at several layers has none of its own, and so have its controls
    several = replace(pooled, conditions=pooled.conditions.assign(layer=pd.NA))
    assert [len(claim.controls["random"]) for claim in claims(several)] == [2, 2, 2]


def test_what_the_annotator_cannot_give_is_not_claimed() -> None:
    pooled = replace(drawn(), labels=("backtracking",))
    assert {claim.behavior for claim in claims(pooled)} == {"backtracking"}
