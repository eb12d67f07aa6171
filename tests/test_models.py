"""load gets a thinking model from wherever it is, and says what is wrong where it cannot."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.errors import GenerationError, ModelError
from steerkit.models import ThinkingModel, check_length, unknown_words
from steerkit.positions import PROMPT, THINK
from steerkit.resources import bundled_models
from steerkit.traces import Trace
from steerkit.training.tokenizer import build_tokenizer
from tests.tiny import ARCHITECTURES, LAYERS, WIDTH, tiny_hf, tiny_model

PROMPT_TEXT = "Use 3, 7, 8 to make 29."
OLD_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny Qwen2 model and its tokenizer."""
    place = tmp_path_factory.mktemp("models") / "tiny-folder"
    tiny_hf().save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    return place


def logits(model: ThinkingModel) -> torch.Tensor:
    ids = torch.tensor([model.render(PROMPT_TEXT)], device=model.device)
    with torch.no_grad():
        return model.hf(ids).logits


def damaged(folder: Path, target: Path, name: str, content: bytes | None) -> Path:
    """A copy of the folder in which one file has other content, or is missing."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    (target / name).unlink()
    if content is not None:
        (target / name).write_bytes(content)
    return target


def test_a_folder_loads_as_the_model_that_was_saved(folder: Path) -> None:
    for source in (folder, str(folder)):
        model = sk.load(source)
        assert (model.name, model.n_layers, model.d_model) == ("tiny-folder", LAYERS, WIDTH)
        assert model.context == 512 and model.think == ("<think>", "</think>")
        assert model.dtype == torch.float32 and model.device.type == "cpu"
        assert torch.equal(logits(model), logits(tiny_model()))
        assert not model.hf.training
        assert not any(p.requires_grad for p in model.hf.parameters())
        assert "tiny-folder" in repr(model) and "3 layers of width 32" in repr(model)
    assert not torch.allclose(logits(tiny_model(seed=1)), logits(model))  # the check can fail


def test_the_tokenizer_of_a_folder_is_the_one_that_was_saved(folder: Path) -> None:
    """AutoTokenizer would rebuild it as Qwen2's own byte-level BPE, for the model's type."""
    saved, loaded = build_tokenizer(), sk.load(folder).tokenizer
    assert loaded.backend_tokenizer.to_str() == saved.backend_tokenizer.to_str()
    assert loaded.chat_template == saved.chat_template
    assert loaded.padding_side == saved.padding_side
    from transformers import AutoTokenizer

    rebuilt = AutoTokenizer.from_pretrained(folder)
    assert rebuilt(PROMPT_TEXT)["input_ids"] != saved(PROMPT_TEXT)["input_ids"]


def test_another_name_and_revision_stand_in_provenance(folder: Path) -> None:
    model = sk.load(folder, name="mine", revision="abc")
    assert (model.name, model.revision) == ("mine", "abc")


def test_a_bundled_model_loads_by_name() -> None:
    if "countdown-thinking" not in bundled_models():
        pytest.skip("data/models/countdown-thinking is not there yet")
    model = sk.load("countdown-thinking")
    assert model.name == "countdown-thinking" and len(model.revision or "") == 16
    assert model.opens_thinking and model.closing_id is not None
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_shape_loads_from_memory(architecture: str) -> None:
    hf = tiny_hf(architecture)
    model = sk.load(hf, tokenizer=build_tokenizer())
    assert model.hf is hf and model.name == type(hf).__name__
    assert (model.n_layers, model.d_model) == (LAYERS, WIDTH)


def test_a_model_in_memory_needs_its_tokenizer_and_stays_as_it_is() -> None:
    with pytest.raises(ModelError, match=r"needs its tokenizer.*AutoTokenizer"):
        sk.load(tiny_hf())
    for setting in ({"dtype": "bf16"}, {"device": "cpu"}, {"device_map": "auto"}):
        with pytest.raises(ModelError, match=r"stays where and as it is"):
            sk.load(tiny_hf(), tokenizer=build_tokenizer(), **setting)


@pytest.mark.parametrize(
    ("named", "dtype"), [("bf16", torch.bfloat16), ("float16", torch.float16), ("fp32", None)]
)
def test_half_precision(folder: Path, named: str, dtype: torch.dtype | None) -> None:
    model = sk.load(folder, dtype=named)
    assert model.dtype == (dtype or torch.float32)
    error = (logits(model).float() - logits(tiny_model())).abs().max()
    assert float(error) == 0 if dtype is None else 0 < float(error) < 1
    seen: list[torch.dtype] = []
    with model.residual.hooked(1, lambda h, hook: seen.append(h.dtype)):
        logits(model)
    assert seen == [model.dtype]


def test_a_float16_checkpoint_computes_in_float32_on_the_cpu(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "half"
    tiny_hf().half().save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    assert json.loads((place / "config.json").read_text())["dtype"] == "float16"
    assert sk.load(place, device="cpu").dtype == torch.float32
    assert sk.load(place, device="cpu", dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map(folder: Path, device_map: str | dict[str, str]) -> None:
    model = sk.load(folder, device_map=device_map)
    assert torch.allclose(logits(model).cpu(), logits(tiny_model()), atol=1e-4)
    with pytest.raises(ModelError, match="exclude each other"):
        sk.load(folder, device_map=device_map, device="cpu")


def test_weights_offloaded_to_disk_run_through_the_hook_points(folder: Path) -> None:
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    places = dict.fromkeys([*parts, *(f"model.layers.{n}" for n in range(LAYERS))], "cpu")
    model = sk.load(folder, device_map={**places, "model.layers.1": "disk"})
    assert model.hf.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    ids = torch.tensor([model.render(PROMPT_TEXT)], device=model.device)
    with torch.no_grad():
        _, cache = model.residual.run_with_cache(ids)
        _, expected = tiny_model().residual.run_with_cache(ids)
    for name, value in expected.items():
        assert torch.equal(cache[name], value), name


def test_unknown_names_folders_dtypes_and_devices_are_named(folder: Path, tmp_path: Path) -> None:
    for source in ("countdown-thinkin", "./nowhere", "/no/such/folder", "a/b/c"):
        with pytest.raises(ModelError, match=r"no model .*bundled name.*folder.*Hub name"):
            sk.load(source)
    with pytest.raises(ModelError, match=r"holds no model.*config\.json"):
        sk.load(tmp_path)
    with pytest.raises(ModelError, match=r"unknown dtype 'float8'.*bfloat16"):
        sk.load(folder, dtype="float8")
    with pytest.raises(ModelError, match="unknown device 'gpu'"):
        sk.load(folder, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA device"):
            sk.load(folder, device="cuda")


@pytest.mark.parametrize("device", ["mps", "xpu", "cuda:7", "meta", "hpu"])
def test_devices_that_are_not_here_are_one_clear_error(folder: Path, device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is an MPS device here")
    said = r"cannot use .* here|no CUDA device here|the meta device holds no weights"
    with pytest.raises(ModelError, match=said):
        sk.load(folder, device=device)
    if device != "hpu":  # accelerate does not know that one
        with pytest.raises(ModelError, match=said):
            sk.load(folder, device_map={"": device})


@pytest.mark.parametrize(
    "problem", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()]
)
def test_memory_that_runs_out_while_moving_is_said_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def full(self: torch.nn.Module, *_: object) -> None:
        raise problem

    monkeypatch.setattr(torch.nn.Module, "to", full)  # a device of our own cannot be filled
    with pytest.raises(ModelError, match=r"no memory left for .* on cpu.*dtype of half the size"):
        sk.load(folder, device="cpu")


def test_a_bundled_model_has_no_other_revision() -> None:
    with pytest.raises(ModelError, match=r"'countdown-thinking' has one revision.*'v2'"):
        sk.load("countdown-thinking", revision="v2")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("known", [True, False])
def test_code_that_comes_with_a_model_never_runs_and_nothing_asks(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    known: bool,
) -> None:
    def asked(question: str = "") -> str:
        pytest.fail(f"something asks: {question}")

    monkeypatch.setattr("builtins.input", asked)
    auto = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    }
    settings = {**json.loads((folder / file).read_text()), "auto_map": auto}
    if not known:  # only the model's own code could read it
        settings |= {"model_type": "evil", "tokenizer_class": "Tokenizer"}
    place = damaged(folder, tmp_path / "evil", file, json.dumps(settings).encode())
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    if known:
        assert torch.equal(logits(sk.load(place, device="cpu")), logits(tiny_model()))
    elif file == "config.json":
        with pytest.raises(ModelError, match=r"cannot load the model.*code of its own"):
            sk.load(place, device="cpu")
    else:  # Hugging Face reads it by the class that it has for such a model
        sk.load(place, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    place = damaged(folder, tmp_path / "pickled", "model.safetensors", None)
    torch.save(tiny_hf().state_dict(), place / "pytorch_model.bin")
    said = r"pickled.*expected model\.safetensors; found pytorch_model\.bin.*[Cc]onvert it"
    with pytest.raises(ModelError, match=said):
        sk.load(place, device="cpu")
    # beside safetensors they do no harm
    (place / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert torch.equal(logits(sk.load(place, device="cpu")), logits(tiny_model()))


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
        ("out/mine", "mine"),
        ("/somewhere/else/mine", "mine"),
        ("mine", "mine"),
        ("", "Qwen2ForCausalLM"),
    ],
)
def test_a_model_in_memory_is_called_as_it_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, name: str
) -> None:
    (tmp_path / "out" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hf = tiny_hf()
    hf.config._name_or_path = origin
    assert sk.load(hf, tokenizer=build_tokenizer()).name == name


def test_a_hub_name_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"cannot load the model 'no-such-owner/no-such-model'"):
        sk.load("no-such-owner/no-such-model")


def test_damaged_folders_are_one_clear_error(folder: Path, tmp_path: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    config = json.loads((folder / "config.json").read_text())
    other = json.dumps({**config, "intermediate_size": 50}).encode()
    unknown = json.dumps({**config, "model_type": "nothing"}).encode()
    cases = [
        ("model.safetensors", weights[: len(weights) // 2], "cannot read the weights"),
        ("model.safetensors", b"", "cannot read the weights"),
        ("model.safetensors", None, "cannot load the model"),
        ("config.json", b"{", "cannot load the model"),
        ("config.json", unknown, "cannot load the model"),
        ("config.json", other, "cannot read the weights.*another shape"),
        ("tokenizer.json", b"{", "cannot load the tokenizer"),
    ]
    for number, (name, content, message) in enumerate(cases):
        with pytest.raises(ModelError, match=message):
            sk.load(damaged(folder, tmp_path / str(number), name, content))


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
