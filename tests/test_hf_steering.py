"""Inside ``model.steer`` Hugging Face's own passes are edited as those of ``model.generate``."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import torch

from steerkit.errors import ModelError, SteeringError
from steerkit.places import PLACES, Steps
from steerkit.residual import StopForward
from steerkit.schedules import Ramp
from steerkit.terms import Terms
from tests.test_generation import LONGER, PROMPTS
from tests.test_residual import hooks_on
from tests.test_steering import direction
from tests.tiny import ARCHITECTURES, tiny_model, tiny_traces


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


class PlantedError(Exception):
    """Planted where a forward pass is to end."""


@pytest.mark.parametrize("problem", [PlantedError, KeyboardInterrupt])
@pytest.mark.parametrize("caught_inside", [True, False])
def test_a_pass_that_ends_before_the_edit_hides_nothing(model, problem, caught_inside) -> None:
    """The first pass of Hugging Face's generate ends below the layer that is edited."""
    before = hooks_on(model.hf) + hooks_on(model.residual)

    def stop(*_):
        raise problem

    def interrupted():
        handle = model.hf.model.layers[0].register_forward_hook(stop)
        try:
            hf_chains(model, PROMPTS[:1], 3)
        finally:
            handle.remove()

    if caught_inside:
        with model.steer(2.0 * direction()), pytest.raises(problem):
            interrupted()
    else:
        with pytest.raises(problem), model.steer(2.0 * direction()):
            interrupted()
    assert model.steering is None and model.following is None
    assert hooks_on(model.hf) + hooks_on(model.residual) == before


def test_a_pass_that_stops_below_the_edit_is_no_error(model) -> None:
    ids = torch.tensor([model.render(PROMPTS[0])])
    with model.steer(2.0 * direction()), model.residual.stop_after(0):
        with pytest.raises(StopForward):
            model.residual(input_ids=ids)
    assert model.steering is None


def test_an_edit_that_a_whole_pass_left_out_is_an_error_and_ends_all_the_same() -> None:
    model = tiny_model("qwen2")
    model.hf.model.layers = model.hf.model.layers[:1]
    model.hf.config.num_hidden_layers = model.hf.model.config.num_hidden_layers = 1
    ids = torch.tensor([model.render(PROMPTS[0])])
    before = hooks_on(model.hf) + hooks_on(model.residual)
    with pytest.raises(ModelError, match="layer 1 never fired"), model.steer(2.0 * direction()):
        model.hf(input_ids=ids)
    assert model.steering is None and model.following is None
    assert hooks_on(model.hf) + hooks_on(model.residual) == before


def test_hugging_face_generate_goes_on_after_an_unsteered_pass_in_between(model) -> None:
    """What a streamer or a logits processor may do: generate, and read, between two steps."""
    term, (trace,) = 9.0 * direction(), tiny_traces(1)
    options = {"steer": term, "temperature": 0.0, "max_new_tokens": 12}
    expected = [t.token_ids for t in model.generate(PROMPTS, **options)]
    plain = model.read(trace, direction(), layers=2)

    def between(_, scores):
        pd.testing.assert_frame_equal(model.read(trace, direction(), layers=2), plain)
        model.generate(PROMPTS[0], steer=Terms(), max_new_tokens=2)
        return scores

    with model.steer(term):
        assert hf_chains(model, PROMPTS, 12, logits_processor=[between]) == expected


def test_own_passes_are_left_alone_and_no_others(model) -> None:
    ids = torch.tensor([model.render(PROMPTS[0])])

    def logits():
        return model.hf(input_ids=ids).logits

    decoder = model.hf.get_decoder()
    plain, states = logits(), decoder(input_ids=ids)[0]
    with model.steer(2.0 * direction()):
        steered = logits()
        with model.own_passes():
            # the decoder alone tells nobody of its passes
            assert torch.equal(decoder(input_ids=ids)[0], states)
            assert torch.equal(logits(), plain) and not torch.equal(plain, steered)
            with model.own_passes():
                assert torch.equal(logits(), plain)
            assert torch.equal(logits(), plain)
        assert torch.equal(logits(), steered)
        with pytest.raises(PlantedError), model.own_passes():
            raise PlantedError
        assert torch.equal(logits(), steered)
    with model.own_passes():
        assert torch.equal(logits(), plain)


def test_a_copy_made_inside_the_context_is_not_edited_through_the_original(model) -> None:
    ids = torch.tensor([model.render(PROMPTS[0])])
    plain = model.hf(input_ids=ids).logits
    with model.steer(2.0 * direction()):
        steered = model.hf(input_ids=ids).logits
        twin = copy.deepcopy(model)
        assert torch.equal(twin.hf(input_ids=ids).logits, plain)
        assert torch.equal(model.hf(input_ids=ids).logits, steered)
    assert not torch.equal(plain, steered)
