"""Ways to write steered text: steerkit, plain Hugging Face, and the peers, by one interface.

Each way is imported where it is used, for every peer has an environment of its own; beside
PyTorch and transformers nothing is common to all. A job says what is to be written
(:class:`Job`), and a contender gives the new token ids of its rows. All are greedy, none may
stop early, and every one that steers adds the same vector at the same layer and positions.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Job:
    """What is to be written.

    ``texts`` and, rendered and padded on the left, ``ids`` and ``mask`` are the same prompts.
    Every prompt is continued by ``new_tokens`` tokens under each of ``coefficients``, where a
    coefficient c adds c * ``push`` * u at the output of decoder layer ``layer``, u being a unit
    vector drawn from ``seed``; 0 is unsteered.
    """

    texts: list[str]
    ids: list[list[int]]
    mask: list[list[int]]
    new_tokens: int
    coefficients: list[float]
    layer: int
    push: float
    seed: int = 0
    batch_size: int | None = None

    def unit(self, width: int) -> torch.Tensor:
        """u, float32 on the CPU."""
        vector = torch.randn(width, generator=torch.Generator().manual_seed(self.seed))
        return vector / vector.norm()


Rows = list[list[int]]
Contender = Callable[[Job], Rows]


def read_model(folder: str, dtype: str, device: str) -> Any:
    """A Hugging Face model that never stops early, read alike by transformers 4 and 5."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    set_rotary_base(config, json.loads((Path(folder) / "config.json").read_text()))
    hf = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=getattr(torch, dtype))
    return unending(hf.to(device).eval().requires_grad_(False))


def set_rotary_base(config: Any, stored: dict[str, Any]) -> None:
    """Give transformers 4 the base that transformers 5 stored among ``rope_parameters``.

    It keeps what it does not know as an attribute, and computes with its own 10,000.
    """
    rope = stored.get("rope_parameters") or {}
    if "rope_theta" in rope and hasattr(config, "rope_theta"):
        config.rope_theta = rope["rope_theta"]


def unending(hf: Any) -> Any:
    """The model without end tokens, and greedy: everyone writes as many tokens as asked."""
    from transformers import GenerationConfig

    hf.generation_config = GenerationConfig(
        eos_token_id=None, pad_token_id=0, do_sample=False, use_cache=True
    )
    return hf


def twin(hf: Any) -> Any:
    """The same weights in modules of their own, so that no hook of one is on the other."""
    shared = {id(p): p for p in hf.parameters()}
    return copy.deepcopy(hf, shared)


