"""LoRA matrices in a model while they are trained, and the folder that they are written to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steerkit.adapters import CONFIG, RECORD, TEMPLATE, WEIGHTS, import_peft
from steerkit.errors import TrainingError
from steerkit.files import write_bytes_atomic, write_text_atomic
from steerkit.models import ThinkingModel
from steerkit.residual import decoder_layers
from steerkit.training.adapter_config import PROJECTIONS, AdapterConfig

_SAMPLED = 4096  # values of every parameter that a digest of weights looks at


@contextmanager
def lora(model: ThinkingModel, config: AdapterConfig) -> Iterator[Any]:
    """Within it the model has LoRA matrices that can be trained, and nothing else of it can.

    The matrices are float32 whatever the weights are, A random from ``config.seed`` and B
    zero, so that the model computes what it did before. Afterwards they are gone and all is
    as it was. Gives peft's model around ``model.hf``.
    """
    peft = import_peft()
    trainable = [(p, p.requires_grad) for p in model.hf.parameters()]
    modes = [(module, module.training) for module in model.hf.modules()]
    described = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = None
    try:
        model.hf.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            adapted = peft.get_peft_model(model.hf, described)
        # the adapter's own dropout and no other: the base stays in evaluation mode
        model.hf.eval()
        for name, module in model.hf.named_modules():
            if "lora_dropout" in name:
                module.train()
        yield adapted
    finally:
        if adapted is not None:
            adapted.unload()
        for parameter, before in trainable:
            parameter.requires_grad_(before)
        for module, before in modes:
            module.training = before


def target_layers(model: ThinkingModel, wanted: Sequence[str]) -> tuple[str, ...]:
    """Names of the linear layers to adapt, in alphabetical order.

    Without ``wanted`` those of :data:`PROJECTIONS` that the decoder layers have. Raises
    :class:`TrainingError`, listing what there is, for a name that is not there.
    """
    there = {
        name.rpartition(".")[2]
        for layer in decoder_layers(model.hf)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }
    chosen = set(wanted) or set(PROJECTIONS) & there
    if not chosen or not chosen <= there:
        raise TrainingError(
            f"{model.name} lacks the linear layers to adapt",
            expected="some of " + (", ".join(sorted(there)) or "none: it has no linear layers"),
            found=", ".join(sorted(chosen - there)) or "none of the usual names",
            fix="name them: --targets NAME[,NAME]",
        )
    return tuple(sorted(chosen))


def weights_digest(model: ThinkingModel) -> str:
    """16 digits that tell a model's weights from others, without reading all of them.

    They are of the SHA-256 of names, shapes and up to 4,096 evenly spaced values of every
    parameter, as float32: a model that was trained on, or rounded to another grid, differs.
    Raises :class:`TrainingError` for weights that are not in memory.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.hf.named_parameters()):
        if parameter.device.type == "meta":
            raise TrainingError(
                f"the weights of {model.name} are not in memory",
                found=f"{name} is offloaded",
                fix="load the model without device_map, or on a device that holds it",
            )
        flat = parameter.detach().flatten()
        stride = max(1, flat.numel() // _SAMPLED)
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(flat[::stride][:_SAMPLED].float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def round_matrices(adapted: Any) -> None:
    """Round the LoRA matrices to float16 in place, as they are stored: what is measured
    afterwards is measured on exactly the file."""
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            rounded = parameter.to(torch.float16)
            if not rounded.isfinite().all():
                raise TrainingError(
                    "the adapter's weights have grown out of bounds",
                    expected="finite numbers below 65,504",
                    where=name,
                    fix="train again with a lower learning rate",
                )
            parameter.copy_(rounded)


def write_adapter(
    folder: Path,
    adapted: Any,
    *,
    base: str,
    chat_template: str | None,
    record: Mapping[str, Any],
    card: str,
) -> int:
    """Write peft's folder format, a record and a card; the size of the weights in bytes.

    Files are ``adapter_config.json``, ``adapter_model.safetensors`` in float16, the chat
    template if one is needed, ``training.json`` and ``README.md``, each in one move. The same
    matrices give the same bytes.
    """
    from safetensors.torch import save

    peft = import_peft()
    matrices = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    stored = {n: m.detach().to("cpu", torch.float16).contiguous() for n, m in matrices.items()}
    content = save(stored, metadata={"format": "pt"})
    described = {
        **adapted.peft_config["default"].to_dict(),
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    # peft keeps names in a set, whose order changes from run to run
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in described.items()}
    write_text_atomic(folder / CONFIG, json.dumps(plain, indent=2, sort_keys=True) + "\n")
    if chat_template is not None:
        write_text_atomic(folder / TEMPLATE, chat_template)
    write_text_atomic(folder / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")
    write_text_atomic(folder / "README.md", card)
    write_bytes_atomic(folder / WEIGHTS, content)
    return len(content)
