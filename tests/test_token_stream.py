"""A stream is the chain that generate writes, with the projections that read gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steerkit.errors import GenerationError, SteeringError, VectorsError
from tests.test_generation import PROMPTS
from tests.test_steering import direction
from tests.tiny import tiny_model

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
    assert hooks(model) > before and model.generating
    tokens.close()
    assert hooks(model) == before and not model.generating
    with pytest.raises(GenerationError, match="empty"):
        model.stream(" ")
    with pytest.raises(SteeringError, match="layer 9"):
        model.stream(PROMPTS[0], read=D, layers=9)
    with model.steer(0.9 * D):
        steered = [token.id for token in model.stream(PROMPTS[0], max_new_tokens=12)]
    alone = model.generate(PROMPTS[0], steer=0.9 * D, max_new_tokens=12)[0]
    assert tuple(steered) == alone.token_ids


def test_directions_of_another_model_are_refused_at_once(model) -> None:
    for other in (replace(D, tensor=torch.randn(3, 33)), replace(D, n_layers=4)):
        with pytest.raises(VectorsError, match="does not fit"):
            model.stream(PROMPTS[0], read=other)