def _tensors(job: Job, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(job.ids, device=device), torch.tensor(job.mask, device=device)


def _generate(generate: Callable[..., torch.Tensor], job: Job, device: Any) -> Rows:
    """One batch by a ``generate`` of Hugging Face's form."""
    ids, mask = _tensors(job, device)
    written = generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=job.new_tokens,
        min_new_tokens=job.new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return written[:, ids.shape[1] :].tolist()


def plain(hf: Any) -> Contender:
    """Hugging Face's ``generate``, unsteered whatever the coefficients."""

    def write(job: Job) -> Rows:
        rows: Rows = []
        for _ in job.coefficients:
            rows += _generate(hf.generate, job, hf.device)
        return rows

    return write


def steerkit(model: Any) -> Contender:
    """``model.generate`` of a :class:`steerkit.ThinkingModel`: all coefficients in one call."""
    from steerkit.direction import Direction

    unending(model.hf)
    model.eos_ids = frozenset()  # takes the place of the cached property: the tokenizer's too

    def write(job: Job) -> Rows:
        length = torch.tensor([job.push])
        direction = Direction(
            behavior="backtracking",
            tensor=job.unit(model.d_model)[None],
            layers=(job.layer,),
            mean_norm=length,
            norm_of_mean=length,
            layer=job.layer,
            spans=1,
            tasks=1,
            n_layers=model.n_layers,
        )
        steer = [c * direction if c else None for c in job.coefficients for _ in job.texts]
        size = {} if job.batch_size is None else {"batch_size": job.batch_size}
        traces = model.generate(
            job.texts * len(job.coefficients),
            steer=steer,
            temperature=0.0,
            max_new_tokens=job.new_tokens,
            **size,
        )
        return [list(trace.token_ids or ()) for trace in traces]

    return write


def bridge(hf: Any, folder: str) -> Contender:
    """``TransformerBridge.generate`` of TransformerLens 4, with a hook that adds the vector."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
    # else the bridge loads a tokenizer of the folder's name again
    tokenizer.init_kwargs = {**tokenizer.init_kwargs, "name_or_path": "", "add_bos_token": True}
    bridged = TransformerBridge.boot_transformers(folder, hf_model=hf, tokenizer=tokenizer)

    def write(job: Job) -> Rows:
        device = bridged.cfg.device
        ids, mask = _tensors(job, device)
        edit = job.push * job.unit(bridged.cfg.d_model).to(device, next(bridged.parameters()).dtype)
        rows: Rows = []
        for c in job.coefficients:

            def add(hidden: torch.Tensor, hook: object, c: float = c) -> torch.Tensor:
                return hidden + c * edit

            hooks = [(f"blocks.{job.layer}.hook_resid_post", add)] if c else []
            with bridged.hooks(fwd_hooks=hooks), torch.no_grad():
                written = bridged.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=job.new_tokens,
                    stop_at_eos=False,
                    do_sample=False,
                    return_type="tokens",
                    verbose=False,
                )
            rows += written[:, ids.shape[1] :].tolist()
        return rows

    return write


def steering_vectors(hf: Any) -> Contender:
    """The package steering-vectors: a hook at one decoder block, on within a context."""
    from steering_vectors import SteeringVector

    def write(job: Job) -> Rows:
        edit = job.push * job.unit(hf.config.hidden_size).to(hf.device, hf.dtype)
        vector = SteeringVector({job.layer: edit}, layer_type="decoder_block")
        rows: Rows = []
        for c in job.coefficients:
            if c:
                with vector.apply(hf, multiplier=c):
                    rows += _generate(hf.generate, job, hf.device)
            else:
                rows += _generate(hf.generate, job, hf.device)
        return rows

    return write


def repeng(hf: Any) -> Contender:
    """The package repeng: a layer is wrapped, and its control set or reset."""
    from repeng import ControlModel, ControlVector

    wrapped: dict[int, Any] = {}

    def write(job: Job) -> Rows:
        if job.layer not in wrapped:
            wrapped[job.layer] = ControlModel(hf, [job.layer])
        control = wrapped[job.layer]
        edit = (job.push * job.unit(hf.config.hidden_size)).numpy()
        vector = ControlVector(hf.config.model_type, {job.layer: edit})
        rows: Rows = []
        for c in job.coefficients:
            if c:
                control.set_control(vector, c)
            else:
                control.reset()
            rows += _generate(control.generate, job, hf.device)
        return rows

    return write


def open_contenders(
    names: list[str], folder: str, dtype: str, device: str
) -> tuple[dict[str, Contender], Any]:
    """Contenders of one process on one set of weights, and the steerkit model where there is one.

    ``plain`` and ``steerkit`` share weights but no modules; a peer is alone in its process.
    """
    if not {*names} <= {"plain", "steerkit"}:
        (name,) = names
        hf = read_model(folder, dtype, device)
        if name == "bridge":
            return {name: bridge(hf, folder)}, None
        return {name: {"steering-vectors": steering_vectors, "repeng": repeng}[name](hf)}, None
    import steerkit as sk

    model = sk.load(folder, think=("<think>", "</think>"), dtype=dtype, device=device)
    unending(model.hf)
    # made while nothing is hooked: what is copied would carry the hooks along
    model.residual.detach()
    bare = twin(model.hf)
    model.residual.attach()
    ways = {"plain": lambda: plain(bare), "steerkit": lambda: steerkit(model)}
    return {name: ways[name]() for name in names}, model
