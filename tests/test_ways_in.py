"""Bridges, spread and offloaded weights, and 8-bit weights are steered like a plain model."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import steerkit as sk
from tests.test_generation import PROMPTS
from tests.test_steering import direction
from tests.tiny import tiny_hf, tiny_model

OPTIONS = {"max_new_tokens": 12, "temperature": 0.0}
TERM = 2.0 * direction()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = tiny_model()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def chains(model, **options):
    return [t.token_ids for t in model.generate(PROMPTS, **OPTIONS, **options)]


@pytest.fixture(scope="module")
def expected():
    model = tiny_model()
    steered, plain = chains(model, steer=TERM), chains(model)
    assert steered != plain
    return steered, plain


def test_a_users_own_bridge_is_steered(expected) -> None:
    model = tiny_model()
    bridged = sk.load(model.bridge(), tokenizer=model.tokenizer, name="bridged")
    assert (chains(bridged, steer=TERM), chains(bridged)) == expected
    rows = bridged.generate([PROMPTS[0]] * 3, steer=[TERM, None, -1.0 * TERM], **OPTIONS)
    assert [rows[0].token_ids, rows[1].token_ids] == [expected[0][0], expected[1][0]]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_weights_on_disk_are_steered(folder, expected, layer) -> None:
    """accelerate loads a layer's weights when it runs; the hooks do not mind."""
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= {f"model.layers.{n}": "disk" if n == layer else "cpu" for n in range(3)}
    model = sk.load(folder, device_map={**places, "lm_head": "cpu"})
    assert (chains(model, steer=TERM), chains(model)) == expected
    # steered by a context, in Hugging Face's own generation
    ids = torch.tensor([model.render(PROMPTS[0])])
    with model.steer(TERM):
        found = model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            temperature=None,
            pad_token_id=model.pad_id,
        )
    assert tuple(found[0, ids.shape[1] :].tolist()[:12])[: len(expected[0][0])] == expected[0][0]


def test_eight_bit_weights_are_steered_exactly() -> None:
    """PyTorch's own dynamic quantisation: linear layers in int8, the stream in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf = torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(tiny_hf()), {torch.nn.Linear}, dtype=torch.qint8
        )
    model = sk.load(hf, tokenizer=tiny_model().tokenizer, name="int8")
    (trace,) = model.generate(PROMPTS[0], steer=TERM, **OPTIONS)
    assert trace.token_ids != model.generate(PROMPTS[0], **OPTIONS)[0].token_ids
    ids = torch.tensor([model.render(PROMPTS[0])])
    seen = []
    with torch.no_grad():
        for terms in ((), (TERM,)):
            with model.steer(*terms):
                model.hf(input_ids=ids)  # the edit's hooks are there from the first pass on
                with model.residual.hooked(1, lambda h, hook: seen.append(h.clone())):
                    model.hf(input_ids=ids)
    push = (seen[1] - seen[0])[0]
    torch.testing.assert_close(push, TERM.direction.vector(1).expand_as(push) * 2.0)
    table = model.read(trace, direction())
    assert table["projection"].notna().all() and len(table) == len(trace.token_ids)
