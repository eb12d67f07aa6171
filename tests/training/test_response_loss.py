import pytest
import torch

from steerkit.errors import TrainingError
from steerkit.training import response_loss
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.chat_examples import chat_examples
from steerkit.training.lora import lora, target_layers
from steerkit.training.response_loss import backward, mean_loss
from tests.tiny import tiny_model, tiny_traces


@pytest.fixture(scope="module")
def examples():
    return chat_examples(tiny_model(), tiny_traces(8), AdapterConfig(held_out=0)).train


def by_hand(model, examples, first=None):
    """Mean negative log-probability of response tokens, one chain and one token at a time."""
    losses = []
    for ids, start in examples:
        logits = model.hf(torch.tensor([ids])).logits[0].double()
        for place in range(start if first is None else first, len(ids)):
            row = logits[place - 1]
            losses.append(row.logsumexp(0) - row[ids[place]])
    return torch.stack(losses).mean()


def test_the_loss_is_that_of_response_tokens_alone(examples):
    model = tiny_model()
    with torch.no_grad():
        expected = by_hand(model, examples)
        whole = by_hand(model, examples, first=1)
    for batch_tokens in (1, 200, 10_000):
        torch.testing.assert_close(
            mean_loss(model, examples, batch_tokens), float(expected), rtol=1e-5, atol=0
        )
    assert abs(float(whole) - float(expected)) > 1e-3  # prompts would make a difference
    assert mean_loss(model, (), 100) is None


def test_the_gradient_of_parts_adds_up_to_that_of_the_whole(examples):
    model = tiny_model()
    with lora(model, AdapterConfig(targets=target_layers(model, ()))):
        trained = [p for p in model.hf.parameters() if p.requires_grad]
        by_hand(model, examples).backward()
        expected = [p.grad.clone() for p in trained]
        for batch_tokens in (1, 200, 10_000):
            model.hf.zero_grad()
            loss = backward(model, examples, batch_tokens)
            torch.testing.assert_close(loss, mean_loss(model, examples, 10_000), rtol=1e-5, atol=0)
            for parameter, gradient in zip(trained, expected, strict=True):
                torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-3


def test_memory_that_runs_out_is_said_to(examples, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(response_loss, "summed_loss", full)
    with pytest.raises(TrainingError, match=r"out of memory.*Lower --batch-tokens"):
        backward(tiny_model(), examples, 10_000)
