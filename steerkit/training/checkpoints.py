"""Checkpoints and the log of a training run: written in one move, resumed exactly."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from steerkit.errors import TrainingError
from steerkit.files import write_text_atomic
from steerkit.training.config import SFTConfig


@dataclass
class Position:
    """Where a run stands: optimizer steps, tokens seen, and the next batch of the data."""

    step: int = 0
    tokens: int = 0
    chunk: int = 0
    batch: int = 0


def latest_checkpoint(out: Path | str) -> Path | None:
    """The newest complete checkpoint folder of a run, or ``None``."""
    found = sorted((Path(out) / "checkpoint").glob("step-*[0-9]"))
    return found[-1] if found else None


def save_checkpoint(
    out: Path,
    config: SFTConfig,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
) -> None:
    """Write ``checkpoint/step-N`` by one rename, then remove the older ones.

    The folder holds weights, the optimizer's moments by parameter name, and the
    configuration with the position. Nothing else decides how a run goes on: training
    draws no random numbers after the first weights, and the data follow from the position.
    """
    folder = out / "checkpoint" / f"step-{position.step:08d}"
    if folder.exists():
        return
    temporary = folder.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights, moments = {}, {}
    for name, parameter in model.named_parameters():
        weights[name] = parameter.detach().contiguous()
        for key, tensor in optimizer.state[parameter].items():
            moments[f"{name}.{key}"] = tensor.contiguous()
    save_file(weights, temporary / "model.safetensors")
    save_file(moments, temporary / "optimizer.safetensors")
    state = {"config": asdict(config), "position": asdict(position)}
    write_text_atomic(temporary / "state.json", json.dumps(state, indent=1))
    older = [entry for entry in folder.parent.iterdir() if entry != temporary]
    temporary.rename(folder)
    for entry in older:
        shutil.rmtree(entry)


def load_checkpoint(
    folder: Path,
    config: SFTConfig,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Position:
    """Put weights and moments back in place; the position to go on from.

    Raises :class:`TrainingError` for a checkpoint of another configuration. Only the
    budget may differ, and only before either budget's decay of the learning rate begins.
    """
    state = json.loads((folder / "state.json").read_text())
    wanted, saved = asdict(config), state["config"]
    position = Position(**state["position"])
    other = [name for name in wanted if saved.get(name) != wanted[name]]
    if position.tokens <= min(c["tokens"] * (1 - c["decay"]) for c in (wanted, saved)):
        other = [name for name in other if name not in ("tokens", "decay")]
    if other:
        raise TrainingError(
            f"the checkpoint was trained with another {', '.join(other)}",
            expected={name: wanted[name] for name in other},
            found={name: saved.get(name) for name in other},
            where=folder,
            fix="choose another output folder, or start anew without resuming",
        )
    weights = load_file(folder / "model.safetensors")
    moments = load_file(folder / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
        keys = [key for key in moments if key.rpartition(".")[0] == name]
        optimizer.state[parameter] = {key.rpartition(".")[2]: moments[key] for key in keys}
    return position


class TrainingLog:
    """A CSV file with one row now and then; a resumed run goes on in it.

    Opening it at ``step`` drops the rows of later steps, which a resumed run writes again.
    """

    columns = (
        "step",
        "tokens",
        "loss",
        "learning_rate",
        "tokens_per_second",
        "heldout_loss",
        "closed",
        "parsed",
        "accuracy",
    )

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        content = io.StringIO(newline="")
        writer = csv.DictWriter(content, self.columns)
        writer.writeheader()
        writer.writerows(kept)
        write_text_atomic(path, content.getvalue())

    def write(self, row: Mapping[str, object]) -> None:
        """Add one row; columns that it lacks stay empty."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)
