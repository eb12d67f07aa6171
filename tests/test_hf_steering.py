"""Inside ``model.steer`` Hugging Face's own passes are edited as those of ``model.generate``."""

from __future__ import annotations

import pytest
import torch

from steerkit.errors import SteeringError
from steerkit.places import PLACES, Steps
from steerkit.schedules import Ramp
from tests.test_generation import LONGER, PROMPTS
from tests.test_steering import direction
from tests.tiny import ARCHITECTURES, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2")


def padded(model, prompts):
    rendered = [model.render(prompt) for prompt in prompts]
    width = max(map(len, rendered))
    ids = torch.tensor([[model.pad_id] * (width - len(r)) + r for r in rendered])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rendered])
    return ids, mask


def hf_chains(model, prompts, n=20, **options):
    """Greedy chains by Hugging Face's generate, without end tokens and padding."""
    ids, mask = padded(model, prompts)
    found = model.hf.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=n,
        do_sample=False,
        temperature=None,
        pad_token_id=model.pad_id,
        **options,
    )
    chains = []
    for row in found[:, ids.shape[1] :].tolist():
        ends = [i for i, token in enumerate(row) if token in model.eos_ids]
        chains.append(tuple(row[: ends[0] if ends else None]))
    return chains


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("prompts", [PROMPTS[:1], [*PROMPTS, LONGER]])
def test_hugging_face_generate_writes_the_same_steered_chains(architecture, prompts) -> None:
    model = tiny_model(architecture)
    term = 9.0 * direction()
    options = {"temperature": 0.0, "max_new_tokens": 20}
    expected = [t.token_ids for t in model.generate(prompts, steer=term, **options)]
    plain = [t.token_ids for t in model.generate(prompts, **options)]
    with model.steer(term):
        assert hf_chains(model, prompts) == expected != plain
        # a second call begins anew
        assert hf_chains(model, prompts[:1]) == expected[:1]
    assert hf_chains(model, prompts) == plain


def closing(model):
    d = direction()
    d.tensor[1] = model.hf.get_input_embeddings().weight[model.closing_id]
    return d


@pytest.mark.parametrize("where", [*PLACES, Steps(2, 9)])
@pytest.mark.parametrize("use_cache", [True, False])
def test_places_are_those_of_generate_with_and_without_cache(model, where, use_cache) -> None:
    """One term closes the thinking section after some steps, the other acts where it is told."""
    close = 40.0 * closing(model).at(where=Steps(4, 5))
    push = 6.0 * direction(3, name="deduction").at(where=where, layer=1, schedule=Ramp(3))
    steer = close + push
    traces = model.generate(PROMPTS, steer=steer, temperature=0.0, max_new_tokens=16)
    alone = model.generate(PROMPTS, steer=close, temperature=0.0, max_new_tokens=16)
    assert [t.token_ids for t in traces] != [t.token_ids for t in alone]
    with model.steer(close, push):
        found = hf_chains(model, PROMPTS, 16, use_cache=use_cache)
    assert found == [trace.token_ids for trace in traces]


def test_a_plain_call_on_a_whole_chain_is_edited_where_its_phases_are(model) -> None:
    """Position by position against the residual stream of the unsteered pass."""
    ids = model.render(PROMPTS[0])
    text = "3 + 8 = 11. 7 * 3.\n</think>\nThe answer"
    chain = [*ids, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
    closed = chain.index(model.closing_id)
    inside = torch.zeros(len(chain), dtype=torch.bool)
    seen = []

    def keep(hidden, hook):
        seen.append(hidden[0].clone())

    with torch.no_grad():
        with model.residual.hooked(1, keep):
            model.hf(input_ids=torch.tensor([chain]))
        for where, first, last in (
            ("think", len(ids) - 1, closed),
            ("answer", closed, len(chain)),
            ("prompt", 0, len(ids) - 1),
            ("generated", len(ids) - 1, len(chain)),
        ):
            with model.steer(0.7 * direction().at(where=where)):
                handle = model.residual.blocks[1].hook_resid_post
                with model.residual.hooked(0, lambda hidden, hook: None):
                    model.hf(input_ids=torch.tensor([chain]))  # compiles the edit's hooks
                    with model.residual.hooked(1, keep):
                        model.hf(input_ids=torch.tensor([chain]))
            moved = (seen[-1] != seen[0]).any(dim=-1)
            wanted = inside.clone()
            wanted[first:last] = True
            assert torch.equal(moved, wanted), where
            assert not handle._forward_hooks


def test_contexts_nest_generate_works_inside_and_nothing_is_left(model) -> None:
    term, other = 2.0 * direction(), -2.0 * direction()
    options = {"temperature": 0.0, "max_new_tokens": 12}

    def hooks():
        return sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks)
            for m in (*model.hf.modules(), *model.residual.modules())
        )

    before = hooks()
    with model.steer(term):
        outer = hf_chains(model, PROMPTS, 12)
        with model.steer(other):
            inner = hf_chains(model, PROMPTS, 12)
            assert inner == [t.token_ids for t in model.generate(PROMPTS, **options)] != outer
        assert hf_chains(model, PROMPTS, 12) == outer
        assert [t.token_ids for t in model.generate(PROMPTS, **options)] == outer
        assert hf_chains(model, PROMPTS, 12) == outer
    assert hooks() == before
    with pytest.raises(ZeroDivisionError), model.steer(term):
        hf_chains(model, PROMPTS[:1], 2)
        raise ZeroDivisionError
    assert hooks() == before and model.steering is None


def test_what_cannot_be_followed_is_refused(model) -> None:
    ids = torch.tensor([model.render(PROMPTS[0])])
    cache = model.hf(input_ids=ids, use_cache=True).past_key_values
    with model.steer(0.3 * direction()):
        with pytest.raises(SteeringError, match="token ids"):
            model.hf(inputs_embeds=model.hf.get_input_embeddings()(ids))
        with pytest.raises(SteeringError, match="was not steered"):
            model.hf(input_ids=ids[:, -1:], past_key_values=cache)
