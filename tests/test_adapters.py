"""An adapter is found, merged and named; what does not fit is refused, nothing is unpickled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import steerkit as sk
from steerkit import adapters, resources
from steerkit.adapters import CONFIG, TEMPLATE, WEIGHTS, Adapter
from steerkit.errors import ModelError
from steerkit.provenance import model_facts
from steerkit.training.tokenizer import build_tokenizer
from tests.tiny import tiny_hf, tiny_model, tiny_traces
from tests.training.adapters import base_folder, shaken, written_adapter

PROMPT = "Use 3, 7, 8 to make 29."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base") / "tiny-qwen2")


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_adapter(tmp_path_factory.mktemp("adapters") / "zero", tiny_model())


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_adapter(tmp_path_factory.mktemp("adapters") / "thinker", tiny_model(), shaken)


def logits(model: sk.ThinkingModel) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(torch.tensor([model.render(PROMPT)])).logits


def texts(model: sk.ThinkingModel, **options: object) -> list[str]:
    return [t.response for t in model.generate([PROMPT] * 2, max_new_tokens=12, **options)]


def test_an_adapter_whose_b_is_zero_is_the_base_bit_for_bit(base: Path, zero: Path) -> None:
    model, plain = sk.load(base, adapter=zero), sk.load(base)
    assert torch.equal(logits(model), logits(plain)) and texts(model) == texts(plain)
    for (name, found), (expected_name, expected) in zip(
        model.hf.named_parameters(), plain.hf.named_parameters(), strict=True
    ):
        assert name == expected_name and torch.equal(found, expected)
        assert not found.requires_grad
    assert list(model.residual.hook_dict) == list(plain.residual.hook_dict)
    assert not model.hf.training and not hasattr(model.hf, "peft_config")


def test_merging_adds_the_product_of_the_matrices(base: Path, thinker: Path) -> None:
    model, plain = sk.load(base, adapter=thinker), sk.load(base)
    matrices = load_file(thinker / WEIGHTS)
    scale = 16 / 8
    changed = 0
    for name, weight in plain.hf.named_parameters():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_{{}}.weight"
        expected = weight.double()
        if key.format("A") in matrices:
            a, b = (matrices[key.format(part)].double() for part in "AB")
            expected = expected + scale * b @ a
            changed += 1
        found = model.hf.get_parameter(name)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert changed == 6 * plain.n_layers
    assert not torch.allclose(logits(model), logits(plain), atol=0.1)


def test_in_bfloat16_merging_costs_no_more_than_rounding_the_base_does(
    base: Path, thinker: Path
) -> None:
    exact, plain = logits(sk.load(base, adapter=thinker)), logits(sk.load(base))
    merged = (logits(sk.load(base, adapter=thinker, dtype="bf16")) - exact).norm()
    rounded = (logits(sk.load(base, dtype="bf16")) - plain).norm()
    assert float(merged) < 2.5 * float(rounded)
    assert float(merged) < 0.2 * float((exact - plain).norm())  # small beside what it does


def test_provenance_tells_which_adapter_and_which_state_of_it(
    base: Path, thinker: Path, zero: Path
) -> None:
    model, plain = sk.load(base, adapter=thinker, revision="abc"), sk.load(base)
    adapter = Adapter.find(thinker)
    assert model.adapter == adapter and adapter.base == "tiny-qwen2" and plain.adapter is None
    assert model.name == "tiny-qwen2+thinker" and model.base_name == "tiny-qwen2"
    assert model.revision == f"abc+{adapter.digest}" and len(adapter.digest) == 16
    assert sk.load(base, adapter=zero).revision == f"+{Adapter.find(zero).digest}"
    assert Adapter.find(zero).digest != adapter.digest
    assert model_facts(model)["adapter"] == {
        "name": "thinker",
        "digest": adapter.digest,
        "base": "tiny-qwen2",
    }
    assert "adapter" not in model_facts(plain)
    (trace,) = model.generate(PROMPT, max_new_tokens=3)
    assert (trace.model, trace.revision) == (model.name, model.revision)


def test_vectors_of_the_base_steer_the_model_with_the_adapter(
    base: Path, thinker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, model = sk.load(base), sk.load(base, adapter=thinker)
    vectors = sk.extract(plain, tiny_traces(40))
    hooks = [len(layer._forward_hooks) for layer in model.hf.model.layers]
    vectors.check(model)
    assert not caplog.records  # the intended use is no reason for a warning
    direction = vectors["backtracking"].at(layer=1)
    assert texts(model, steer=0 * direction) == texts(model)
    (steered,) = model.generate(PROMPT, steer=2 * direction, max_new_tokens=12)
    assert steered.response != texts(model)[0]
    assert steered.metadata["steering"][0]["direction"] == vectors["backtracking"].digest
    with model.residual.hooked(1, lambda hidden, hook: hidden * 0):
        assert not torch.equal(logits(model), logits(sk.load(base, adapter=thinker)))
    assert [len(layer._forward_hooks) for layer in model.hf.model.layers] == hooks


def test_vectors_of_another_model_or_state_are_warned_of(
    base: Path, thinker: Path, zero: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, plain = sk.load(base, adapter=thinker), sk.load(base)
    own = sk.extract(model, tiny_traces(40))
    assert own.provenance["model"] == "tiny-qwen2+thinker"
    own.check(model)
    assert not caplog.records
    own.check(plain)
    assert "vectors of tiny-qwen2+thinker are used on tiny-qwen2" in caplog.text
    caplog.clear()
    other = tmp_path / "thinker"  # the same name, other matrices
    other.mkdir()
    for file in zero.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    own.check(sk.load(base, adapter=other))
    assert "another state of tiny-qwen2+thinker" in caplog.text


def test_think_strings_and_template_come_with_the_adapter(base: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}[think]"
    folder = written_adapter(
        tmp_path / "own",
        tiny_model(),
        record={"think": ["[think]", "[done]"]},
        chat_template=template,
    )
    tokenizer = build_tokenizer()
    before = tokenizer.chat_template
    model = sk.load(base, adapter=folder, tokenizer=tokenizer)
    assert model.think == ("[think]", "[done]") and model.opens_thinking
    assert model.render_text("?") == "?[think]"
    assert tokenizer.chat_template == before  # the caller's own stays as it is
    assert sk.load(base, adapter=folder, think=("<a>", "</a>")).think == ("<a>", "</a>")
    digest = Adapter.find(folder).digest
    (folder / TEMPLATE).write_text(template + " ")
    assert Adapter.find(folder).digest != digest


def test_bundled_adapters_load_by_name_and_are_no_models(
    base: Path, thinker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "data" / "models"
    models.mkdir(parents=True)
    (models / "thinker").symlink_to(thinker)
    (models / "tiny").symlink_to(base)
    monkeypatch.setattr(resources, "_ROOTS", (tmp_path / "data",))
    assert list(resources.bundled_adapters()) == ["thinker"]
    assert list(resources.bundled_models()) == ["tiny"]
    model = sk.load("tiny", adapter="thinker")
    assert model.name == "tiny+thinker" and model.adapter == Adapter.find("thinker")
    for source in ("thinker", thinker):
        with pytest.raises(
            ModelError, match=r"is an adapter and no model.*sk\.load\(BASE, adapter"
        ):
            sk.load(source)


def test_another_base_is_warned_of(
    base: Path, thinker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sk.load(base, adapter=thinker, name="hub/Tiny-Qwen2")
    assert not caplog.records
    sk.load(base, adapter=thinker, name="hub/other")
    assert "was trained on tiny-qwen2 and is used on hub/other" in caplog.text


def damaged(thinker: Path, target: Path) -> Path:
    target.mkdir()
    for file in thinker.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_an_adapter_that_does_not_fit_is_refused(base: Path, thinker: Path, tmp_path: Path) -> None:
    wide = base_folder(tmp_path / "wide", hidden_size=48)
    with pytest.raises(ModelError, match=r"cannot be merged into wide|does not fit"):
        sk.load(wide, adapter=thinker)
    deep = base_folder(tmp_path / "deep", num_hidden_layers=4)
    with pytest.raises(ModelError, match=r"does not fit the model.*12 are missing"):
        sk.load(deep, adapter=thinker)
    flat = base_folder(tmp_path / "flat", num_hidden_layers=2)
    with pytest.raises(ModelError, match=r"does not fit the model.*12 of them without a place"):
        sk.load(flat, adapter=thinker)
    ruined = damaged(thinker, tmp_path / "ruined")
    matrices = load_file(ruined / WEIGHTS)
    matrices[next(iter(matrices))][0, 0] = float("nan")
    save_file(matrices, ruined / WEIGHTS)
    with pytest.raises(ModelError, match="cannot be merged"):
        sk.load(base, adapter=ruined)
    (ruined / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be merged"):
        sk.load(base, adapter=ruined)
    (ruined / CONFIG).write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        sk.load(base, adapter=ruined)
    (ruined / CONFIG).write_text(json.dumps({"peft_type": "NO_SUCH"}))
    with pytest.raises(ModelError, match="cannot be merged"):
        sk.load(base, adapter=ruined)


def test_what_is_no_adapter_is_named(base: Path, thinker: Path, tmp_path: Path) -> None:
    for source in ("no-such", "./nowhere", tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"no adapter .*bundled name.*no such folder"):
            sk.load(base, adapter=source)
    with pytest.raises(ModelError, match=r"no adapter .*no adapter_config\.json and no"):
        sk.load(base, adapter=base)
    pickled = damaged(thinker, tmp_path / "pickled")
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights.*Convert it to safetensors"):
        sk.load(base, adapter=pickled)


def test_a_model_in_memory_stays_as_it_is(thinker: Path) -> None:
    with pytest.raises(ModelError, match=r"stays where and as it is.*merge_and_unload"):
        sk.load(tiny_hf(), tokenizer=build_tokenizer(), adapter=thinker)


def test_quantised_and_offloaded_weights_are_refused(
    base: Path, thinker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = tiny_hf()
    monkeypatch.setattr(hf, "is_quantized", True, raising=False)
    with pytest.raises(ModelError, match=r"quantised weights.*unquantised"):
        adapters.merge_adapter(hf, Adapter.find(thinker), "tiny-qwen2")
    with torch.device("meta"):
        empty = tiny_hf()
    with pytest.raises(ModelError, match="weights on disk"):
        adapters.merge_adapter(empty, Adapter.find(thinker), "tiny-qwen2")


def test_without_peft_the_extra_is_named_and_nothing_is_loaded(
    thinker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'steerkit-thinking\[adapter\]'"):
        sk.load("/no/such/folder", adapter=thinker)


def test_peft_is_only_imported_for_an_adapter(base: Path) -> None:
    import subprocess

    code = f"import sys, steerkit as sk; sk.load({str(base)!r}); print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_a_folder_with_both_a_model_and_an_adapter_is_refused(
    thinker: Path, tmp_path: Path
) -> None:
    """transformers would put the adapter into the model without a word."""
    both = base_folder(tmp_path / "both")
    for name in (CONFIG, WEIGHTS):
        (both / name).write_bytes((thinker / name).read_bytes())
    with pytest.raises(ModelError, match=r"holds a model and an adapter.*adapter=\.\.\."):
        sk.load(both)
