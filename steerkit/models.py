"""ThinkingModel: a language model, its tokenizer, and how it thinks; ``load`` gets one."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from steerkit.alignment import AlignedTrace, align
from steerkit.errors import GenerationError, ModelError
from steerkit.places import ends_sentence
from steerkit.residual import ResidualStream
from steerkit.resources import bundled_models
from steerkit.traces import THINK, Trace, Traces

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

    from steerkit.steering import Steering
    from steerkit.sweeps import Sweep
    from steerkit.tasks import Task
    from steerkit.terms import Term, Terms
    from steerkit.token_stream import Token
    from steerkit.vectors import Direction

logger = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


class ThinkingModel:
    """A causal language model that writes its chain of thought between two think strings.

    Made by :func:`load`. The Hugging Face model in ``hf`` is left exactly as it is;
    ``residual`` holds its hook points.

    Attributes
    ----------
    hf, tokenizer:
        The Hugging Face model and its tokenizer.
    name, revision:
        What the model is called and which state of it this is, for provenance.
    think:
        Opening and closing think string: special tokens, or plain text.
    residual:
        :class:`steerkit.residual.ResidualStream` on ``hf``.
    n_layers, d_model, context:
        Decoder layers, width of the residual stream, longest sequence (``None``: no limit).
    steering, generating:
        What :meth:`steer` put in force, and whether :meth:`generate` is at work.
    """

    def __init__(
        self,
        hf: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        revision: str | None = None,
        think: tuple[str, str] | None = None,
    ) -> None:
        self.hf = hf
        self.tokenizer: Any = tokenizer
        self.name = name
        self.revision = revision
        self.think = _think_strings(tokenizer, name) if think is None else _checked(think)
        self.residual = ResidualStream(hf)
        config = self.hf.config.get_text_config()
        self.n_layers = self.residual.n_layers
        self.d_model: int = config.hidden_size
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.steering: Steering = None
        self.generating = False

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
        self.hf.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

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


def load(
    source: str | Path | nn.Module,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    think: tuple[str, str] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    revision: str | None = None,
    name: str | None = None,
) -> ThinkingModel:
    """Get a thinking model.

    Parameters
    ----------
    source:
        A bundled name (``"countdown-thinking"``), a folder, a Hub name
        (``"deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"``), or a Hugging Face model in
        memory, which needs its ``tokenizer``.
    think:
        Opening and closing think string, where the tokenizer does not tell: for a model
        that writes them as plain text, ``("<think>", "</think>")``.
    device:
        ``"cuda"``, ``"cpu"``, ...; by default a CUDA GPU if there is one, else the CPU. Not
        with ``device_map``.
    dtype:
        ``"bfloat16"``, ``"float16"``, ``"float32"`` (or ``bf16``, ``fp16``, ``fp32``); by
        default the checkpoint's own, but float32 for a float16 checkpoint on the CPU.
    device_map:
        Passed to Hugging Face, to spread a model with accelerate.
    revision, name:
        A commit, branch or tag on the Hub, not of a bundled model; another name for
        provenance.

    Raises :class:`ModelError` for a model that cannot be found, read, understood or moved
    to the device, and for one without think strings. Code that comes with a model is never
    run, and weights are read from safetensors only: nothing is unpickled.
    """
    if isinstance(source, nn.Module):
        if tokenizer is None:
            raise ModelError(
                "a model in memory needs its tokenizer",
                fix="pass tokenizer=AutoTokenizer.from_pretrained(...)",
            )
        if device is not None or device_map is not None or dtype is not None:
            raise ModelError(
                "a model in memory stays where and as it is",
                expected="no device, device_map or dtype",
                fix="move or cast it before: hf.to(...)",
            )
        hf = getattr(source, "original_model", source)
        called = name or _name_of(hf)
        return ThinkingModel(hf, tokenizer, name=called, revision=revision, think=think)
    place, called, state = _resolve(source, revision)
    if device is not None and device_map is not None:
        raise ModelError("device and device_map exclude each other", fix="name one of them")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    hf = _read_model(place, dtype, device, device_map, revision)
    if tokenizer is None:
        tokenizer = _read_tokenizer(place, revision)
    hf.eval()
    hf.requires_grad_(False)
    state = state or getattr(hf.config, "_commit_hash", None)
    return ThinkingModel(hf, tokenizer, name=name or called, revision=state, think=think)


def _name_of(hf: Any) -> str:
    """What a model in memory is called: its Hub name, its folder's name, or its class."""
    origin = str(getattr(hf.config, "_name_or_path", ""))
    hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+", origin) and not Path(origin).exists()
    return origin if hub else Path(origin).name or type(hf).__name__


