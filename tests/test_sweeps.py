"""A sweep is what its conditions give one by one, and the baseline is written once."""

from __future__ import annotations

import pytest

from steerkit.errors import SteeringError
from steerkit.tasks import Task
from tests.test_generation import PROMPTS
from tests.test_steering import direction
from tests.tiny import tiny_model

D, OTHER = direction(), direction(2, name="deduction")
TASKS = [Task(id=f"task-{i}", prompt=prompt, category="c") for i, prompt in enumerate(PROMPTS)]
OPTIONS = {"max_new_tokens": 14, "seed": 3}


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2")


def test_every_condition_is_the_chain_that_it_gives_alone(model) -> None:
    found = model.sweep(
        TASKS, [D, OTHER], coefficients=[-0.9, 0, 0.9], layers=[0, 2], samples=2, **OPTIONS
    )
    table, conditions = found.table, 1 + 2 * 2 * 2
    assert len(table) == len(found.traces) == len(TASKS) * conditions * 2
    assert table["trace"].tolist() == [trace.id for trace in found.traces]
    assert table["trace"].is_unique
    baseline = table[table["coefficient"] == 0]
    assert len(baseline) == len(TASKS) * 2
    assert baseline["behavior"].isna().all() and baseline["layer"].isna().all()
    for name, d in (("backtracking", D), ("deduction", OTHER)):
        for layer in (0, 2):
            for c in (-0.9, 0.9):
                part = table[
                    (table["behavior"] == name)
                    & (table["layer"] == layer)
                    & (table["coefficient"] == c)
                ]
                alone = model.generate(TASKS, steer=c * d.at(layer=layer), samples=2, **OPTIONS)
                chosen = [found.traces[i].token_ids for i in part.index]
                assert chosen == [trace.token_ids for trace in alone]
                assert part["tokens"].tolist() == [len(ids) for ids in chosen]
    plain = model.generate(TASKS, samples=2, **OPTIONS)
    assert [found.traces[i].token_ids for i in baseline.index] == [t.token_ids for t in plain]
    assert len({found.traces[i].token_ids for i in table.index}) > len(plain)


def test_a_term_keeps_its_operator_and_place_and_others_act_beside_it(model) -> None:
    found = model.sweep(
        TASKS[0],
        D.rotate(1.0).at(where="think"),
        coefficients=[20, 40],
        beside=0.5 * OTHER,
        **OPTIONS,
    )
    assert found.table["operator"].fillna("").tolist() == ["", "rotate", "rotate"]
    assert found.table["coefficient"].tolist() == [0.0, 20.0, 40.0]
    for trace, coefficient in zip(found.traces, (None, 20, 40), strict=True):
        terms = 0.5 * OTHER
        if coefficient is not None:
            terms = D.rotate(coefficient).at(where="think") + terms
        alone = model.generate(TASKS[0], steer=terms, **OPTIONS)[0]
        assert trace.token_ids == alone.token_ids
        assert [entry["behavior"] for entry in trace.metadata["steering"]][-1] == "deduction"


def test_a_direction_at_its_suggested_layer_and_zero_alone(model) -> None:
    found = model.sweep(PROMPTS[0], {"backtracking": D}, coefficients=[0.5], **OPTIONS)
    assert found.table["layer"].tolist()[1:] == [1]
    assert len(model.sweep(PROMPTS[0], D, coefficients=[0], **OPTIONS).traces) == 1
    for steer, coefficients in ((D, []), ([], [0.5])):
        with pytest.raises(SteeringError, match="a direction and a coefficient"):
            model.sweep(PROMPTS[0], steer, coefficients=coefficients)
    with pytest.raises(SteeringError, match="layer 7"):
        model.sweep(PROMPTS[0], D, coefficients=[0.5], layers=7)
