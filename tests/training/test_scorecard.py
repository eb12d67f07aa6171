import pytest
import torch

from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.countdown import CountdownTask
from steerkit.puzzles.rules import RuleTask
from steerkit.puzzles.tasks import KINDS, generate_tasks
from steerkit.training.scorecard import count_response, evaluate, sample_chains, score
from tests.tiny import tiny_model

TASK = CountdownTask((3, 7, 8), 29)


def test_counts_of_a_planted_response():
    response = (
        "Let me try 3 + 7. 3 + 7 = 10. 10 + 8 = 19, not 29.\n"  # wrong, and passed silently
        "7 * 8 = 56. That is too big.\n"
        "Wait, let me try something else. Bananas. 3 * 7 = 21. 21 + 8 = 29.\n"
        "</think>\nThe answer is 3 * 7 + 8."
    )
    counts = count_response(TASK, response)
    assert counts["closed"] == (1, 1)
    assert counts["accuracy"] == (1, 1)
    assert counts["declined"] == (0, 1)
    assert counts["parsed"] == (8, 9)
    assert counts["wrong equations"] == (1, 5)
    assert counts["dead ends per chain"] == (2, 1)
    assert counts["silent dead ends"] == (1, 2)
    assert counts["backtracking"] == (1, 9)
    assert counts["example-testing"] == (1, 9)
    assert counts["deduction"] == (6, 9)
    assert counts["initializing"] == (0, 9)


def test_a_dead_end_is_silent_only_where_the_search_goes_on():
    given_up = "7 * 8 = 56. That is too big. I could not find it.\n</think>\nI do not know."
    assert count_response(TASK, given_up)["silent dead ends"] == (0, 0)
    assert count_response(TASK, given_up)["dead ends per chain"] == (1, 1)
    on = "7 * 8 = 56. That is too big. 3 + 7 = 10. I could not find it.\n</think>\nI do not know."
    assert count_response(TASK, on)["silent dead ends"] == (1, 1)


def test_a_chain_that_does_not_close_is_wrong_and_loses_its_last_sentence():
    counts = count_response(TASK, "3 * 7 = 21. 21 + 8 = 29. The answer is 3 * 7 + 8.")
    assert counts["closed"] == (0, 1)
    assert counts["accuracy"] == (0, 1)
    assert counts["parsed"] == (2, 2)


def test_generated_chains_score_as_they_were_made():
    tasks = generate_tasks("heldout", count=300)
    chains = [write_chain(task, 0) for task in tasks]
    figures = score(tasks, [chain.response for chain in chains])
    declined = sum(chain.answer == "I do not know." for chain in chains) / 300
    assert figures["closed"].value == figures["parsed"].value == 1
    assert figures["wrong equations"].value == 0
    assert figures["declined"].value == pytest.approx(declined)
    # a chain of a Countdown task that does not give up is right; one about a rule may err
    for kind in ("countdown-3", "countdown-4"):
        found = [c.answer for t, c in zip(tasks, chains, strict=True) if t.kind == kind]
        solved = sum(answer != "I do not know." for answer in found) / len(found)
        assert figures[f"accuracy {kind}"].value == pytest.approx(solved)
    assert 0.3 < figures["accuracy rules"].value < 0.9
    wrong = score(tasks, ["3 * 7 = 22.\n</think>\nThe answer is 1 + 1."] * 300)
    assert wrong["accuracy"].value == 0 and wrong["wrong equations"].value == 1
    assert wrong["closed"].low > 0.98 and 0 < wrong["accuracy"].high < 0.02


def test_intervals_agree_with_the_normal_approximation():
    tasks = [TASK] * 400
    right = "\n</think>\nThe answer is 3 * 7 + 8."
    figure = score(tasks, [right] * 100 + ["\n</think>\nI do not know."] * 300)["accuracy"]
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert figure.value == 0.25
    assert figure.low == pytest.approx(0.25 - half, abs=0.008)
    assert figure.high == pytest.approx(0.25 + half, abs=0.008)


def test_accuracy_by_kind_is_over_the_tasks_of_that_kind():
    right = "\n</think>\nThe answer is 3 * 7 + 8."
    rule = RuleTask(((1, 5), (3, 9), (4, 11)), 6)
    answers = ["\n</think>\nThe answer is 15.", "\n</think>\nThe answer is 14."]
    assert rule.verify("The answer is 15.").correct
    figures = score([TASK, rule, rule, rule], [right, answers[0], answers[1], answers[1]])
    assert figures["accuracy"].value == 0.5
    assert figures["accuracy countdown-3"].value == 1
    assert figures["accuracy rules"].value == pytest.approx(1 / 3)
    assert figures["accuracy rules"].low < 1 / 3 < figures["accuracy rules"].high
    assert "accuracy countdown-4" not in figures
    names = list(figures)
    at = names.index("accuracy")
    assert names[at : at + 3] == ["accuracy", "accuracy countdown-3", "accuracy rules"]
    assert count_response(TASK, right)["accuracy countdown-3"] == (1, 1)
    assert "accuracy rules" not in count_response(TASK, right)


def test_sampling_is_repeatable_and_leaves_the_global_state_alone():
    model, tasks = tiny_model(), generate_tasks("heldout", count=5)
    before = torch.get_rng_state()
    first, again, other = (
        sample_chains(model, tasks, seed=seed, max_new_tokens=8, batch_size=3) for seed in (0, 0, 1)
    )
    torch.testing.assert_close(torch.get_rng_state(), before)
    assert len(first) == 5 and first == again != other
    # a chain does not depend on its neighbours
    assert sample_chains(model, tasks[1:3], max_new_tokens=8) == first[1:3]


def test_evaluation_is_on_held_out_tasks_of_the_kinds_asked_for(monkeypatch):
    seen = []

    def sampled(model, tasks, *, seed):
        seen.extend(tasks)
        return ["\n</think>\nI do not know."] * len(tasks)

    monkeypatch.setattr("steerkit.training.scorecard.sample_chains", sampled)
    figures = evaluate(tiny_model(), 6, seed=3, kinds=("rules", "countdown-3"))
    assert figures["declined"].value == 1 and figures["accuracy"].value == 0
    assert [task.kind for task in seen] == ["rules", "countdown-3"] * 3
    assert {task.pool for task in seen} == {"heldout"}
    evaluate(tiny_model(), 6, seed=3)
    assert {task.kind for task in seen[6:]} == set(KINDS)
