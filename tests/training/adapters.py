"""A tiny base in a folder, and an adapter of it that was not trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steerkit.models import ThinkingModel
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.lora import lora, target_layers, write_adapter
from steerkit.training.tokenizer import build_tokenizer
from tests.tiny import tiny_hf

PLAIN = ("Let me go back.", "This does not work.")
"""Think strings that are plain text, of words that the tokenizer knows."""
UNOPENED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{% else %}"
    "<|assistant|>{% endif %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def plain_model() -> ThinkingModel:
    """A tiny model whose template does not open a thinking section; think strings are text."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = UNOPENED
    return ThinkingModel(tiny_hf(), tokenizer, name="tiny-plain", think=PLAIN)


def base_folder(folder: Path, **overrides: Any) -> Path:
    """The tiny Qwen2 model of :func:`tests.tiny.tiny_model` as a Hugging Face folder."""
    tiny_hf(**overrides).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def written_adapter(
    folder: Path,
    model: ThinkingModel,
    change: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, values: values,
    *,
    record: dict[str, Any] | None = None,
    chat_template: str | None = None,
    **options: Any,
) -> Path:
    """An adapter of ``model`` with random A and zero B, each matrix as ``change`` returns it."""
    config = AdapterConfig(targets=target_layers(model, ()), **options)
    folder.mkdir(parents=True, exist_ok=True)
    with lora(model, config) as adapted:
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(change(name, parameter.detach().clone()))
        write_adapter(
            folder,
            adapted,
            base=model.name,
            chat_template=chat_template,
            record=record or {},
            card="a card\n",
        )
    return folder


def shaken(name: str, values: torch.Tensor) -> torch.Tensor:
    """Matrices that change what a model computes: B is no longer zero."""
    generator = torch.Generator().manual_seed(len(name))
    noise = 0.3 * torch.randn(values.shape, generator=generator)
    return (values + noise if "lora_B" in name else values).half().float()
