"""The models that `make bench` measures on, and what they are given to read.

Nothing is downloaded here: a model that is not at hand is :class:`Unavailable`, with the command
that gets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_smollm2
import real_model
from bench_cases import Context, Unavailable

import steerkit as sk
from steerkit.resources import bundled_models

THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class Subject:
    """A model to measure on.

    Attributes
    ----------
    dtype:
        What its weights are held in: float32 where tokens can be compared, bf16 where a user
        would take it.
    layer, push:
        Where an edit is made, and the length that a coefficient of 1 has: about the mean norm of
        the residual stream there, so that steered text is still text.
    """

    name: str
    dtype: str
    layer: int
    push: float


BUNDLED = Subject("countdown-thinking", "float32", 3, 250.0)
SMOLLM2 = Subject(bench_smollm2.NAME, "float32", 15, 175.0)
QWEN = Subject(real_model.QWEN.name, "bfloat16", 14, 50.0)
SUBJECTS = (BUNDLED, SMOLLM2, QWEN)
RANDOM = "random-qwen2.5-1.5b"
"""Folder name of the large model's shape with random weights: right for speed, for nothing else."""


def folder_of(name: str, context: Context) -> Path:
    """Where a subject's folder is; :class:`Unavailable` with what to do where it is not."""
    if name == BUNDLED.name:
        return Path(bundled_models()[name])
    if name == SMOLLM2.name:
        folder = real_model.cache_root() / name
        if not bench_smollm2.complete(folder):
            raise Unavailable("not at hand: python benchmarks/bench.py --prepare gets it")
        return folder
    folder = real_model.cache_root() / name
    # the files' hashes are checked when it is made; here only that it is whole
    if (folder / real_model.MANIFEST).is_file():
        return folder
    if context.random_weights:
        return random_folder(real_model.cache_root() / RANDOM)
    raise Unavailable(
        "not at hand: python benchmarks/real_model.py gets it; --random-weights takes its shape"
    )


def random_model(layers: int = 28, vocabulary: int = 151_936) -> tuple[Any, Any]:
    """Qwen2.5-1.5B's shape with random weights in bfloat16, and a tokenizer of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_theta": 1_000_000.0, "rope_type": "default"},
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
        eos_token_id=2,
        pad_token_id=1,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        torch.manual_seed(0)
        hf = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    names = ["<unk>", "<pad>", "<eos>", *THINK]
    names += [f"w{number}" for number in range(vocabulary - len(names))]
    words = models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")
    backend = Tokenizer(words)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(THINK)})
    return hf, tokenizer


def random_folder(folder: Path) -> Path:
    """:func:`random_model` as a folder (3.6 GB), made once."""
    if not (folder / "tokenizer.json").is_file():  # written last
        hf, tokenizer = random_model()
        hf.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def prompts(name: str, count: int) -> list[str]:
    """User messages: bundled tasks for the bundled model, word problems for the others."""
    if name == BUNDLED.name:
        return [task.prompt for task in sk.read_tasks(sk.data("tasks/countdown.jsonl"))[:count]]
    from real import PROMPTS

    listed = list(PROMPTS.values())
    return [listed[number % len(listed)] for number in range(count)]


def corpus(name: str) -> list[str]:
    """Words to cut prompts of a wanted length from."""
    return " ".join(prompts(name, 60)).split()


def mixed(render: Any, words: Sequence[str], lengths: Sequence[int]) -> list[str]:
    """One prompt for each of ``lengths``: as many words as render to that many tokens or just more.

    ``render`` gives the tokens of a text through the chat template, which has a length of its
    own; every prompt starts at another word, so no two share more than the template.
    """
    texts = []
    for number, length in enumerate(lengths):
        start = (number * 37) % len(words)
        turned = [*words[start:], *words[:start]] * (1 + length // max(len(words), 1))
        low, high = 1, len(turned)
        while low < high:
            middle = (low + high) // 2
            if len(render(" ".join(turned[:middle]))) < length:
                low = middle + 1
            else:
                high = middle
        texts.append(" ".join(turned[:low]))
    return texts
