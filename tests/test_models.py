"""A thinking model: think strings, prompts and ids, whatever its template and tokenizer."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.errors import GenerationError, ModelError
from steerkit.models import check_length, unknown_words
from steerkit.positions import PROMPT, THINK
from steerkit.traces import Trace
from steerkit.training.tokenizer import build_tokenizer
from tests.test_loading import logits
from tests.tiny import LAYERS, tiny_hf, tiny_model

PROMPT_TEXT = "Use 3, 7, 8 to make 29."
OLD_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def plain_tokenizer() -> object:
    """A tokenizer to which think strings are plain text, with a template that has none."""
    tokenizer = build_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if "think" not in t["content"]]
    vocabulary = state["model"]["vocab"]
    for text in ("<think>", "</think>"):  # the ids stay, under names that no text spells
        vocabulary[f"unused {text}"] = vocabulary.pop(text)
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    return type(tokenizer)(
        tokenizer_object=backend,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        chat_template=OLD_TEMPLATE,
    )


def test_a_model_without_think_strings_is_told_how_to_name_them() -> None:
    tokenizer = plain_tokenizer()
    with pytest.raises(ModelError, match=r'no think strings.*think=\("<think>", "</think>"\)'):
        sk.load(tiny_hf(), tokenizer=tokenizer)
    model = sk.load(tiny_hf(), tokenizer=tokenizer, think=("<think>", "</think>"))
    assert model.think == ("<think>", "</think>") and model.closing_id is None
    assert tiny_model().closing_id == build_tokenizer().convert_tokens_to_ids("</think>")
    for think in (("<think>",), ("", "</think>"), ("a", "b", "c"), ("a", 3)):
        with pytest.raises((ModelError, TypeError), match=r"unusable|think"):
            sk.load(tiny_hf(), tokenizer=tokenizer, think=think)


@pytest.mark.parametrize("think", [("<think>", "</think>"), ("(start)", "(stop)")])
def test_plain_text_think_strings_align(think: tuple[str, str]) -> None:
    model = sk.load(tiny_hf(), tokenizer=plain_tokenizer(), think=think)
    assert not model.opens_thinking
    response = f"{think[0]}\nI need to try 3 + 8 = 11.\n{think[1]}\nThe answer is 3."
    chain = model.align(Trace("c", "t", response, prompt=PROMPT_TEXT))
    inside = [chain.offsets[i - chain.prompt_length] for i in range(*chain.thinking)]
    assert response[inside[0][0] : inside[-1][1]].strip() == "I need to try 3 + 8 = 11."
    phases = chain.phases.tolist()
    # a model whose think strings are plain text is taken to think from its first token on
    assert phases.index(THINK) == chain.prompt_length - 1 < chain.thinking[0] - 1
    assert phases[chain.prompt_length - 2] == PROMPT and not model.waits_for_opening


def test_a_template_that_opens_thinking_and_one_that_does_not() -> None:
    tokenizer = build_tokenizer()
    newer = sk.load(tiny_hf(), tokenizer=tokenizer)
    old_tokenizer = build_tokenizer()
    old_tokenizer.chat_template = OLD_TEMPLATE
    older = sk.load(tiny_hf(), tokenizer=old_tokenizer)
    assert newer.opens_thinking and not older.opens_thinking
    thought = "\nI need to try 3 + 8 = 11.\n</think>\nThe answer is 3."
    bare = Trace("bare", "t", thought.lstrip(), prompt=PROMPT_TEXT)
    opened = Trace("opened", "t", "<think>" + thought, prompt=PROMPT_TEXT)
    opening = tokenizer.convert_tokens_to_ids("<think>")
    a, b, c = newer.align(bare), newer.align(opened), older.align(opened)
    # one opening string, wherever it was written; then the same tokens to the model
    for chain in (a, b, c):
        assert chain.ids.count(opening) == 1
    assert a.ids == b.ids == c.ids
    assert a.phases.tolist()[a.prompt_length - 1] == THINK
    for chain in (b, c):
        at = chain.ids.index(opening)
        assert at == chain.prompt_length
        assert chain.phases.tolist()[at - 1 : at + 1] == [PROMPT, THINK]
    assert [tokenizer.decode(x.ids[x.thinking[0] : x.thinking[1]]).strip() for x in (a, b, c)] == [
        "I need to try 3 + 8 = 11."
    ] * 3


def test_without_a_chat_template_the_prompt_is_read_as_it_is() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    model = sk.load(tiny_hf(), tokenizer=tokenizer)
    assert model.render_text(PROMPT_TEXT) == PROMPT_TEXT and not model.opens_thinking
    assert tokenizer.decode(model.render(PROMPT_TEXT)) == PROMPT_TEXT
    bare = model.align(Trace("c", "t", "<think>\nI do not know.", prompt=None))
    assert bare.ids[0] == tokenizer.bos_token_id and bare.prompt_length == 1


@pytest.fixture(scope="module")
def r1_tokenizer(reference: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(reference / "tokenizer-deepseek-r1-distill-qwen")


def test_the_r1_tokenizer_and_both_styles_of_its_template_align(r1_tokenizer) -> None:
    older_template = r1_tokenizer.chat_template
    generation = "{{'<｜Assistant｜>'}}{% endif %}"
    assert older_template.endswith(generation) and "<think>" not in older_template
    newer_template = older_template.removesuffix(generation) + (
        "{{'<｜Assistant｜><think>\\n'}}{% endif %}"
    )
    hf = tiny_hf(vocab_size=len(r1_tokenizer), pad_token_id=None)
    model = sk.load(hf, tokenizer=r1_tokenizer, name="r1-shaped")
    assert model.think == ("<think>", "</think>")
    opening, closing = r1_tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert model.closing_id == closing
    thought = "\nWait, let me check that.\n</think>\n\nIt is 4."
    trace = Trace("c", "t", "<think>" + thought, prompt="What is 2 + 2?")
    bare = Trace("c", "t", thought.lstrip(), prompt="What is 2 + 2?")

    older = model.align(trace)
    assert not model.opens_thinking
    text = r1_tokenizer.decode(older.ids)
    assert text == "<｜begin▁of▁sentence｜><｜User｜>What is 2 + 2?<｜Assistant｜><think>" + thought
    try:
        r1_tokenizer.chat_template = newer_template
        model = sk.load(hf, tokenizer=r1_tokenizer, name="r1-shaped")
        assert model.opens_thinking
        newer, again = model.align(bare), model.align(trace)
    finally:
        r1_tokenizer.chat_template = older_template
    assert newer.ids == older.ids == again.ids
    for chain in (older, newer, again):
        assert chain.ids.count(opening) == 1 and chain.ids.count(closing) == 1
        inside = r1_tokenizer.decode(chain.ids[slice(*chain.thinking)])
        assert inside.strip() == "Wait, let me check that."
    assert newer.phases.tolist()[newer.prompt_length - 1] == THINK
    assert older.phases.tolist()[older.ids.index(opening)] == THINK
    assert older.phases.tolist()[older.ids.index(opening) - 1] == PROMPT
    # the template deletes the thinking section of an assistant message: why it is not used
    messages = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": trace.response},
    ]
    assert "Wait" not in r1_tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_tokenizer_hash_tells_tokenizers_apart() -> None:
    model, same = tiny_model(), tiny_model("llama")
    assert model.tokenizer_hash == same.tokenizer_hash and len(model.tokenizer_hash) == 16
    other = tiny_model()
    other.tokenizer.add_tokens(["wholly-new"])
    assert other.tokenizer_hash != model.tokenizer_hash


def test_ids_that_end_and_fill() -> None:
    model = tiny_model()
    tokenizer = model.tokenizer
    assert model.pad_id == tokenizer.pad_token_id
    assert model.eos_ids == {tokenizer.eos_token_id}
    other = tiny_model()
    other.hf.generation_config.eos_token_id = [3, 5]
    assert other.eos_ids == {3, 5, tokenizer.eos_token_id}


def test_the_id_that_fills_has_an_embedding() -> None:
    model = tiny_model()
    rows = model.hf.get_input_embeddings().weight.shape[0]
    model.tokenizer.add_special_tokens({"pad_token": "<|wholly new|>"})
    assert model.tokenizer.pad_token_id >= rows
    assert model.pad_id == model.tokenizer.eos_token_id < rows
    model.tokenizer.add_special_tokens({"eos_token": "<|new as well|>"})
    assert model.tokenizer.eos_token_id >= rows and model.pad_id == 0


def test_unknown_words_and_prompts_without_room_are_named() -> None:
    model = tiny_model()
    assert unknown_words(model, "I need to make 29.") == []
    assert [w.strip() for w in unknown_words(model, "Make zebras of 3 xylophones.")] == [
        "Make",
        "zebras",
        "xylophones",
    ]
    check_length(model, 500, 12, "task 'a'")
    with pytest.raises(GenerationError, match=r"task 'a'.*at most 512.*500 of the prompt and 13"):
        check_length(model, 500, 13, "task 'a'")


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])
def test_the_bridge_has_the_same_names_and_values(architecture: str) -> None:
    model = tiny_model(architecture, initializer_range=0.1)
    plain = logits(model)
    bridge = model.bridge()
    ids = torch.tensor([model.render(PROMPT_TEXT)])
    with torch.no_grad():
        _, ours = model.residual.run_with_cache(ids)
        _, theirs = bridge.run_with_cache(ids)
        assert set(ours) <= set(theirs) and len(ours) == 2 * LAYERS
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(
            theirs["blocks.1.hook_resid_post"], ours["blocks.0.hook_resid_post"], atol=1e-2
        )
    assert any("attn" in name for name in theirs) and any("mlp" in name for name in theirs)
    assert torch.equal(logits(model), plain)  # the bridge wraps a copy

    accepted = sk.load(bridge, tokenizer=model.tokenizer, name="bridged")
    with torch.no_grad():
        _, values = accepted.residual.run_with_cache(ids)
    assert set(values) == set(ours)
    for name, value in ours.items():
        torch.testing.assert_close(values[name], value, rtol=1e-5, atol=1e-5)


def test_a_bridge_reads_the_tokenizer_it_was_given_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_model()
    before = (model.tokenizer.padding_side, dict(model.tokenizer.init_kwargs))
    with caplog.at_level(logging.ERROR):
        bridge = model.bridge()
    assert bridge.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert (model.tokenizer.padding_side, dict(model.tokenizer.init_kwargs)) == before
