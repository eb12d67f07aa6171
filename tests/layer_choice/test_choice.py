"""A choice: the largest score, stored with its ranges and with who counted."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

import steerkit as sk
from steerkit.errors import ExtractionError
from steerkit.layer_choice.choice import choose_layers, select_tasks, with_ranges
from steerkit.layer_choice.scores import chosen_layers
from steerkit.tasks import Task, split_of
from steerkit.vectors import SteeringVectors
from tests.test_ranges import Scripted
from tests.test_steering import direction
from tests.test_vectors import measured
from tests.tiny import tiny_model


def scored(**columns) -> pd.DataFrame:
    base = {
        "behavior": "backtracking",
        "layer": [0, 1, 2],
        "score": "sweep",
        "low": 0.0,
        "high": 1.0,
    }
    return pd.DataFrame({**base, "closed": 1.0, "parsed": 1.0, **columns})


def test_the_largest_score_wins_unless_text_falls_apart() -> None:
    assert chosen_layers(scored(value=[0.1, 0.4, 0.4]), "sweep") == {"backtracking": 1}
    broken = scored(value=[0.1, 0.4, 0.3], parsed=[1.0, 0.5, 0.95])
    assert chosen_layers(broken, "sweep") == {"backtracking": 2}
    assert chosen_layers(scored(value=[0.1, 0.4, 0.3], closed=0.5), "sweep") == {"backtracking": 1}
    assert chosen_layers(broken.assign(score="gain"), "gain") == {"backtracking": 1}


def test_a_sweep_that_raised_nothing_names_no_layer() -> None:
    for value in ([0.0, 0.0, 0.0], [-0.2, -0.1, 0.0]):
        assert chosen_layers(scored(value=value), "sweep") == {}
    # unlike a cheap score, whose numbers have no zero that means nothing
    assert chosen_layers(scored(value=[-0.2, -0.1, -0.3], score="gain"), "gain") == {
        "backtracking": 1
    }
    vectors = SteeringVectors({"backtracking": replace(direction(), layer=2)}, {})
    choice = choose_layers(vectors, scored(value=[0.0, 0.0, 0.0]), "sweep")
    assert choice.layers == {} and choice.vectors["backtracking"].layer == 2


def test_a_choice_is_stored_and_forgets_ranges_of_another_layer(tmp_path) -> None:
    d = replace(direction(), layer=1, fluent=(-0.4, 0.3), free=(-0.1, 0.1))
    other = replace(direction(2, name="deduction"), layer=0)
    vectors = SteeringVectors({"backtracking": d, "deduction": other}, {"model": "m"})
    choice = choose_layers(vectors, scored(value=[0.1, 0.4, 0.3]), "sweep", {"coefficient": 0.2})
    assert choice.vectors["backtracking"].fluent == (-0.4, 0.3)
    moved = choose_layers(vectors, scored(value=[0.1, 0.2, 0.3]), "sweep").vectors
    assert moved["backtracking"].layer == 2 and moved["backtracking"].fluent is None
    assert moved["deduction"].layer == 0 and moved["deduction"].chosen_by == ""
    back = sk.read_vectors(choice.vectors.save(tmp_path / "v"))
    assert back["backtracking"].chosen_by == "sweep"
    assert (back["backtracking"].fluent, back["backtracking"].free) == ((-0.4, 0.3), (-0.1, 0.1))
    assert back.provenance["layer_choice"] == {"score": "sweep", "coefficient": 0.2}
    with pytest.raises(ExtractionError, match="not scored by 'gain'"):
        choose_layers(vectors, scored(value=[1.0, 2.0, 3.0]), "gain")


def test_ranges_are_stored_with_the_choice(monkeypatch) -> None:
    monkeypatch.setattr("steerkit.ranges.generate", Scripted(-0.5, 0.25))
    vectors = SteeringVectors({"backtracking": direction()}, {})
    choice = choose_layers(vectors, scored(value=[0.0, 0.4, 0.3]), "sweep")
    tasks = [Task("a", "Use 3, 7, 8 to make 29.")]
    found = with_ranges(choice, tiny_model(), tasks, None)
    assert found.vectors["backtracking"].fluent == (-0.5, 0.25)
    assert found.ranges["backtracking"].fluent.high == 0.25
    assert torch.equal(found.vectors["backtracking"].tensor, direction().tensor)


def test_what_leaves_text_whole_is_measured_by_unsteered_text() -> None:
    """Chains that the token limit cuts off never close, steered or not."""
    cut = scored(value=[0.1, 0.4, 0.3], closed=[0.0, 0.0, 0.0], base_closed=0.02)
    assert chosen_layers(cut, "sweep") == {"backtracking": 1}
    vague = scored(value=[0.1, 0.4, 0.3], parsed=[0.5, 0.3, 0.48], base_parsed=0.5)
    assert chosen_layers(vague, "sweep") == {"backtracking": 2}
    # nothing is asked of steered text that is better than 90 %
    good = scored(value=[0.1, 0.4, 0.3], parsed=[1.0, 0.9, 1.0], base_parsed=1.0)
    assert chosen_layers(good, "sweep") == {"backtracking": 1}


def test_a_behaviour_that_a_score_knows_nothing_of_keeps_its_layer() -> None:
    unknown = scored(value=float("nan"), score="gradient")
    vectors = SteeringVectors({"backtracking": replace(direction(), layer=0)}, {})
    choice = choose_layers(vectors, unknown, "gradient")
    assert choice.layers == {} and choice.vectors["backtracking"].layer == 0


def test_a_choice_keeps_the_cosines_and_names_the_annotator(monkeypatch) -> None:
    monkeypatch.setattr("steerkit.ranges.generate", Scripted(-0.5, 0.25))
    d = direction()
    other = replace(direction(2, name="deduction"), layer=None)
    known = measured(("backtracking", "deduction"), d.layers)
    vectors = SteeringVectors({"backtracking": d, "deduction": other}, {}, known)
    table = scored(value=[0.0, 0.4, 0.3])
    table.attrs["annotator"] = "rules@1"
    choice = choose_layers(vectors, table, "sweep")
    assert choice.vectors.geometry is known
    assert choice.vectors.provenance["layer_choice"]["annotator"] == "rules@1"
    cheap = choose_layers(vectors, table.assign(score="gain"), "gain")
    assert "annotator" not in cheap.vectors.provenance["layer_choice"]
    tasks = [Task("a", "Use 3, 7, 8 to make 29.")]
    found = with_ranges(choice, tiny_model(), tasks, "grammar").vectors
    assert found.geometry is known
    assert found.provenance["ranges"] == {
        "model": tiny_model().name,
        "tasks": 1,
        "annotator": "grammar",
    }


def test_select_tasks_are_taken_in_the_order_of_their_hashes() -> None:
    """Files go by category: the first tasks of a file would all be of one."""
    tasks = [Task(f"t{i}", f"Use {i}, 7, 8 to make 29.") for i in range(60)]
    vectors = SteeringVectors({"backtracking": direction()}, {})
    few = select_tasks(vectors, [], tasks, 5)
    assert few == select_tasks(vectors, [], tasks[::-1], 5)
    assert few == select_tasks(vectors, [], tasks, 9)[:5]
    kept = [task for task in tasks if split_of(task.prompt) == "select"]
    assert few != kept[:5] and all(task in kept for task in few)
