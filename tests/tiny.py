"""Tiny random-weight models of every supported shape, with the bundled models' tokenizer."""

from __future__ import annotations

from typing import Any

import torch

from steerkit.models import ThinkingModel
from steerkit.traces import Span, Trace, Traces
from steerkit.training.tokenizer import build_tokenizer

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3")
LAYERS, WIDTH, CONTEXT = 3, 32, 512

_CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "phi3": ("Phi3Config", "Phi3ForCausalLM"),
}
# sliding windows shorter than the chains, so that local and global layers differ
_EXTRA: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16, "sliding_window": 16},
    "gemma3": {"head_dim": 16, "sliding_window": 16},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 16},
}


def tiny_hf(architecture: str = "qwen2", *, seed: int = 0, **overrides: Any) -> Any:
    """A Hugging Face causal language model with large random weights, in evaluation mode.

    ``overrides`` replace fields of its config. The caller's random state is left alone.
    """
    import transformers

    config_class, model_class = (getattr(transformers, name) for name in _CLASSES[architecture])
    tokenizer = build_tokenizer()
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **_EXTRA.get(architecture, {}),
        **overrides,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class(**fields))
    return model.eval().requires_grad_(False)


def tiny_model(architecture: str = "qwen2", **overrides: Any) -> ThinkingModel:
    """A tiny :class:`ThinkingModel`: 3 layers of width 32, 512 tokens of context.

    Its tokenizer has a word a token, a chat template that opens the thinking section, and
    ``<think>`` tokens. Arguments are those of :func:`tiny_hf`.
    """
    return ThinkingModel(
        tiny_hf(architecture, **overrides), build_tokenizer(), name=f"tiny-{architecture}"
    )


SENTENCES = {
    "initializing": "I need to make 29 from 3, 7 and 8.",
    "deduction": "3 + 8 = 11.",
    "example-testing": "Let me try 7 * 3 + 8.",
    "uncertainty-estimation": "I am not sure about this.",
    "backtracking": "Wait, this does not work.",
}
"""A sentence for every label; all words are known to the tokenizer or stand for unknown ones."""


def tiny_trace(labels: list[str], number: int = 0, *, closed: bool = True) -> Trace:
    """A chain with one sentence for every label, each annotated as what it is."""
    text, spans = "", []
    for label in labels:
        start = len(text)
        text += SENTENCES[label]
        spans.append(Span(start, len(text), label))
        text += " "
    response = text.rstrip() + ("\n</think>\nThe answer is 3 * 7 + 8." if closed else "")
    return Trace(
        id=f"chain-{number}",
        task_id=f"task-{number}",
        prompt=f"Use {number}, 7, 8 to make 29.",
        response=response,
        spans=tuple(spans),
        annotator="planted",
    )


def tiny_traces(count: int = 20, *, seed: int = 0, longest: int = 9) -> Traces:
    """Chains of random lengths and labels, of ``count`` different tasks."""
    generator = torch.Generator().manual_seed(seed)
    names, traces = list(SENTENCES), []
    for number in range(count):
        length = int(torch.randint(2, longest + 1, (1,), generator=generator))
        drawn = torch.randint(len(names), (length,), generator=generator).tolist()
        traces.append(tiny_trace([names[i] for i in drawn], number, closed=number % 5 != 4))
    return Traces(traces)
