"""The bundled models' architecture, where they train, and the folders they are written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from steerkit.errors import TrainingError
from steerkit.files import write_bytes_atomic
from steerkit.training.config import SFTConfig


def build_model(config: SFTConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 model with random float32 weights from ``config.seed``, embeddings tied."""
    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def training_device(name: str | None) -> torch.device:
    """The device of that name; without one a CUDA GPU if there is one, else the CPU.

    Raises :class:`TrainingError` for one that is not here.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=chosen).device
    except (RuntimeError, AssertionError) as problem:
        raise TrainingError(
            f"cannot train on {chosen!r}",
            expected="cpu, cuda, cuda:1, mps",
            found=str(problem).partition("\n")[0],
            fix="use --device cpu",
        ) from None


@contextmanager
def quick_backward(model: PreTrainedModel) -> Iterator[None]:
    """Attention as plain matrix products within, and as it was afterwards.

    On a CPU the backward pass of PyTorch's fused attention is slow in bfloat16: without it a
    training step takes a quarter less time. Writing chains is faster with it.
    """
    before = model.config._attn_implementation
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def round_weights(model: torch.nn.Module) -> None:
    """Round the weights to float16 in place, as they are stored.

    What is measured on ``model`` afterwards is measured on exactly the weights in its file.
    """
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.float16))


def write_weights(model: torch.nn.Module, path: Path) -> None:
    """Write ``model.safetensors`` in float16, half the size; ``model`` stays as it is."""
    # named_parameters lists the tied embedding once, as the folder format wants it
    weights = {name: p.detach().to("cpu", torch.float16) for name, p in model.named_parameters()}
    write_bytes_atomic(path, save(weights, metadata={"format": "pt"}))


def export_model(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path | str
) -> Path:
    """Write a Hugging Face folder; ``config.json`` says float32, which it loads as."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = torch.float32
    model.generation_config.do_sample = True
    model.generation_config.temperature = 1.0
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_weights(model, folder / "model.safetensors")
    return folder
