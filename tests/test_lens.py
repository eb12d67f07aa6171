"""The lens against plain multiplication, derivatives of the model's own logits, and plants."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import steerkit as sk
from steerkit.errors import ModelError, SteeringError, VectorsError
from steerkit.lens import TIED, final_norm, logit_lens, norm_scale, tied_embedding
from steerkit.models import ThinkingModel
from steerkit.training.tokenizer import build_tokenizer
from tests.test_steering import direction
from tests.tiny import ARCHITECTURES, LAYERS, WIDTH, tiny_model

LAST = LAYERS - 1
D = direction(layer=LAST)


def with_scales(model: ThinkingModel, *, seed: int = 3) -> ThinkingModel:
    """The model with a final norm whose scale is not that of a new model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in final_norm(model.hf).parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 - 0.5)
    return model


def other_model(name: str) -> ThinkingModel:
    """Architectures that center, name their norm otherwise, or have biases."""
    import transformers

    tokenizer = build_tokenizer()
    common = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    common["initializer_range"] = 0.3  # states large enough that the norm's epsilon is nothing
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    made = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=2, **common)
        ),
        "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(
            transformers.GPTNeoXConfig(intermediate_size=48, **shape, **common)
        ),
        "phi": lambda: transformers.PhiForCausalLM(
            transformers.PhiConfig(intermediate_size=48, **shape, **common)
        ),
        "stablelm": lambda: transformers.StableLmForCausalLM(
            transformers.StableLmConfig(
                intermediate_size=48, num_key_value_heads=2, **shape, **common
            )
        ),
        "cohere": lambda: transformers.CohereForCausalLM(
            transformers.CohereConfig(intermediate_size=48, pad_token_id=0, **shape, **common)
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = made[name]().eval().requires_grad_(False)
    return ThinkingModel(hf, tokenizer, name=name)


OTHERS = ("gpt2", "gpt_neox", "phi", "stablelm", "cohere")
CENTERS = {name: name in OTHERS for name in (*ARCHITECTURES, *OTHERS)}


def made(name: str) -> ThinkingModel:
    # without Gemma's soft cap, which squeezes logits after the unembedding
    cap = {"final_logit_softcapping": None} if name.startswith("gemma") else {}
    return with_scales(other_model(name) if name in OTHERS else tiny_model(name, **cap))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_a_plain_multiplication_bit_for_bit(architecture) -> None:
    model = with_scales(tiny_model(architecture))
    weight = model.hf.model.norm.weight
    gamma = 1 + weight if architecture.startswith("gemma") else weight
    u = D.tensor[LAST] / D.tensor[LAST].norm()
    expected = model.hf.lm_head.weight @ (gamma * u)
    table = logit_lens(model, D, top=1000)
    assert list(table) == ["token_id", "token", "logit", "sign"]
    for sign in ("up", "down"):
        found = table[table["sign"] == sign]
        assert sorted(found["token_id"]) == list(range(len(expected)))
        values = torch.tensor(found["logit"].to_numpy(), dtype=torch.float32)
        assert torch.equal(values, expected[found["token_id"].tolist()])
        assert torch.equal(values, values.sort(descending=sign == "up").values)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS])
