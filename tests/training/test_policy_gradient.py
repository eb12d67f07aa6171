from dataclasses import replace

import pytest
import torch

from steerkit.puzzles.countdown import CountdownTask
from steerkit.training.base import Base
from steerkit.training.config import RLConfig
from steerkit.training.policy_gradient import add_gradients, micro_batches, policy_loss
from steerkit.training.rollouts import Rollouts, write_rollouts
from tests.training.test_rollouts import cut_rollouts

SMALL = RLConfig(tasks=4, samples=4, kinds=("rules",), longest=20)
TASK = CountdownTask((3, 7, 8), 29)


@pytest.fixture
def model(base_folder):
    return Base.find(base_folder).load(torch.device("cpu"))


def test_the_gradient_is_that_of_reinforce_token_by_token(model):
    """Against one forward pass for every token, without padding, labels or batches."""

    def telling(found: Rollouts) -> bool:
        used = [cut for cut, a in zip(found.truncated, found.advantages.tolist(), strict=True) if a]
        # some cut off, some not, some left out, and several lengths, so that there is padding
        padded = len({len(ids) for ids, _ in found.examples}) > 2
        return padded and 0 < sum(used) < len(used) < 16

    _, found = cut_rollouts(model, SMALL, telling)
    loss = add_gradients(model, found)
    gradients = {n: p.grad.clone() for n, p in model.hf.named_parameters()}
    model.hf.zero_grad()
    total, expected = 0, 0.0
    for (ids, prompt), advantage in zip(found.examples, found.advantages.tolist(), strict=True):
        for place in range(prompt, len(ids)):
            logits = model.hf(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
            expected = expected - advantage * logits.log_softmax(dim=-1)[ids[place]]
            total += 1
    expected = expected / total
    expected.backward()
    assert total == found.tokens and loss == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert max(g.abs().max() for g in gradients.values()) > 1e-3
    for name, parameter in model.hf.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_micro_batches_and_unused_rows_change_nothing(model):
    found = write_rollouts(model, replace(SMALL, tasks=6), 1)
    # make sure that there is something to leave out
    found.advantages[:4] = 0.0

    def gradients(compute):
        model.hf.zero_grad()
        loss = compute()
        return loss, torch.cat([p.grad.flatten() for p in model.hf.parameters()])

    def everything_at_once():
        loss = policy_loss(model, found.examples, found.advantages, found.tokens)
        loss.backward()
        return loss.item()

    loss, whole = gradients(everything_at_once)
    for size in (1, 100, 10_000):
        part, summed = gradients(lambda size=size: add_gradients(model, found, size=size))
        assert part == pytest.approx(loss, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-7)
    found.advantages[0] = 1.0  # positive control
    _, other = gradients(lambda: add_gradients(model, found))
    assert not torch.allclose(other, whole, rtol=1e-3, atol=1e-7)


def test_rows_without_advantage_are_left_out_and_the_rest_sorted():
    lengths = [9, 4, 7, 4, 12, 5]
    rollouts = Rollouts(
        tasks=[TASK] * 6,
        responses=[""] * 6,
        examples=[([1] * length, 2) for length in lengths],
        truncated=[False] * 6,
        rewards=torch.zeros(6),
        advantages=torch.tensor([1.0, -1.0, 0.0, 2.0, 0.5, -2.0]),
    )
    assert micro_batches(rollouts, 10) == [[1, 3], [5], [0], [4]]
    assert micro_batches(rollouts, 1000) == [[1, 3, 5, 0, 4]]
    assert rollouts.tokens == sum(lengths) - 12
