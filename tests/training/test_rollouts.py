from dataclasses import replace

import pytest
import torch

from steerkit.puzzles.countdown import CountdownTask
from steerkit.puzzles.rules import RuleTask
from steerkit.traces import Trace
from steerkit.training.base import Base
from steerkit.training.config import RLConfig
from steerkit.training.rollouts import advantages, reward, write_rollouts

TASK = CountdownTask((3, 7, 8), 29)
RULE = RuleTask(((1, 5), (3, 9), (4, 11)), 6)
CONFIG = RLConfig(steps=10, tasks=3, samples=4, kinds=("rules",), longest=20)


def trace(response, **metadata):
    return Trace(id="a", task_id="b", prompt="c", response=response, metadata=metadata)


@pytest.mark.parametrize(
    ("task", "response", "metadata", "expected"),
    [
        (TASK, "3 * 7 = 21.\n</think>\nThe answer is 3 * 7 + 8.", {}, 1.1),
        (RULE, "\n</think>\nThe answer is 15.", {}, 1.1),
        # correct, but the model did not end the chain itself
        (TASK, "\n</think>\nThe answer is 3 * 7 + 8.", {"truncated": True}, 1.0),
        # wrong in every way that can be read
        (TASK, "\n</think>\nThe answer is 3 + 7 + 8.", {}, 0.1),
        (TASK, "\n</think>\nThe answer is 29.", {}, 0.1),
        (RULE, "\n</think>\nThe answer is 14.", {}, 0.1),
        (TASK, "\n</think>\nI do not know.", {}, 0.1),
        (RULE, "\n</think>\nI do not know.", {"truncated": True}, 0.0),
        # nothing that can be read
        (TASK, "\n</think>\nThe answer is", {}, 0.0),
        (TASK, "\n</think>\n", {}, 0.0),
        (TASK, "\n</think>\nThe answer is 3 * 7 + 8. Or is it?", {}, 0.0),
        (TASK, "\n</think>\n</think>\nThe answer is 3 * 7 + 8.", {}, 0.0),
        # nothing in the thinking section earns anything
        (TASK, "So 3 * 7 + 8 = 29.\nThe answer is 3 * 7 + 8.", {}, 0.0),
        (TASK, "The answer is 3 * 7 + 8.\n</think>\nBananas", {}, 0.0),
    ],
)
def test_reward_of_planted_chains(task, response, metadata, expected):
    found = reward(task, trace(response, **metadata), form_reward=0.1)
    assert found == pytest.approx(expected)
    without_form = reward(task, trace(response, **metadata), form_reward=0.0)
    assert without_form == float(expected >= 1)


def test_advantages_are_leave_one_out():
    rewards = torch.tensor([[1.1, 0.1, 0.0, 0.1], [1.1, 1.1, 0.0, 0.0]])
    # by hand: each reward minus the mean of the other three
    expected = torch.tensor(
        [
            [1.1 - 0.2 / 3, 0.1 - 1.2 / 3, 0.0 - 1.3 / 3, 0.1 - 1.2 / 3],
            [1.1 - 1.1 / 3, 1.1 - 1.1 / 3, 0.0 - 2.2 / 3, 0.0 - 2.2 / 3],
        ]
    )
    torch.testing.assert_close(advantages(rewards), expected)
    torch.testing.assert_close(advantages(rewards).sum(dim=1), torch.zeros(2))
    # a tenth is no binary fraction: the sum of many rounds, what is alike is zero all the same
    alike = advantages(torch.full((1, 13), 0.1))
    assert torch.equal(alike, torch.zeros(1, 13))


def test_the_gradient_is_not_biased_by_the_baseline():
    """Over all draws of two samples, RLOO's estimate has REINFORCE's mean: an exact sum."""
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([1.1, 0.1, 0.0], dtype=torch.float64)
    chances = logits.softmax(dim=0)
    (true,) = torch.autograd.grad((chances * values).sum(), logits, retain_graph=True)
    estimate = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            both = advantages(values[[i, j]].float()[None])[0].double()
            surrogate = (both * logits.log_softmax(dim=0)[[i, j]]).mean()
            (gradient,) = torch.autograd.grad(surrogate, logits)
            estimate += (chances[i] * chances[j]).detach() * gradient
    torch.testing.assert_close(estimate, true, rtol=1e-6, atol=1e-8)


def cut_rollouts(model, config, wanted):
    """A configuration whose first rollouts are as wanted, and these.

    What a small base writes hangs on the rounding of the processor that trained it, and with it
    which length and seed cut some of its chains and leave others whole.
    """
    for seed in range(20):
        seeded = replace(config, seed=seed)
        whole = write_rollouts(model, seeded, 0)
        lengths = sorted({len(ids) - prompt for ids, prompt in whole.examples})
        for longest in reversed(lengths[:-1]):
            cut = replace(seeded, longest=longest)
            found = write_rollouts(model, cut, 0)
            if wanted(found):
                return cut, found
    raise AssertionError("no length and seed give such rollouts")


def test_rollouts_hold_what_the_model_wrote(base_folder):
    model = Base.find(base_folder).load(torch.device("cpu"))
    config, found = cut_rollouts(model, CONFIG, lambda cut: any(cut.truncated))
    assert len(found.examples) == 12 and found.tokens > 12
    assert {task.pool for task in found.tasks} == {"rl"}
    assert len({task.id for task in found.tasks}) == 3
    assert [found.tasks[i].id for i in (0, 4, 8)] == [found.tasks[i].id for i in (3, 7, 11)]
    eos = model.tokenizer.eos_token_id
    assert not all(found.truncated)
    for task, response, (ids, prompt), cut in zip(
        found.tasks, found.responses, found.examples, found.truncated, strict=True
    ):
        assert ids[:prompt] == model.render(task.prompt)
        written = ids[prompt:]
        assert (written[-1] == eos) is not cut and eos not in written[:-1]
        assert model.tokenizer.decode(written if cut else written[:-1]) == response
        assert len(written) == config.longest if cut else len(written) <= config.longest
    torch.testing.assert_close(
        found.advantages, advantages(found.rewards.view(3, 4)).flatten(), rtol=0, atol=0
    )
    again = write_rollouts(model, config, 0)
    assert again.examples == found.examples and again.tasks == found.tasks
    # another step, and another seed: other tasks and other noise
    for step, seed in ((1, config.seed), (0, config.seed + 1)):
        other = write_rollouts(model, replace(config, seed=seed), step)
        assert other.tasks != found.tasks and other.responses != found.responses
