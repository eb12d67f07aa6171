"""A stream is the chain that generate writes, with the projections that read gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steerkit.errors import GenerationError, SteeringError, VectorsError
from tests.test_generation import PROMPTS
from tests.test_steering import direction
from tests.tiny import tiny_model, tiny_traces

D, OTHER = direction(), direction(2, layer=0, name="deduction")


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2")


def hooks(model) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for m in (*model.hf.modules(), *model.residual.modules())
    )


@pytest.mark.parametrize("options", [{}, {"until": "think"}, {"top_p": 0.9, "temperature": 0.7}])
@pytest.mark.parametrize("steer", [None, 0.9 * D])
@pytest.mark.parametrize("read", [None, [D, OTHER]])
def test_a_stream_is_the_chain(model, options, steer, read) -> None:
    options = {"max_new_tokens": 25, "seed": 2, "steer": steer, **options}
    trace = model.generate(PROMPTS[0], **options)[0]
    tokens = list(model.stream(PROMPTS[0], read=read, **options))
    assert tuple(token.id for token in tokens) == trace.token_ids
    assert "".join(token.text for token in tokens) == trace.response
    assert [token.step for token in tokens] == list(range(len(tokens)))
    expected = model.align(trace).phases[-len(tokens) :].tolist()
    assert [token.phase for token in tokens] == [("prompt", "think", "answer")[c] for c in expected]


@pytest.mark.parametrize("limit", [9, 200])
def test_projections_are_those_that_read_gives(model, limit) -> None:
    """Whether the chain ends by itself or is cut off: no token is without its numbers."""
    model = tiny_model("qwen2")
    model.hf.generation_config.eos_token_id = list(range(40, 70))
    options = {"max_new_tokens": limit, "seed": 4}
    trace = model.generate(PROMPTS[1], **options)[0]
    assert trace.truncated == (limit == 9)
    tokens = list(model.stream(PROMPTS[1], read=[D, OTHER], **options))
    table = model.read(trace, [D, OTHER])
    for name in ("backtracking", "deduction"):
        expected = table[table["behavior"] == name]["projection"].to_numpy()
        found = [token.projections[name] for token in tokens]
        assert found == pytest.approx(expected, abs=1e-4)
        assert expected.std() > 0.01


def test_steered_projections_are_those_after_the_edit(model) -> None:
    options = {"max_new_tokens": 10, "temperature": 0.0}
    tokens = list(model.stream(PROMPTS[0], steer=D.clamp(0.7), read=D, **options))
    assert [t.projections["backtracking"] for t in tokens] == pytest.approx([0.7] * 10, abs=1e-4)


def test_a_direction_at_several_layers_has_several_names(model) -> None:
    token = next(iter(model.stream(PROMPTS[0], read=D, layers=[0, 2], max_new_tokens=3)))
    assert set(token.projections) == {"backtracking@0", "backtracking@2"}


def test_an_abandoned_stream_leaves_nothing_and_errors_come_at_once(model) -> None:
    before = hooks(model)
    tokens = model.stream(PROMPTS[0], steer=0.5 * D, read=D, max_new_tokens=50)
    next(tokens)
    assert hooks(model) == before  # between two tokens as well
    tokens.close()
    assert hooks(model) == before
    with pytest.raises(GenerationError, match="empty"):
        model.stream(" ")
    with pytest.raises(SteeringError, match="layer 9"):
        model.stream(PROMPTS[0], read=D, layers=9)
    with model.steer(0.9 * D):
        steered = [token.id for token in model.stream(PROMPTS[0], max_new_tokens=12)]
    alone = model.generate(PROMPTS[0], steer=0.9 * D, max_new_tokens=12)[0]
    assert tuple(steered) == alone.token_ids


def test_streams_side_by_side_are_as_they_are_alone(model) -> None:
    """Opposite pushes, a token of each in turn, projections and all."""
    options = {"read": [D, OTHER], "max_new_tokens": 15, "temperature": 0.0}
    alone = [list(model.stream(PROMPTS[0], steer=c * D, **options)) for c in (0.9, -0.9)]
    assert alone[0] != alone[1]
    streams = [model.stream(PROMPTS[0], steer=c * D, **options) for c in (0.9, -0.9)]
    together = list(zip(*streams, strict=True))
    assert [list(tokens) for tokens in zip(*together, strict=True)] == alone


def test_the_model_is_free_between_two_tokens(model) -> None:
    """Generating, reading and plain passes in the loop over a steered stream change nothing
    and are not changed by it; the gradient and the model's mode are the caller's."""
    options = {"steer": 0.9 * D, "read": D, "max_new_tokens": 8, "temperature": 0.0}
    expected = list(model.stream(PROMPTS[0], **options))
    ids = torch.tensor([model.render(PROMPTS[0])])
    (trace,) = tiny_traces(1)
    written = {"max_new_tokens": 5, "steer": -0.9 * OTHER}

    def others():
        table = model.read(trace, [D, OTHER], layers=[0, 2])
        chains = [t.token_ids for t in model.generate(PROMPTS, **written)]
        return chains, table.to_dict("list"), model.hf(input_ids=ids).logits.tolist()

    plain = others()
    with model.steer(0.5 * D):
        steered = model.hf(input_ids=ids).logits
    before, found = hooks(model), []
    model.hf.train()
    for token in model.stream(PROMPTS[0], **options):
        found.append(token)
        assert model.hf.training and torch.is_grad_enabled()
        model.hf.eval()
        assert others() == plain and hooks(model) == before
        with model.steer(0.5 * D):
            assert torch.equal(model.hf(input_ids=ids).logits, steered)
        model.hf.train()
    model.hf.eval()
    assert found == expected


def test_gradients_are_as_before_in_whatever_order_streams_end(model) -> None:
    first, second = (model.stream(PROMPTS[0], max_new_tokens=4) for _ in range(2))
    next(first), next(second)
    first.close()
    list(second)
    assert torch.is_grad_enabled()


def test_directions_of_another_model_are_refused_at_once(model) -> None:
    for other in (replace(D, tensor=torch.randn(3, 33)), replace(D, n_layers=4)):
        with pytest.raises(VectorsError, match="does not fit"):
            model.stream(PROMPTS[0], read=other)
