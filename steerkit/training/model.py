"""The bundled models' architecture, and the folder that a finished one is written to."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

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


@torch.no_grad()
def export_model(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path | str
) -> Path:
    """Round the weights to float16, in ``model`` too, and write them as a Hugging Face folder.

    The file has half the size; ``config.json`` says float32, which the folder loads as.
    What is measured on ``model`` afterwards is measured on exactly the weights in the file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.float16))
    model.config.dtype = torch.float32
    model.generation_config.do_sample = True
    model.generation_config.temperature = 1.0
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # named_parameters lists the tied embedding once, as the folder format wants it
    weights = {name: p.detach().to(torch.float16) for name, p in model.named_parameters()}
    write_bytes_atomic(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
    return folder
