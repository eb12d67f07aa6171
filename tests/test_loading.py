"""load gets a thinking model from wherever it is, and says what is wrong where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.errors import ModelError
from steerkit.models import ThinkingModel
from steerkit.resources import bundled_models
from steerkit.training.tokenizer import build_tokenizer
from tests.tiny import ARCHITECTURES, LAYERS, WIDTH, tiny_hf, tiny_model

PROMPT_TEXT = "Use 3, 7, 8 to make 29."


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
