"""Base: the model that reinforcement learning begins with, and folders like its own."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from steerkit.errors import TrainingError
from steerkit.files import write_bytes_atomic
from steerkit.loading import load
from steerkit.models import ThinkingModel
from steerkit.resources import bundled_models
from steerkit.training.model import write_weights

WEIGHTS = "model.safetensors"
_COPIED = (
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class Base:
    """A model's folder, and which state of it this is.

    Attributes
    ----------
    name, folder:
        What it is called, and where it lies.
    sha256:
        Of its ``model.safetensors``, as ``sha256sum`` prints it.
    """

    name: str
    folder: Path
    sha256: str

    @staticmethod
    def find(source: str | Path) -> Base:
        """The base of a bundled name or a folder.

        Raises :class:`TrainingError` where there is none with its weights in one file.
        """
        bundled = bundled_models()
        folder = bundled.get(str(source), Path(source))
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise TrainingError(
                f"no model {str(source)!r} to begin with",
                expected=f"a bundled name ({', '.join(bundled)}) or a folder with {WEIGHTS}",
                fix="name a model that supervised training made: steerkit train sft",
            )
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        return Base(folder.resolve().name, folder, digest)

    def load(self, device: torch.device) -> ThinkingModel:
        """The model in float32 with its weights trainable, in evaluation mode.

        Chains and training pass see the same policy: no dropout in either. Raises
        :class:`TrainingError` for a model with several end tokens, for a chain does not
        tell which of them it wrote.
        """
        model = load(self.folder, device=device, dtype="float32", name=self.name)
        if model.eos_ids != {model.tokenizer.eos_token_id}:
            raise TrainingError(
                "the base needs one end token",
                expected=f"{model.tokenizer.eos_token!r}, the tokenizer's",
                found=sorted(model.eos_ids),
                where=self.folder,
            )
        model.hf.requires_grad_(True)
        return model

    def export(self, model: ThinkingModel, folder: Path) -> None:
        """Write ``model`` as a folder like the base's: other weights, all else byte for byte.

        Weights are rounded to float16 in the file alone; ``model`` stays as it is.
        """
        for name in _COPIED:
            if (self.folder / name).is_file():
                write_bytes_atomic(folder / name, (self.folder / name).read_bytes())
        write_weights(model.hf, folder / WEIGHTS)

    def snapshot(self, model: ThinkingModel, folder: Path) -> None:
        """:meth:`export` in one move: ``folder`` is there whole or not at all."""
        temporary = folder.with_suffix(".part")
        shutil.rmtree(temporary, ignore_errors=True)
        self.export(model, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
