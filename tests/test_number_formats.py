"""On a processor that is slow in bfloat16 a model computes in float32, if there is room."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit import number_formats
from steerkit.number_formats import available_memory, native_bfloat16
from steerkit.training.tokenizer import build_tokenizer
from tests.tiny import tiny_hf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights are stored in bfloat16."""
    place = tmp_path_factory.mktemp("models") / "tiny-bf16"
    tiny_hf().bfloat16().save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    return place


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
@pytest.mark.parametrize("asked", [None, "auto"])
def test_auto_is_what_the_processor_is_quick_in(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    native: bool,
    dtype: torch.dtype,
    asked: str | None,
) -> None:
    monkeypatch.setattr(number_formats, "native_bfloat16", lambda: native)
    with caplog.at_level(logging.INFO, "steerkit"):
        model = sk.load(folder, device="cpu", dtype=asked)
    assert model.dtype == dtype
    assert ("no bfloat16 instructions" in caplog.text) == (not native)
    expected = tiny_hf().bfloat16()
    for (name, found), (_, weight) in zip(
        model.hf.named_parameters(), expected.named_parameters(), strict=True
    ):
        assert torch.equal(found.bfloat16(), weight), name  # no value has changed
    assert sk.load(folder, device="cpu", dtype="bf16").dtype == torch.bfloat16


def test_a_quantised_model_is_not_cast(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers raises ``ValueError`` where one is; a mark on a plain model stands for it."""
    from transformers import AutoModelForCausalLM

    read = AutoModelForCausalLM.from_pretrained

    def quantised(*words: object, **options: object) -> torch.nn.Module:
        hf = read(*words, **options)
        hf.is_quantized = True
        hf.quantization_method = "stub"
        return hf

    monkeypatch.setattr(number_formats, "native_bfloat16", lambda: False)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", quantised)
    with pytest.raises(ValueError, match="not supported for"):
        quantised(folder).float()  # what the loader must not do
    assert sk.load(folder, device="cpu").dtype == torch.bfloat16


def test_without_room_the_model_stays_as_it_is_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(number_formats, "native_bfloat16", lambda: False)
    monkeypatch.setattr(number_formats, "available_memory", lambda: 1000)
    assert sk.load(folder, device="cpu").dtype == torch.bfloat16
    assert "slow in bfloat16, and there is no room" in caplog.text
    monkeypatch.setattr(number_formats, "available_memory", lambda: None)
    assert sk.load(folder, device="cpu").dtype == torch.float32


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
    ],
)
def test_what_the_processor_says_of_itself(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert native_bfloat16() is native


def test_memory_is_counted_where_the_system_tells() -> None:
    free = available_memory()
    assert free is None or free > 1e6
