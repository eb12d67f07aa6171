"""Checkpoints and the log of a training run: written in one move, resumed exactly."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from steerkit.errors import TrainingError
from steerkit.files import write_text_atomic
from steerkit.plots import save_figure
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.config import RLConfig, SFTConfig
from steerkit.training.plots import plot_training


@dataclass
class Position:
    """Where a supervised run stands: optimizer steps, tokens seen, next batch of the data."""

    step: int = 0
    tokens: int = 0
    chunk: int = 0
    batch: int = 0

    @property
    def spent(self) -> int:
        """How much of ``SFTConfig.tokens`` is used up."""
        return self.tokens


@dataclass
class RLPosition:
    """Where a run of reinforcement learning stands: optimizer steps, tokens generated so far."""

    step: int = 0
    tokens: int = 0

    @property
    def spent(self) -> int:
        """How much of ``RLConfig.steps`` is used up."""
        return self.step


@dataclass
class AdapterPosition:
    """Where the fitting of an adapter stands.

    Optimizer steps, tokens seen, seconds spent on them, and the held-out loss before the first
    step, in nats per token (``None`` without held-out chains).
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    before: float | None = None

    @property
    def spent(self) -> int:
        """How much of ``AdapterConfig.steps`` is used up."""
        return self.step


AnyConfig = SFTConfig | RLConfig | AdapterConfig
AnyPosition = TypeVar("AnyPosition", Position, RLPosition, AdapterPosition)


def latest_checkpoint(out: Path | str) -> Path | None:
    """The newest complete checkpoint folder of a run, or ``None``."""
    found = sorted((Path(out) / "checkpoint").glob("step-*[0-9]"))
    return found[-1] if found else None


def saved_config(folder: Path) -> dict[str, Any]:
    """The configuration that a checkpoint was written with, as JSON has it."""
    found: dict[str, Any] = json.loads((folder / "state.json").read_text())["config"]
    return found


def save_checkpoint(
    out: Path,
    config: AnyConfig,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position | RLPosition | AdapterPosition,
    *,
    base: str | None = None,
) -> None:
    """Write ``checkpoint/step-N`` by one rename, then remove the older ones.

    The folder holds the weights that are trained, the optimizer's moments by parameter name,
    and the configuration with the position and ``base``, the SHA-256 of the weights that the run
    began with if they came from another one. Nothing else decides how a run goes on:
    what is random follows from the configuration and the position.
    """
    folder = out / "checkpoint" / f"step-{position.step:08d}"
    if folder.exists():
        return
    temporary = folder.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights, moments = {}, {}
    for name, parameter in _trained(model):
        weights[name] = parameter.detach().contiguous()
        for key, tensor in optimizer.state[parameter].items():
            moments[f"{name}.{key}"] = tensor.contiguous()
    save_file(weights, temporary / "model.safetensors")
    save_file(moments, temporary / "optimizer.safetensors")
    state = {"config": asdict(config), "position": asdict(position), "base": base}
    write_text_atomic(temporary / "state.json", json.dumps(state, indent=1))
    older = [entry for entry in folder.parent.iterdir() if entry != temporary]
    temporary.rename(folder)
    for entry in older:
        shutil.rmtree(entry)


def load_checkpoint(
    folder: Path,
    config: AnyConfig,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    kind: type[AnyPosition],
    *,
    base: str | None = None,
) -> AnyPosition:
    """Put weights and moments back in place, on any device; the position to go on from.

    Raises :class:`TrainingError` for a checkpoint of another configuration or ``base``. Only
    the budget may differ, and only before either budget's decay of the learning rate begins.
    """
    state = json.loads((folder / "state.json").read_text())
    # through JSON, as the saved one went: a tuple is a list there
    wanted = {**json.loads(json.dumps(asdict(config))), "base": base}
    saved = {**state["config"], "base": state.get("base")}
    if saved.keys() != wanted.keys():
        raise TrainingError(
            "the checkpoint is of another stage of the training, or of another version",
            expected="a run with " + ", ".join(n for n in wanted if n not in saved),
            found="one with " + ", ".join(n for n in saved if n not in wanted),
            where=folder,
            fix="choose another output folder, or start anew without resuming",
        )
    other = [name for name in wanted if saved[name] != wanted[name]]
    position = kind(**state["position"])
    if position.spent <= min(c[config.budget] * (1 - c["decay"]) for c in (wanted, saved)):
        other = [name for name in other if name not in (config.budget, "decay")]
    if other:
        raise TrainingError(
            f"the checkpoint was trained with another {', '.join(other)}",
            expected={name: wanted[name] for name in other},
            found={name: saved[name] for name in other},
            where=folder,
            fix="choose another output folder, or start anew without resuming",
        )
    weights = load_file(folder / "model.safetensors")
    moments = load_file(folder / "optimizer.safetensors")
    for name, parameter in _trained(model):
        parameter.data.copy_(weights[name])
        keys = [key for key in moments if key.rpartition(".")[0] == name]
        optimizer.state[parameter] = {
            key.rpartition(".")[2]: moments[key].to(parameter.device) for key in keys
        }
    return position


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters that are trained: all of the bundled models, an adapter's alone of others."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


class TrainingLog:
    """A CSV file with one row now and then; a resumed run goes on in it.

    Opening it at ``step`` drops the rows of later steps, which a resumed run writes again.
    """

    def __init__(self, path: Path, step: int, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = columns
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

    def write_once(self, row: Mapping[str, object], **measured: float) -> None:
        """Add a row with figures of its own, unless that step has them already."""
        with self.path.open(newline="") as file:
            rows = [old for old in csv.DictReader(file) if old["step"] == str(row["step"])]
        if not any(old[name] for old in rows for name in measured):
            self.write({**row, **{name: round(value, 4) for name, value in measured.items()}})


def draw_log(out: Path) -> None:
    """Write ``training.png`` beside ``log.csv``, if that has rows."""
    log = pd.read_csv(out / "log.csv")
    if len(log):
        save_figure(plot_training(log), out / "training.png")
