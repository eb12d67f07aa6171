import pytest
import torch

from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.countdown import CountdownTask, generate_tasks
from steerkit.training.config import SFTConfig
from steerkit.training.model import build_model
from steerkit.training.scorecard import count_response, sample_chains, score
from steerkit.training.tokenizer import build_tokenizer

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
    assert figures["accuracy"].value == pytest.approx(1 - declined)
    wrong = score(tasks, ["3 * 7 = 22.\n</think>\nThe answer is 1 + 1."] * 300)
    assert wrong["accuracy"].value == 0 and wrong["wrong equations"].value == 1


def test_intervals_agree_with_the_normal_approximation():
    tasks = [TASK] * 400
    right = "\n</think>\nThe answer is 3 * 7 + 8."
    figure = score(tasks, [right] * 100 + ["\n</think>\nI do not know."] * 300)["accuracy"]
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert figure.value == 0.25
    assert figure.low == pytest.approx(0.25 - half, abs=0.008)
    assert figure.high == pytest.approx(0.25 + half, abs=0.008)


def test_sampling_is_repeatable_and_leaves_the_global_state_alone():
    tokenizer = build_tokenizer()
    config = SFTConfig(hidden_size=32, layers=1, heads=2, kv_heads=1, intermediate_size=32)
    model = build_model(config, tokenizer).eval()
    tasks = generate_tasks("heldout", count=5)
    before = torch.get_rng_state()
    first, again, other = (
        sample_chains(model, tokenizer, tasks, seed=seed, max_new_tokens=8, batch=3)
        for seed in (0, 0, 1)
    )
    torch.testing.assert_close(torch.get_rng_state(), before)
    assert len(first) == 5 and first == again != other