def _resolve(source: str | Path, revision: str | None) -> tuple[str, str, str | None]:
    """Where a model lies, what it is called, and its revision if that is known already."""
    folder = Path(source)
    bundled = bundled_models()
    if str(source) in bundled and not folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"the bundled model {str(source)!r} has one revision only",
                found=f"revision {revision!r}",
                fix="leave the revision away: it is for models of the Hub",
            )
        path = bundled[str(source)]
        weights = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        return str(path), str(source), weights[:16]
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                "the folder holds no model",
                expected="a Hugging Face folder with config.json",
                where=source,
            )
        return str(folder), folder.resolve().name, revision
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "~", "/")):
        raise ModelError(
            f"no model {text!r}",
            expected="a bundled name (" + ", ".join(bundled) + "), a folder, or a Hub name "
            "such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        )
    return text, text, revision


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _read_model(
    place: str,
    dtype: str | torch.dtype | None,
    device: str | torch.device,
    device_map: str | Mapping[str, Any] | None,
    revision: str | None,
) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    wanted: Any = "auto" if dtype is None else dtype
    if isinstance(wanted, str) and wanted != "auto":
        if wanted not in DTYPES:
            raise ModelError(f"unknown dtype {wanted!r}", expected="one of " + ", ".join(DTYPES))
        wanted = DTYPES[wanted]
    target = _checked_device(device, device_map)
    try:
        # False, not None: else Hugging Face asks on the terminal whether to run a model's code
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        if wanted == "auto" and target.type == "cpu" and config.dtype == torch.float16:
            wanted = torch.float32  # float16 arithmetic is slow and coarse on a CPU
        _refuse_pickled(place, config)
        hf = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=wanted,
            device_map=device_map,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as problem:
        if "cannot be loaded with `safetensors`" in str(problem):  # on the Hub, and only there
            raise _pickled(place, _first_line(problem)) from problem
        raise ModelError(
            f"cannot load the model {place!r}",
            found=_first_line(problem),
            fix="check the name, that it is on this machine or the Hub can be reached, and that "
            "access was granted; a model that needs code of its own cannot be loaded",
        ) from problem
    except (SafetensorError, RuntimeError, AssertionError, MemoryError) as problem:
        if device_map is not None and _of_the_device(problem):
            raise _cannot_move(place, f"device_map={device_map!r}", problem) from problem
        raise ModelError(
            f"cannot read the weights of {place!r}",
            found=_first_line(problem),
            fix="they are damaged or of another shape than config.json says: get them again",
        ) from problem
    if device_map is not None:
        return hf
    try:
        return hf.to(target)
    except (RuntimeError, AssertionError, ImportError, MemoryError) as problem:
        raise _cannot_move(place, str(target), problem) from problem


def _checked_device(
    device: str | torch.device, device_map: str | Mapping[str, Any] | None
) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ModelError(
            f"unknown device {device!r}", expected="cpu, cuda, cuda:0, mps ..."
        ) from None
    spread = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    if "meta" in (target.type, *map(str, spread)):
        raise ModelError("the meta device holds no weights", fix="use --device cpu")
    if target.type == "cuda" and not torch.cuda.is_available() and device_map is None:
        raise ModelError("no CUDA device here", found=str(device), fix="use --device cpu")
    return target


def _refuse_pickled(place: str, config: Any) -> None:
    """Refuse a folder whose weights could only be unpickled; one without weights passes."""
    named = str(getattr(config, "transformers_weights", None) or "")
    folder = Path(place)
    safe = any(folder.glob("*.safetensors")) or not folder.is_dir()
    found = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
    if named.endswith(".bin") or (found and not safe):
        raise _pickled(place, named or ", ".join(found))


def _pickled(place: str, found: str) -> ModelError:
    return ModelError(
        f"the weights of {place!r} are pickled, and reading them could run code",
        expected="model.safetensors",
        found=found,
        fix="convert it to safetensors first",
    )


def _memory_ran_out(problem: BaseException) -> bool:
    texts = ("out of memory", "can't allocate memory")
    return isinstance(problem, MemoryError) or any(text in str(problem) for text in texts)


def _of_the_device(problem: BaseException) -> bool:
    """Whether loading failed because of where the weights should go, not of what they are."""
    absent = isinstance(problem, AssertionError) or "device" in _first_line(problem)
    return absent or _memory_ran_out(problem)


def _cannot_move(place: str, target: str, problem: BaseException) -> ModelError:
    room = "name a dtype of half the size, spread the model with device_map, or use --device cpu"
    short = _memory_ran_out(problem)
    return ModelError(
        f"no memory left for {place!r} on {target}" if short else f"cannot use {target} here",
        found=_first_line(problem),
        fix=room if short else "name a device that is here, such as --device cpu",
    )


def _read_tokenizer(place: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        declared = get_tokenizer_config(place, revision=revision).get("tokenizer_class")
        # AutoTokenizer rebuilds the tokenizer of every model of type qwen2 as Qwen2's own BPE,
        # whatever tokenizer.json holds; where the folder declares the general class, read it so
        general = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
        reader: Any = PreTrainedTokenizerFast if general else AutoTokenizer
        return reader.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise ModelError(
            f"cannot load the tokenizer of {place!r}",
            found=_first_line(problem),
            fix="pass tokenizer=...",
        ) from problem


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
