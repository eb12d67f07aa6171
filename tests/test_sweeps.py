"""A sweep is what its conditions give one by one, and the baseline is written once."""

from __future__ import annotations

import pytest

from steerkit.errors import SteeringError
from steerkit.tasks import Task
from steerkit.traces import Traces
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


def test_a_sum_is_one_condition_alone_and_among_others(model) -> None:
    both = 0.9 * D - 0.6 * OTHER.ablate()
    for steer, more in ((both, []), ([both, D], ["backtracking"] * 2), ({"x": both}, [])):
        found = model.sweep(TASKS[0], steer, coefficients=[-1, 2], samples=2, **OPTIONS)
        table = found.table.iloc[::2]
        assert table["behavior"].fillna("").tolist() == ["", repr(both), repr(both), *more]
        assert table["coefficient"].tolist()[:3] == [0.0, -1.0, 2.0]
        assert table["operator"].tolist()[1:3] == ["add, ablate"] * 2
        assert table["layer"].tolist()[1:3] == [1, 1]
        for c, place in ((-1, 2), (2, 4)):
            alone = model.generate(TASKS[0], steer=c * both, samples=2, **OPTIONS)
            chosen = found.traces[place : place + 2]
            assert [t.token_ids for t in chosen] == [t.token_ids for t in alone]
    plain, *steered = (trace.token_ids for trace in found.traces)
    assert plain not in steered


def test_terms_of_a_sum_go_to_every_layer_together_or_to_their_own(model) -> None:
    both = 0.5 * D.at(layer=0) + 0.5 * OTHER.at(layer=2)
    own = model.sweep(TASKS[0], both, coefficients=[1], **OPTIONS)
    assert own.table["layer"].isna().all() and len(own.table) == 2
    found = model.sweep(TASKS[0], both, coefficients=[1], layers=[0, 2], **OPTIONS)
    assert found.table["layer"].tolist()[1:] == [0, 2]
    for trace, layer in zip(found.traces[1:], (0, 2), strict=True):
        assert [entry["layers"] for entry in trace.metadata["steering"]] == [[layer]] * 2


def test_sums_that_come_to_the_same_keep_their_own_rows(model) -> None:
    once = 0.1 * D + 0.1 * OTHER
    found = model.sweep(TASKS[0], [once, 2 * once], coefficients=[1, 2], **OPTIONS).table
    names = [repr(once)] * 2 + [repr(2 * once)] * 2
    assert found["behavior"].tolist()[1:] == names
    assert found["coefficient"].tolist()[1:] == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("steer", "coefficients", "message"),
    [
        (D, 0.3, "are a list.*0.3"),
        (D, "0.3", "are a list"),
        (D, ["0.3"], "is a number.*str"),
        (D, [True], "is a number.*bool"),
        (D, [float("nan")], "not finite"),
        ("backtracking", [0.3], "cannot steer"),
        (["backtracking"], [0.3], "cannot steer"),
        (3, [0.3], "cannot steer"),
        (None, [0.3], "a direction and a coefficient"),
        ([D, None], [0.3], "a direction and a coefficient"),
    ],
)
def test_what_cannot_be_swept_is_refused(unchecked, model, steer, coefficients, message) -> None:
    with pytest.raises(SteeringError, match=message):
        model.sweep(PROMPTS[0], steer, coefficients=coefficients)


def test_a_surrounding_context_does_not_act_and_a_warning_says_so(model, caplog) -> None:
    outside = model.sweep(PROMPTS[0], D, coefficients=[0.5], **OPTIONS)
    assert not caplog.records
    with model.steer(0.9 * OTHER):
        inside = model.sweep(PROMPTS[0], D, coefficients=[0.5], **OPTIONS)
    assert [t.token_ids for t in inside.traces] == [t.token_ids for t in outside.traces]
    assert "0.9 * deduction" in caplog.text and "beside" in caplog.text


def test_rows_are_named_also_where_chains_are_missing(model, monkeypatch) -> None:
    """Ctrl-C leaves some chains out; the others keep their names."""
    from steerkit import sweeps

    whole = model.sweep(TASKS, [D, OTHER], coefficients=[-0.5, 0.5], samples=2, **OPTIONS)
    kept = [1, 2, 4, 7, 9, 10, 15, 29]

    def interrupted(*args, **options):
        return Traces([whole.traces[i] for i in kept])

    monkeypatch.setattr(sweeps, "generate", interrupted)
    part = model.sweep(TASKS, [D, OTHER], coefficients=[-0.5, 0.5], samples=2, **OPTIONS)
    assert part.table.equals(whole.table.iloc[kept].reset_index(drop=True))
