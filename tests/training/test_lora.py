import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from steerkit.adapters import CONFIG, WEIGHTS
from steerkit.errors import TrainingError
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.lora import lora, round_matrices, target_layers, weights_digest
from tests.tiny import tiny_hf, tiny_model
from tests.training.adapters import shaken, written_adapter

IDS = torch.arange(3, 40)[None]


def logits(hf):
    with torch.no_grad():
        return hf(IDS).logits


def config(model, **options):
    return AdapterConfig(targets=target_layers(model, ()), **options)


def test_a_new_adapter_changes_no_bit_and_leaves_nothing_behind():
    model = tiny_model()
    model.hf.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    model.hf.model.layers[1].train()
    before = logits(model.hf)
    kinds = [(n, type(m), m.training) for n, m in model.hf.named_modules()]
    grads = [(n, p.requires_grad) for n, p in model.hf.named_parameters()]
    for problem in (None, ValueError):
        try:
            with lora(model, config(model)):
                assert torch.equal(logits(model.hf), before)
                names = [n for n, p in model.hf.named_parameters() if p.requires_grad]
                assert names and all("lora_" in name for name in names)
                assert all(
                    dict(model.hf.named_parameters())[n].dtype == torch.float32 for n in names
                )
                assert not any(
                    m.training for n, m in model.hf.named_modules() if "dropout" not in n
                )
                if problem:
                    raise problem
        except ValueError:
            pass
        assert [(n, type(m), m.training) for n, m in model.hf.named_modules()] == kinds
        assert [(n, p.requires_grad) for n, p in model.hf.named_parameters()] == grads
        assert torch.equal(logits(model.hf), before)


def test_matrices_follow_from_the_seed_and_no_generator_is_moved():
    def first(seed):
        model = tiny_model()
        with lora(model, config(model, seed=seed)):
            return {
                n: p.detach().clone() for n, p in model.hf.named_parameters() if p.requires_grad
            }

    state = torch.get_rng_state()
    one, same, other = first(0), first(0), first(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if "lora_A" in name)


def test_half_precision_weights_get_float32_matrices():
    model = tiny_model()
    model.hf.to(torch.bfloat16)
    with lora(model, config(model)) as adapted:
        kinds = {p.dtype for p in adapted.parameters() if p.requires_grad}
        assert kinds == {torch.float32} and logits(model.hf).dtype == torch.bfloat16


def test_layers_to_adapt_are_those_that_are_there():
    model = tiny_model()
    usual = ("gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert target_layers(model, ()) == usual
    assert target_layers(model, ("down_proj",)) == ("down_proj",)
    assert target_layers(tiny_model("phi3"), ()) == ("gate_up_proj", "o_proj", "qkv_proj")
    with pytest.raises(TrainingError, match=r"expected some of down_proj.*found c_attn"):
        target_layers(model, ("q_proj", "c_attn"))


def test_at_rank_8_an_adapter_of_the_1_5b_shape_fits_in_15_megabytes():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2}
    with torch.device("meta"):
        hf = Qwen2ForCausalLM(Qwen2Config(**shape, **heads, vocab_size=64))
    model = tiny_model()
    model.hf = hf

    def size(names):
        linear = [
            m
            for n, m in hf.named_modules()
            if isinstance(m, nn.Linear) and n.rpartition(".")[2] in names
        ]
        return 2 * sum(8 * (m.in_features + m.out_features) for m in linear)

    assert size(target_layers(model, ())) == 2 * 6_881_280 < 15e6
    assert size((*target_layers(model, ()), "down_proj")) > 15e6  # why it is left out


def test_a_digest_tells_weights_apart_but_not_number_formats():
    model, rounded = tiny_model(), tiny_model()
    rounded.hf.to(torch.bfloat16)
    halves = weights_digest(rounded)
    rounded.hf.float()
    assert weights_digest(rounded) == halves != weights_digest(model)
    assert (
        weights_digest(tiny_model()) == weights_digest(model) != weights_digest(tiny_model(seed=1))
    )


def test_what_is_written_is_what_peft_reads_and_the_same_bytes_each_time(tmp_path: Path):
    model = tiny_model()
    folder = written_adapter(tmp_path / "a", model, shaken)
    again = written_adapter(tmp_path / "b", tiny_model(), shaken)
    for name in (CONFIG, WEIGHTS, "README.md", "training.json"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()
    stored = load_file(folder / WEIGHTS)
    assert {matrix.dtype for matrix in stored.values()} == {torch.float16}
    described = json.loads((folder / CONFIG).read_text())
    assert described["base_model_name_or_path"] == "tiny-qwen2" and described["r"] == 8
    assert described["target_modules"] == sorted(described["target_modules"])
    read = peft.PeftModel.from_pretrained(tiny_hf(), str(folder))
    expected = tiny_model()
    with lora(expected, config(expected)) as adapted:
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(shaken(name, parameter.detach()))
        torch.testing.assert_close(logits(read), logits(expected.hf), rtol=0, atol=0)
        assert not torch.allclose(logits(read), logits(tiny_hf()), atol=0.1)  # it does something


def test_rounding_refuses_what_float16_cannot_hold():
    model = tiny_model()
    with lora(model, config(model)) as adapted:
        _, first = next((n, p) for n, p in adapted.named_parameters() if p.requires_grad)
        round_matrices(adapted)
        assert torch.equal(first, first.half().float())
        first.data[0, 0] = 1e6
        with pytest.raises(TrainingError, match=r"out of bounds.*lower learning rate"):
            round_matrices(adapted)