def test_logits_are_how_the_models_own_logits_change(name) -> None:
    """A push at the last layer, orthogonal to what is there, by finite differences in float64."""
    model = made(name)
    model.hf.double()
    ids = torch.tensor([model.render("Use 3, 7, 8 to make 29.")])
    seen: list[torch.Tensor] = []
    with torch.no_grad(), model.residual.hooked(LAST, lambda h, hook: seen.append(h.clone())):
        model.hf(input_ids=ids)
    hidden = seen[0][0, -1]
    _, centers = norm_scale(model)
    assert centers == CENTERS[name]
    around = hidden - hidden.mean() if centers else hidden
    push = D.tensor[LAST].double()
    push = push - (push @ around) / (around @ around) * around
    push /= push.norm()

    def logits(step: float) -> torch.Tensor:
        with torch.no_grad(), model.residual.hooked(LAST, lambda h, hook: h + step * push):
            return model.hf(input_ids=ids).logits[0, -1]

    # some norms work in float32 whatever they are given: steps must not be too small
    scale = float(around.square().mean().sqrt())
    slope = (logits(0.01 * scale) - logits(-0.01 * scale)) / 0.02
    slope /= float(getattr(model.hf, "logit_scale", 1.0))
    table = logit_lens(model, push.float(), top=1000)
    up = table[table["sign"] == "up"].sort_values("token_id")
    found = torch.tensor(up["logit"].to_numpy())
    torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-3 * float(slope.abs().max()))
    # the scale matters: without it the reading is another one
    bare = model.hf.get_output_embeddings().weight.double() @ push
    assert not torch.allclose(bare, slope, rtol=1e-2, atol=1e-2 * float(slope.abs().max()))


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])
def test_it_reads_what_the_bridge_holds(architecture) -> None:
    model = with_scales(tiny_model(architecture))
    bridge = model.bridge()
    u = D.tensor[LAST] / D.tensor[LAST].norm()
    with torch.no_grad():
        gamma = bridge.ln_final.w.float()
        gamma = gamma + 1 if architecture == "gemma2" else gamma
        expected = (gamma * u) @ bridge.W_U
    for reader in (model, sk.load(bridge, tokenizer=model.tokenizer, name="bridged")):
        table = logit_lens(reader, D, top=1000)
        up = table[table["sign"] == "up"].sort_values("token_id")
        values = torch.tensor(up["logit"].to_numpy(), dtype=torch.float32)
        torch.testing.assert_close(values, expected[: len(values)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2", "gemma3", "gpt2"])
def test_the_row_of_a_token_reads_that_token_first(name) -> None:
    model = other_model(name) if name in OTHERS else tiny_model(name)
    rows = model.hf.get_output_embeddings().weight
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-6) * float(rows.norm(dim=1).mean())
    with torch.no_grad():
        model.hf.get_output_embeddings().weight.copy_(rows)
    for token in (5, 60, 200):
        for vector, sign in ((rows[token], "up"), (-3 * rows[token], "down")):
            tensor = torch.zeros(LAYERS, WIDTH)
            tensor[1] = vector
            table = logit_lens(model, replace(D, tensor=tensor), layer=1, top=4)
            first = table[table["sign"] == sign].iloc[0]
            assert first["token_id"] == token
            assert first["token"].strip() == model.tokenizer.convert_ids_to_tokens(token).strip()
            assert len(table) == 8 and table.attrs["layer"] == 1


def test_the_layer_is_the_suggested_one_unless_named() -> None:
    model, d = tiny_model(), direction(layer=1)
    default = logit_lens(model, d)
    assert len(default) == 20 and list(default["sign"]) == ["up"] * 10 + ["down"] * 10
    assert default.equals(logit_lens(model, d, layer=1)) and default.attrs["layer"] == 1
    assert not default.equals(logit_lens(model, d, layer=0))
    assert default.attrs["behavior"] == "backtracking"
    bare = logit_lens(model, 7 * d.tensor[1])
    torch.testing.assert_close(
        torch.tensor(bare["logit"].to_numpy()), torch.tensor(default["logit"].to_numpy())
    )
    assert bare.attrs["behavior"] is None and bare.attrs["layer"] is None


def test_a_tied_embedding_is_said_to_be_one() -> None:
    for tied in (True, False):
        model = tiny_model(tie_word_embeddings=tied)
        table = logit_lens(model, D)
        assert tied_embedding(model) == table.attrs["tied"] == tied
        assert table.attrs.get("note") == (TIED if tied else None)


def test_rows_that_are_no_token_are_left_out() -> None:
    tokens = len(build_tokenizer())
    model = tiny_model(vocab_size=tokens + 40, tie_word_embeddings=False)
    with torch.no_grad():
        model.hf.lm_head.weight[tokens:] = 100 * D.tensor[LAST]
    assert model.vocabulary == tokens
    table = logit_lens(model, D, top=1000)
    assert table["token_id"].max() == tokens - 1 and len(table) == 2 * tokens
    values = model.hf.lm_head.weight @ D.tensor[LAST]
    assert int(values.argmax()) >= tokens, "they would have come first"


def test_half_precision_and_quantised_unembeddings_are_read() -> None:
    model = with_scales(tiny_model(tie_word_embeddings=False))
    exact = logit_lens(model, D, top=1000).set_index("token_id")["logit"]
    exact = exact[~exact.index.duplicated()]
    size = float(exact.abs().max())
    head = model.hf.lm_head
    model.hf.set_output_embeddings(_Opaque(head))  # a module whose weights are not to be had
    called = logit_lens(model, D, top=1000).set_index("token_id")["logit"]
    called = called[~called.index.duplicated()].loc[exact.index]
    assert float((called - exact).abs().max()) < 1e-5 * size
    model.hf.set_output_embeddings(head)
    for name in ("qwen2", "gemma2"):
        model = with_scales(tiny_model(name))
        whole = logit_lens(model, D, top=1000)
        model.hf.bfloat16()
        half = logit_lens(model, D, top=1000)
        both = [
            t[t["sign"] == "up"].sort_values("token_id")["logit"].to_numpy() for t in (whole, half)
        ]
        assert 0 < abs(both[0] - both[1]).max() < 0.02 * abs(both[0]).max()


class _Opaque(nn.Module):
    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self._head = (head,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._head[0](x) + 3.0  # a bias, which does not count


def test_offloaded_weights_are_read(tmp_path) -> None:
    model = with_scales(tiny_model())
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    expected = logit_lens(model, D)
    places = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.rotary_emb": "cpu"}
    away = sk.load(tmp_path, device_map={**places, "model.norm": "disk", "lm_head": "cpu"})
    assert final_norm(away.hf).weight.device.type == "meta"
    found = logit_lens(away, D)
    assert list(found["token_id"]) == list(expected["token_id"])


class _Squash(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_read_is_named() -> None:
    model = tiny_model()
    with pytest.raises(VectorsError, match=r"do(es)? not fit.*width 32; found width 8"):
        logit_lens(model, torch.ones(8))
    with pytest.raises(SteeringError, match=r"no layer was chosen for 'backtracking'.*0 to 2"):
        logit_lens(model, direction(layer=None))
    with pytest.raises(SteeringError, match="at layer 9"):
        logit_lens(model, D, layer=9)
    with pytest.raises(SteeringError, match="is zero at layer 2"):
        logit_lens(model, replace(D, tensor=torch.zeros(LAYERS, WIDTH)))
    for vector in (torch.zeros(WIDTH), torch.full((WIDTH,), torch.nan)):
        with pytest.raises(SteeringError, match="points nowhere"):
            logit_lens(model, vector)
    with pytest.raises(SteeringError, match="bare vector has no layers"):
        logit_lens(model, torch.ones(WIDTH), layer=1)
    for top in (0, -1, True):
        with pytest.raises(SteeringError, match="from 1 on"):
            logit_lens(model, D, top=top)
    model.hf.model.norm = _Squash()
    with pytest.raises(ModelError, match=r"unknown kind.*RMSNorm or LayerNorm.*_Squash"):
        logit_lens(model, D)
    del model.hf.model.norm
    with pytest.raises(ModelError, match=r"cannot find the final norm.*final_layernorm"):
        logit_lens(model, D)
    headless = SimpleNamespace(get_output_embeddings=lambda: None)
    model.hf = headless
    with pytest.raises(ModelError, match="has no unembedding"):
        logit_lens(model, D)
