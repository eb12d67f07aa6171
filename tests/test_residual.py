"""Hook points show Hugging Face's own hidden states, and leave nothing behind."""

from __future__ import annotations

import copy
import gc
from collections import Counter
from contextlib import contextmanager, suppress

import pytest
import torch
from torch import nn

import steerkit as sk
from steerkit.errors import ModelError
from steerkit.models import ThinkingModel
from steerkit.residual import ResidualStream, StopForward, decoder_layers
from steerkit.training.tokenizer import build_tokenizer
from tests.tiny import ARCHITECTURES, LAYERS, tiny_hf, tiny_model

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def some_ids(model: ThinkingModel, rows: int = 2, length: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = len(model.tokenizer)
    return torch.randint(8, size, (rows, length), generator=generator)


def hooks_on(hf: nn.Module) -> Counter[str]:
    """Forward hooks of every kind on every module of the model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return Counter({kind: sum(len(getattr(m, kind)) for m in hf.modules()) for kind in kinds})


def hooks_in(residual: ResidualStream) -> int:
    points = residual.hook_dict.values()
    return sum(len(p._forward_hooks) + len(p.fwd_hooks) + len(p.bwd_hooks) for p in points)


@contextmanager
def counted(hf: nn.Module):
    """Count how often each module runs."""
    calls: Counter[str] = Counter()

    def hook(name: str):
        return lambda *_: calls.update([name])

    # before the module: a module whose own hook ends the pass has run all the same
    handles = [m.register_forward_pre_hook(hook(name)) for name, m in hf.named_modules()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@every_architecture
@torch.no_grad()
def test_values_equal_hugging_face_hidden_states_exactly(architecture: str) -> None:
    model = tiny_model(architecture)
    ids = some_ids(model)
    expected = model.hf(ids, output_hidden_states=True).hidden_states
    output, cache = model.residual.run_with_cache(ids)
    assert len(expected) == LAYERS + 1
    for n in range(LAYERS):
        assert torch.equal(cache[f"blocks.{n}.hook_resid_pre"], expected[n])
        post = cache[f"blocks.{n}.hook_resid_post"]
        if n < LAYERS - 1:
            assert torch.equal(post, expected[n + 1])
        else:  # Hugging Face's last entry comes after the final norm
            assert torch.equal(model.hf.get_decoder().norm(post), expected[n + 1])
            assert not torch.allclose(post, expected[n + 1])
    assert torch.equal(output.logits, model.hf(ids).logits)


@torch.no_grad()
def test_the_comparison_sees_another_layer() -> None:
    model = tiny_model()
    ids = some_ids(model)
    expected = model.hf(ids, output_hidden_states=True).hidden_states
    _, cache = model.residual.run_with_cache(ids)
    assert not torch.allclose(cache["blocks.0.hook_resid_post"], expected[0], atol=1e-2)
    assert not torch.allclose(cache["blocks.0.hook_resid_post"], expected[2], atol=1e-2)


@every_architecture
@torch.no_grad()
def test_layers_above_the_stop_and_the_head_never_run(architecture: str) -> None:
    model = tiny_model(architecture)
    layers = decoder_layers(model.hf)
    names = {module: name for name, module in model.hf.named_modules()}
    head = names[model.hf.get_output_embeddings()]
    norm = names[model.hf.get_decoder().norm]
    for stop in range(LAYERS):
        with counted(model.hf) as calls, model.residual.stop_after(stop):
            with pytest.raises(StopForward):
                model.residual(some_ids(model))
        assert [calls[names[layer]] for layer in layers] == [int(n <= stop) for n in range(LAYERS)]
        assert calls[head] == 0 and calls[norm] == 0
    with counted(model.hf) as calls:  # the count can see them
        model.residual(some_ids(model))
    assert calls[head] == 1 and calls[norm] == 1
    assert all(calls[names[layer]] == 1 for layer in layers)


@torch.no_grad()
def test_a_hook_at_the_stop_still_reads_and_contexts_nest() -> None:
    model = tiny_model()
    ids = some_ids(model)
    expected = model.hf(ids, output_hidden_states=True).hidden_states
    seen: list[torch.Tensor] = []
    with model.residual.stop_after(2), model.residual.stop_after(1):
        with model.residual.hooked(1, lambda h, hook: seen.append(h)), suppress(StopForward):
            model.residual(ids)
    assert len(seen) == 1 and torch.equal(seen[0], expected[2])
    model.residual(ids)  # both stops are gone


@every_architecture
@torch.no_grad()
def test_an_edit_changes_what_comes_after_and_nothing_before(architecture: str) -> None:
    model = tiny_model(architecture)
    ids = some_ids(model)
    plain_output, plain = model.residual.run_with_cache(ids)
    step = torch.linspace(-1, 1, model.d_model)
    with model.residual.hooked(1, lambda h, hook: h + step):
        output, cache = model.residual.run_with_cache(ids)
    for name in ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"):
        assert torch.equal(cache[name], plain[name])
    assert torch.equal(cache["blocks.2.hook_resid_pre"], plain["blocks.1.hook_resid_post"] + step)
    assert not torch.equal(output.logits, plain_output.logits)
    assert torch.equal(model.hf(ids).logits, plain_output.logits)


@torch.no_grad()
def test_transformer_lens_names_and_calls_work() -> None:
    model = tiny_model()
    residual, ids = model.residual, some_ids(model)
    names = [f"blocks.{n}.hook_resid_{side}" for n in range(LAYERS) for side in ("pre", "post")]
    assert set(residual.hook_dict) == set(names)
    _, few = residual.run_with_cache(ids, names_filter=lambda name: name.endswith("post"))
    assert set(few) == {name for name in names if name.endswith("post")}
    plain = model.hf(ids).logits

    def zero(hidden: torch.Tensor, hook: object) -> torch.Tensor:
        return torch.zeros_like(hidden)

    hooked = residual.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_resid_post", zero)]).logits
    assert not torch.equal(hooked, plain)
    with residual.hooks(fwd_hooks=[("blocks.1.hook_resid_post", zero)]):
        assert torch.equal(residual(ids).logits, hooked)
    # pre of a layer is post of the one below
    before = residual.run_with_hooks(ids, fwd_hooks=[("blocks.2.hook_resid_pre", zero)]).logits
    assert torch.equal(before, hooked)
    residual.add_hook("blocks.1.hook_resid_post", zero)
    assert torch.equal(model.hf(ids).logits, hooked)
    residual.reset_hooks()
    assert torch.equal(model.hf(ids).logits, plain)
    assert hooks_in(residual) == 0


def test_gradients_reach_every_hook_point() -> None:
    model = tiny_model()
    norms: dict[str, float] = {}

    def keep(gradient: torch.Tensor, hook: object) -> None:
        norms[hook.name] = float(gradient.norm())  # type: ignore[attr-defined]

    start = model.hf.get_input_embeddings()(some_ids(model)).requires_grad_()
    with model.residual.hooks(bwd_hooks=[(lambda name: name.endswith("post"), keep)]):
        model.residual(inputs_embeds=start).logits.logsumexp(-1).sum().backward()
    assert len(norms) == LAYERS and all(norm > 0 for norm in norms.values())


@torch.no_grad()
def test_the_users_own_hooks_and_ours_live_side_by_side() -> None:
    model = tiny_model()
    ids, seen = some_ids(model), Counter[str]()
    residual = model.residual
    residual.add_hook("blocks.0.hook_resid_post", lambda h, hook: seen.update(["user"]))
    with residual.hooked(0, lambda h, hook: seen.update(["ours"])):
        residual.run_with_cache(ids, reset_hooks_end=False)
    residual(ids)
    assert seen == {"user": 2, "ours": 1}
    residual.reset_hooks()


@torch.no_grad()
def test_nothing_is_left_behind() -> None:
    hf = tiny_hf()
    bare = hooks_on(hf)
    residual = ResidualStream(hf)
    ids = torch.arange(8, 20)[None]
    attached, plain = hooks_on(hf), hf(ids).logits
    assert attached.total() == bare.total() + 2 * LAYERS

    def clean() -> bool:
        return (
            hooks_on(hf) == attached
            and hooks_in(residual) == 0
            and torch.equal(hf(ids).logits, plain)
        )

    assert clean()
    with residual.hooked(1, lambda h, hook: h * 2):
        assert hooks_in(residual) > 0  # the check can fail
        residual(ids)
    assert clean()

    def broken(hidden: torch.Tensor, hook: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), residual.hooked(1, broken):
        residual(ids)
    assert clean()
    with pytest.raises(KeyboardInterrupt), residual.hooked(2, lambda h, hook: None):
        raise KeyboardInterrupt
    assert clean()
    with residual.stop_after(1), residual.hooked(0, lambda h, hook: h * 2):
        with suppress(StopForward):
            residual(ids)
    assert clean()
    with pytest.raises(ZeroDivisionError), residual.stop_after(0):
        raise ZeroDivisionError
    assert clean()
    with residual.hooked(1, lambda h, hook: h * 2), pytest.raises(IndexError):
        residual(torch.full((1, 2), 10**6))  # fails before any layer runs
    assert clean()
    residual.detach()
    assert hooks_on(hf) == bare
    residual.attach()
    residual.attach()
    assert clean()


@torch.no_grad()
def test_loading_a_model_in_memory_again_leaves_one_set_of_hooks() -> None:
    hf, tokenizer, ids = tiny_hf(), build_tokenizer(), torch.arange(8, 20)[None]
    plain = hf(ids).logits
    model = sk.load(hf, tokenizer=tokenizer)
    once = hooks_on(hf)
    model.residual.add_hook("blocks.1.hook_resid_post", lambda h, hook: h * 0)
    assert not torch.equal(hf(ids).logits, plain)
    for _ in range(3):
        model = sk.load(hf, tokenizer=tokenizer)  # the cell of a notebook, run again
        gc.collect()
        assert hooks_on(hf) == once
    assert torch.equal(hf(ids).logits, plain)  # what hung on the earlier stream is gone too
    other = sk.load(hf, tokenizer=tokenizer)  # both are in use: both stay
    assert hooks_on(hf).total() == 2 * once.total()
    for each in (model, other):
        assert len(each.residual.run_with_cache(ids)[1]) == 2 * LAYERS
    del model, other, each
    gc.collect()
    assert hooks_on(hf).total() == 0


@torch.no_grad()
def test_a_copied_model_is_deaf_to_the_hooks_of_the_original() -> None:
    model, ids = tiny_model(), torch.arange(8, 20)[None]
    twin = copy.deepcopy(model.hf)
    plain = twin(ids).logits
    seen: list[int] = []
    residual = model.residual
    with residual.hooked(1, lambda h, hook: seen.append(1) or h * 0), residual.stop_after(2):
        assert torch.equal(twin(ids).logits, plain) and not seen
    second = sk.load(twin, tokenizer=model.tokenizer)
    with second.residual.hooked(1, lambda h, hook: seen.append(2) or h * 0):
        assert not torch.equal(twin(ids).logits, plain)
        assert torch.equal(model.hf(ids).logits, plain)
    assert seen == [2]


@torch.no_grad()
def test_a_copied_thinking_model_has_a_stream_of_its_own() -> None:
    model, ids = tiny_model(), torch.arange(8, 20)[None]
    twin = copy.deepcopy(model)
    plain = model.hf(ids).logits
    with twin.residual.hooked(1, lambda h, hook: h * 0):
        assert not torch.equal(twin.hf(ids).logits, plain)
        assert torch.equal(model.hf(ids).logits, plain)


@torch.no_grad()
def test_the_model_is_not_owned_or_changed() -> None:
    hf = tiny_hf()
    before = {name: type(module) for name, module in hf.named_modules()}
    ids = torch.arange(8, 20)[None]
    plain = hf(ids).logits
    residual = ResidualStream(hf)
    assert {name: type(module) for name, module in hf.named_modules()} == before
    assert not list(residual.parameters())
    assert torch.equal(residual(ids).logits, plain)


@torch.no_grad()
def test_a_hook_that_never_fires_is_an_error() -> None:
    model = tiny_model()
    ids = some_ids(model)
    with pytest.raises(ModelError, match="layer 2 never fired"):
        with model.residual.hooked(2, lambda h, hook: None), model.residual.stop_after(0):
            with suppress(StopForward):
                model.residual(ids)
    assert hooks_in(model.residual) == 0
    with model.residual.hooked(2, lambda h, hook: None):
        pass  # no forward pass: nothing to complain about
    with model.residual.hooked(2, lambda h, hook: None):
        model.residual(ids)


def test_unknown_layers_and_models_without_layers_are_named() -> None:
    model = tiny_model()
    for layer in (-1, LAYERS):
        with (
            pytest.raises(ModelError, match=rf"layer {layer} does not exist.*0 to {LAYERS - 1}"),
            model.residual.hooked(layer, lambda h, hook: None),
        ):
            pass
        with pytest.raises(ModelError, match="does not exist"), model.residual.stop_after(layer):
            pass
    with pytest.raises(ModelError, match=r"decoder layers.*Linear"):
        ResidualStream(nn.Linear(2, 2))


@every_architecture
@torch.no_grad()
def test_hugging_face_generate_runs_through_the_hook_points(architecture: str) -> None:
    model = tiny_model(architecture)
    ids = some_ids(model, rows=1, length=10)
    settings = {
        "max_new_tokens": 4,
        "do_sample": False,
        "eos_token_id": None,
        "attention_mask": torch.ones_like(ids),
    }
    plain = model.hf.generate(ids, **settings)
    lengths: list[int] = []
    with model.residual.hooked(1, lambda h, hook: lengths.append(h.shape[1])):
        assert torch.equal(model.hf.generate(ids, **settings), plain)
    assert lengths == [10, 1, 1, 1]  # the prompt, then token by token under the cache
    with model.residual.hooked(1, lambda h, hook: torch.zeros_like(h)):
        assert not torch.equal(model.hf.generate(ids, **settings), plain)
