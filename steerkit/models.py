"""ThinkingModel: a language model, its tokenizer, and how it thinks."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch

from steerkit.adapters import Adapter
from steerkit.alignment import AlignedTrace, align
from steerkit.errors import GenerationError, ModelError
from steerkit.places import ends_sentence
from steerkit.residual import ResidualStream
from steerkit.traces import THINK, Trace, Traces

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

    from steerkit.direction import Direction
    from steerkit.hf_steering import ForwardSteering
    from steerkit.steering import Steering
    from steerkit.sweeps import Sweep
    from steerkit.tasks import Task
    from steerkit.terms import Term, Terms
    from steerkit.token_stream import Token

logger = logging.getLogger(__name__)


class ThinkingModel:
    """A causal language model that writes its chain of thought between two think strings.

    Made by :func:`steerkit.loading.load`. The Hugging Face model in ``hf`` is left exactly as
    it is; ``residual`` holds its hook points.

    Attributes
    ----------
    hf, tokenizer:
        The Hugging Face model and its tokenizer.
    name, revision:
        What the model is called and which state of it this is, for provenance. Both tell of an
        adapter: ``base+adapter``, and the revision is followed by ``+`` and the adapter's digest.
    base_name, adapter:
        What the model is called without its adapter, and the adapter that is merged into its
        weights (:mod:`steerkit.adapters`), or ``None``.
    think:
        Opening and closing think string: special tokens, or plain text.
    residual:
        :class:`steerkit.residual.ResidualStream` on ``hf``.
    n_layers, d_model, context:
        Decoder layers, width of the residual stream, longest sequence (``None``: no limit).
    steering, following:
        What :meth:`steer` put in force, and what edits passes of ``hf`` by it; ``None`` where
        nothing does, as within :meth:`own_passes`.
    """

    def __init__(
        self,
        hf: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        revision: str | None = None,
        think: tuple[str, str] | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.hf = hf
        self.tokenizer: Any = tokenizer
        self.base_name = name
        self.adapter = adapter
        self.name = name if adapter is None else f"{name}+{adapter.name}"
        self.revision = revision if adapter is None else f"{revision or ''}+{adapter.digest}"
        self.think = _think_strings(tokenizer, name) if think is None else _checked(think)
        self.residual = ResidualStream(hf)
        config = self.hf.config.get_text_config()
        self.n_layers = self.residual.n_layers
        self.d_model: int = config.hidden_size
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.steering: Steering = None
        self.following: ForwardSteering | None = None

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.hf.parameters())
        return (
            f"ThinkingModel({self.name!r}, {size / 1e6:.1f} M parameters, {self.n_layers} layers "
            f"of width {self.d_model}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, where token ids have to be."""
        embeddings = self.hf.get_input_embeddings()
        if embeddings.weight.device.type == "meta":  # offloaded by accelerate
            return torch.device(embeddings._hf_hook.execution_device)
        return embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.hf.dtype

    @property
    def pad_id(self) -> int:
        """Token id that fills masked positions: one that the model has an embedding of."""
        known = self.hf.get_input_embeddings().weight.shape[0]
        usual = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((int(i) for i in usual if i is not None and i < known), 0)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Token ids that end a response."""
        configured = getattr(getattr(self.hf, "generation_config", None), "eos_token_id", None)
        several = configured if isinstance(configured, list | tuple) else [configured]
        return frozenset(i for i in (*several, self.tokenizer.eos_token_id) if i is not None)

    @cached_property
    def vocabulary(self) -> int:
        """Tokens that the tokenizer knows; counting them anew takes its time."""
        return len(self.tokenizer)

    @cached_property
    def closing_id(self) -> int | None:
        """Token id of the closing think string; ``None`` where it is several tokens of text."""
        ids = self.tokenizer(self.think[1], add_special_tokens=False)["input_ids"]
        vocabulary = self.tokenizer.get_vocab()
        return ids[0] if len(ids) == 1 and self.think[1] in vocabulary else None

    @cached_property
    def tokenizer_hash(self) -> str:
        """First 16 digits of the SHA-256 of the tokenizer's full state."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        state = (
            backend.to_str()
            if backend is not None
            else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        )
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    def render_text(self, prompt: str) -> str:
        """The prompt through the chat template, ready for the model's turn."""
        if not self.tokenizer.chat_template:
            return prompt
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )

    def render(self, prompt: str) -> list[int]:
        """Token ids of :meth:`render_text`; without a template, of the prompt as it is."""
        text = self.render_text(prompt)
        special = not self.tokenizer.chat_template
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the chat template itself ends in the opening think string."""
        return self.render_text("?").rstrip().endswith(self.think[0])

    @cached_property
    def waits_for_opening(self) -> bool:
        """Whether the model is expected to write the opening think string itself.

        So it is where the string is a token that the template does not write. A model that
        knows think strings as plain text only is taken to think from its first token on.
        """
        return not self.opens_thinking and self.think[0] in self.tokenizer.get_vocab()

    def align(self, trace: Trace) -> AlignedTrace:
        """A trace as this model's tokens: see :func:`steerkit.alignment.align`.

        Raises :class:`ModelError` for tokens that the model has no embedding of.
        """
        aligned = self._align(trace)
        self.check_ids(aligned.ids, f"trace {trace.id!r}")
        return aligned

    def check_ids(self, ids: Sequence[int], where: str) -> None:
        """Refuse token ids beyond the embedding: the tokenizer is another model's."""
        known = self.hf.get_input_embeddings().weight.shape[0]
        if max(ids, default=0) >= known:
            raise ModelError(
                "the tokenizer gives a token that the model has no embedding of",
                expected=f"ids below {known}",
                found=f"{max(ids)}, {self.tokenizer.decode([max(ids)])!r}",
                where=where,
                fix="load the tokenizer that belongs to the model",
            )

    def ends_sentence(self, token: int) -> bool | None:
        """Whether a token ends a sentence, by its text; ``None`` for mere white space."""
        if token not in self._sentence_ends:
            text = self.tokenizer.decode([token], skip_special_tokens=False)
            self._sentence_ends[token] = ends_sentence(str(text))
        return self._sentence_ends[token]

    @cached_property
    def _sentence_ends(self) -> dict[int, bool | None]:
        return {}

    @cached_property
    def _beginning(self) -> list[int]:
        """What a bare chain begins with: the tokenizer's first token, if the model knows it."""
        bos, known = self.tokenizer.bos_token_id, self.hf.get_input_embeddings().weight.shape[0]
        if bos is not None and bos >= known:
            logger.warning(
                "%s: chains without a prompt begin without %r, token %d: the model has only %d",
                *(self.name, self.tokenizer.bos_token, bos, known),
            )
        return [] if bos is None or bos >= known else [bos]

    def _align(self, trace: Trace) -> AlignedTrace:
        if "think" not in trace.metadata and self.think != THINK:
            trace = _with_think(trace, self.think)
        waits = self.waits_for_opening
        if trace.prompt is None:
            beginning = self._beginning
            return align(trace, tokenizer=self.tokenizer, prompt_ids=beginning, waits=waits)
        rendered = self.render(trace.prompt)
        if not self.opens_thinking:
            return align(trace, tokenizer=self.tokenizer, prompt_ids=rendered, waits=waits)
        head = self.render_text(trace.prompt).rstrip().removesuffix(self.think[0])
        bare = self.tokenizer(head, add_special_tokens=False, verbose=False)["input_ids"]
        return align(trace, tokenizer=self.tokenizer, prompt_ids=bare, opened_ids=rendered)

    def generate(
        self,
        prompts: str | Task | Sequence[str | Task],
        *,
        steer: Steering = None,
        samples: int = 1,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int = 0,
        until: Literal["end", "think", "answer"] | Callable[[str], bool] = "end",
        thinking_budget: int | None = None,
        force_answer: bool | str = False,
        prefix: str | Sequence[str | Sequence[int] | None] | None = None,
        forbid: Callable[[Sequence[int]], Collection[int]] | None = None,
        batch_size: int | None = None,
        on_token: Callable[[int, int, str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        on_interrupt: Literal["return", "raise"] = "return",
    ) -> Traces:
        """Chains for prompts, steered or not: see :func:`steerkit.generation.generate`."""
        from steerkit.generation import generate

        return generate(
            self,
            prompts,
            steer=self.steering if steer is None else steer,
            samples=samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed,
            until=until,
            thinking_budget=thinking_budget,
            force_answer=force_answer,
            prefix=prefix,
            forbid=forbid,
            batch_size=batch_size,
            on_token=on_token,
            progress=progress,
            on_interrupt=on_interrupt,
        )

    def sweep(self, tasks: str | Task | Sequence[str | Task], steer: Any, **options: Any) -> Sweep:
        """Chains under many coefficients, layers and directions: see
        :func:`steerkit.sweeps.sweep`."""
        from steerkit.sweeps import sweep

        return sweep(self, tasks, steer, **options)

    def stream(self, prompt: str | Task, **options: Any) -> Iterator[Token]:
        """One chain token by token: see :func:`steerkit.token_stream.stream`."""
        from steerkit.token_stream import stream

        options.setdefault("steer", self.steering)
        return stream(self, prompt, **options)

    def read(self, traces: Trace | Sequence[Trace], vectors: Any, **options: Any) -> pd.DataFrame:
        """Every token's projection on directions: see :func:`steerkit.projections.read`."""
        from steerkit.projections import read

        return read(self, traces, vectors, **options)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Within it no gradient is kept and dropout is off; afterwards modes are as before."""
        training = [module for module in self.hf.modules() if module.training]
        if training:  # a stream enters this at every token
            self.hf.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

    @contextmanager
    def own_passes(self) -> Iterator[None]:
        """Within it :meth:`steer` leaves forward passes alone: they are steerkit's own.

        So reading is unsteered and generation has the edits that it was given. What a pass before
        it left attached is taken off.
        """
        following = self.following
        if following is not None:
            following.release()
        self.following = None
        try:
            yield
        finally:
            self.following = following

    @contextmanager
    def steer(self, *terms: Term | Terms | Direction) -> Iterator[ThinkingModel]:
        """Within it, :meth:`generate` is steered by these terms unless told otherwise.

        So are Hugging Face's own ``model.hf.generate`` and plain calls of ``model.hf``, but not
        beam search. Contexts nest; the inner one takes the place of the outer.
        """
        from steerkit.steering import steer

        with steer(self, *terms):
            yield self

    def bridge(self) -> Any:
        """A TransformerLens ``TransformerBridge`` of a copy of the model, for heads and MLPs.

        The copy doubles the memory; it is needed because a bridge swaps the modules of the
        model that it wraps.
        """
        from transformer_lens.model_bridge import TransformerBridge

        tokenizer = copy.deepcopy(self.tokenizer)
        # else the bridge loads a tokenizer of that name again, wherever this one comes from
        tokenizer.init_kwargs = {**tokenizer.init_kwargs, "name_or_path": "", "add_bos_token": True}
        self.residual.detach()
        try:
            twin = copy.deepcopy(self.hf)
        finally:
            self.residual.attach()
        return TransformerBridge.boot_transformers(
            twin.config._name_or_path or self.name, hf_model=twin, tokenizer=tokenizer
        )


def _think_strings(tokenizer: Any, name: str) -> tuple[str, str]:
    vocabulary = tokenizer.get_vocab()
    template = tokenizer.chat_template or ""
    if all(text in vocabulary for text in THINK) or THINK[1] in template:
        return THINK
    raise ModelError(
        f"{name} has no think strings that its tokenizer or chat template tell of",
        expected=f"{THINK[0]} and {THINK[1]}",
        fix='name them: sk.load(..., think=("<think>", "</think>")), or '
        "--think '<think>' '</think>' on the command line; plain text will do",
    )


def _checked(think: tuple[str, str]) -> tuple[str, str]:
    if len(think) != 2 or not all(isinstance(text, str) and text.strip() for text in think):
        raise ModelError(
            "think strings are unusable", expected="(opening, closing)", found=repr(think)
        )
    return think[0], think[1]


def _with_think(trace: Trace, think: tuple[str, str]) -> Trace:
    from dataclasses import replace

    return replace(trace, metadata={**trace.metadata, "think": list(think)})


def unknown_words(model: ThinkingModel, prompt: str) -> list[str]:
    """Words of a prompt that the model's vocabulary lacks; empty for most tokenizers."""
    unknown = model.tokenizer.unk_token_id
    if unknown is None:
        return []
    encoded = model.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    return [
        prompt[left:right]
        for token, (left, right) in zip(
            encoded["input_ids"], encoded["offset_mapping"], strict=True
        )
        if token == unknown
    ]


def check_length(model: ThinkingModel, prompt_tokens: int, new_tokens: int, where: str) -> None:
    """Refuse a prompt that leaves no room for ``new_tokens`` in the model's context."""
    if model.context is not None and prompt_tokens + new_tokens > model.context:
        raise GenerationError(
            "prompt and new tokens together are longer than the context",
            expected=f"at most {model.context} tokens",
            found=f"{prompt_tokens} of the prompt and {new_tokens} to be generated",
            where=where,
            fix="shorten the prompt or lower max_new_tokens",
        )
