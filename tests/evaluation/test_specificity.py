"""Every label under every steered behaviour: the planted changes, and the room that they take."""

from __future__ import annotations

import numpy as np
import pytest

from steerkit.evaluation.effects import effects
from steerkit.evaluation.specificity import COLUMNS, specificity
from tests.evaluation.planted import BASE, BASELINE, LABELS, experiment, steered, table


@pytest.fixture(scope="module")
def generations():
    return table(experiment(controls=1), tasks=20, samples=3)


def test_one_cell_a_headline_condition_and_label(generations) -> None:
    found = specificity(generations)
    assert list(found.columns) == COLUMNS
    assert len(found) == 4 * len(LABELS)
    plain = effects(generations)
    plain = plain[plain.measure == "spans"].set_index(["condition", "label"])
    for _, row in found.iterrows():
        same = plain.loc[(row.condition, row.label)]
        for name in ("change", "low", "high", "ratio", "p", "tasks"):
            assert row[name] == pytest.approx(same[name], nan_ok=True)
        assert row.sign == ("amplify" if row.coefficient > 0 else "suppress")
    # shares of sentences add up to one, so their changes add up to nothing
    np.testing.assert_allclose(found.groupby("condition").change.sum(), 0, atol=1e-12)
    own = found[found.label == found.behavior]
    np.testing.assert_allclose(own.relative, 1)
    assert own.room.isna().all()


def test_the_room_an_amplified_behaviour_takes_is_told_from_an_effect() -> None:
    rest = (1 - 0.40) / (1 - BASE["backtracking"])
    squeezed = {label: rate * rest for label, rate in BASE.items()}
    plan = [BASELINE, steered("backtracking", 0.3, 0.40, headline=True)]
    plan[1] = type(plan[1])(**{**plan[1].__dict__, "rates": squeezed | {"backtracking": 0.40}})
    found = specificity(table(plan, tasks=60, samples=4)).set_index("label")
    for label in ("deduction", "uncertainty-estimation", "unparsed"):
        assert found.low[label] - 0.02 < found.room[label] < found.high[label] + 0.02
    assert found.room.sum() == pytest.approx(-found.change["backtracking"])
    # positive control: a label that does move leaves its room behind
    plan[1] = type(plan[1])(
        **{
            **plan[1].__dict__,
            "rates": squeezed | {"backtracking": 0.40, "uncertainty-estimation": 0.15},
        }
    )
    found = specificity(table(plan, tasks=60, samples=4)).set_index("label")
    assert found.low["uncertainty-estimation"] > found.room["uncertainty-estimation"] + 0.02


def test_without_headline_conditions_it_is_empty(generations) -> None:
    found = specificity(generations.assign(headline=False))
    assert len(found) == 0 and list(found.columns) == COLUMNS
