"""Reinforcement learning with verifiable rewards: RLOO, on-policy."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import torch

from steerkit.behaviors import behaviors
from steerkit.errors import TrainingError
from steerkit.files import write_text_atomic
from steerkit.models import ThinkingModel
from steerkit.puzzles.tasks import KINDS
from steerkit.training.base import Base
from steerkit.training.checkpoints import (
    RLPosition,
    TrainingLog,
    draw_log,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from steerkit.training.config import BASE, RLConfig, learning_rate
from steerkit.training.model import round_weights, training_device
from steerkit.training.model_card import rl_card
from steerkit.training.policy_gradient import add_gradients
from steerkit.training.rollouts import Rollouts, write_rollouts
from steerkit.training.scorecard import count_response, evaluate

logger = logging.getLogger(__name__)

_SHOWN = ("step", "seconds", "reward", "accuracy", "closed", "length", "unused", "grad_norm")


def train_rl(
    out: Path | str,
    config: RLConfig | None = None,
    *,
    base: str | Path = BASE,
    device: str | None = None,
    resume: bool = True,
    checkpoint_seconds: float = 300.0,
    evaluate_steps: int = 25,
    sampled_tasks: int = 150,
    evaluated_tasks: int = 1000,
    stop_step: int | None = None,
) -> Path:
    """Train ``base`` to solve its tasks, into the folder ``out``; returns ``out``.

    Every step writes chains for new tasks of the rl pool, rewards them
    (:func:`steerkit.training.rollouts.reward`), and moves the weights once down the gradient
    of :func:`steerkit.training.policy_gradient.policy_loss`. As it goes the folder gets
    ``log.csv``, a row a step; ``snapshots/step-N``, Hugging Face folders; and every
    ``checkpoint_seconds``, at the end of a step, ``checkpoint/`` and ``training.png``. A run
    that was killed goes on from there, to the same weights as an uninterrupted one on the
    same machine with the same number of threads. At the end ``out`` holds the model in
    Hugging Face format, the base's tokenizer unchanged, with a model card; log, snapshots
    and checkpoint may then be removed.

    Parameters
    ----------
    out, config:
        The folder, and what decides the result beside the base.
    base:
        A bundled model or a folder, what supervised training made.
    device:
        Where to train; by default a CUDA GPU if there is one, else the CPU.
    resume:
        Whether to go on from a checkpoint in ``out``; else it is removed.
    checkpoint_seconds:
        Seconds between checkpoints.
    evaluate_steps, sampled_tasks:
        Every so many steps, the first included, so many held-out tasks are tried for the
        log, before the step moves the weights; 0 tasks for none.
    evaluated_tasks:
        Held-out tasks for the scorecard in the model card; 0 for no model card.
    stop_step:
        Stop after this step, at a checkpoint, as if the run had been killed there.

    Raises :class:`TrainingError` for a base that is not there or is ``out`` itself, for a
    checkpoint of another configuration or base, and for a gradient that is not finite.
    """
    config = config or RLConfig()
    out = Path(out)
    start = Base.find(base)
    if start.folder.resolve() == out.resolve():
        raise TrainingError(
            "the result would replace the base", where=out, fix="choose another output folder"
        )
    model = start.load(training_device(device))
    optimizer = _optimizer(config, model)
    position = RLPosition()
    if not resume:
        for folder in ("checkpoint", "snapshots"):
            shutil.rmtree(out / folder, ignore_errors=True)
        (out / "log.csv").unlink(missing_ok=True)
    saved = latest_checkpoint(out)
    if saved is not None:
        position = load_checkpoint(
            saved, config, model.hf, optimizer, RLPosition, base=start.sha256
        )
        logger.info("resuming at step %d, %d tokens", position.step, position.tokens)
    logger.info("base %s, SHA-256 %s, on %s", start.name, start.sha256, model.device)
    log = TrainingLog(out / "log.csv", position.step, log_columns())
    kept = {round(n * config.steps / config.snapshots) for n in range(1, config.snapshots + 1)}
    saved_at = time.monotonic()
    while position.step < config.steps and position.step != stop_step:
        row: dict[str, object] = {"base": start.sha256[:16]}
        if sampled_tasks and position.step % evaluate_steps == 0:
            row |= _held_out(model, sampled_tasks)
        began = time.monotonic()
        rollouts = write_rollouts(model, config, position.step)
        rate = learning_rate(config, position.step)
        loss, norm = _step(config, model, optimizer, rollouts, rate)
        position.step += 1
        position.tokens += rollouts.tokens
        row |= {"step": position.step, "seconds": round(time.monotonic() - began, 2)}
        row |= {"tokens": position.tokens, "loss": f"{loss:.4g}", "grad_norm": f"{norm:.4g}"}
        row |= {"learning_rate": f"{rate:.4g}", **describe(rollouts)}
        log.write(row)
        logger.info("%s", " ".join(f"{name}={row[name]}" for name in _SHOWN))
        if position.step in kept:
            start.snapshot(model, out / "snapshots" / f"step-{position.step:04d}")
        if time.monotonic() - saved_at >= checkpoint_seconds:
            save_checkpoint(out, config, model.hf, optimizer, position, base=start.sha256)
            draw_log(out)
            saved_at = time.monotonic()
    save_checkpoint(out, config, model.hf, optimizer, position, base=start.sha256)
    draw_log(out)
    if position.step >= config.steps:
        round_weights(model.hf)
        start.export(model, out)
        if evaluated_tasks:
            figures = evaluate(model, evaluated_tasks, seed=0)
            card = rl_card(config, position, start, figures, evaluated_tasks)
            write_text_atomic(out / "README.md", card)
    return out


def log_columns() -> list[str]:
    """Columns of ``log.csv``.

    What is measured on chains is measured before the step moves the weights: on those that it
    learned from and, in the ``heldout`` columns, on held-out tasks, each kind in equal parts.
    """
    kinds = [f"accuracy_{kind}" for kind in KINDS]
    return [
        *("step", "seconds", "tokens", "base", "loss", "reward", "accuracy", *kinds),
        *("closed", "truncated", "length", "unused", "grad_norm", "learning_rate"),
        *(behavior.name for behavior in behaviors()),
        *("unparsed", "dead_ends", "silent_dead_ends"),
        *("heldout_accuracy", *(f"heldout_{name}" for name in kinds)),
    ]


def describe(rollouts: Rollouts) -> dict[str, float]:
    """A log row's shares and means: per chain, per sentence (behaviours), per dead end.

    ``unused`` is the share of rows with advantage 0; ``length`` is in new tokens. What has
    an empty denominator, such as the accuracy of a kind without tasks, is absent.
    """
    sums: dict[str, tuple[int, int]] = {}
    for task, response in zip(rollouts.tasks, rollouts.responses, strict=True):
        for name, (top, bottom) in count_response(task, response).items():
            tops, bottoms = sums.get(name, (0, 0))
            sums[name] = (tops + top, bottoms + bottom)
    ratios = {name: top / bottom for name, (top, bottom) in sums.items() if bottom}
    rows = len(rollouts.examples)
    figures = {
        "reward": rollouts.rewards.mean().item(),
        "truncated": sum(rollouts.truncated) / rows,
        "length": rollouts.tokens / rows,
        "unused": (rollouts.advantages == 0).double().mean().item(),
        "unparsed": 1 - ratios.get("parsed", 1.0),
    }
    names = {name.replace(" ", "_"): name for name in ratios}
    names["dead_ends"] = "dead ends per chain"
    figures |= {column: ratios[n] for column, n in names.items() if column in log_columns()}
    return {name: round(value, 4) for name, value in figures.items()}


def _optimizer(config: RLConfig, model: ThinkingModel) -> torch.optim.AdamW:
    # the gradient is noisy and its scale changes with the accuracy: a short memory of it
    return torch.optim.AdamW(
        model.hf.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=True,
    )


def _step(
    config: RLConfig,
    model: ThinkingModel,
    optimizer: torch.optim.AdamW,
    rollouts: Rollouts,
    rate: float,
) -> tuple[float, float]:
    """One update; loss and gradient norm. Where every advantage is 0 nothing moves."""
    loss = add_gradients(model, rollouts, bf16=config.bf16)
    norm = torch.nn.utils.clip_grad_norm_(model.hf.parameters(), config.clip)
    if not torch.isfinite(norm):
        # refused before the weights take it up: the last checkpoint is good
        raise TrainingError(
            "the gradient is not finite",
            expected="a number",
            found=norm.item(),
            fix="lower the learning rate, or compute in float32: RLConfig(bf16=False)",
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm.item()


def _held_out(model: ThinkingModel, count: int) -> dict[str, float]:
    """Accuracy over the same held-out tasks each time, of all kinds and of each."""
    figures = evaluate(model, count, seed=1)
    names = [name for name in figures if name.startswith("accuracy")]
    return {f"heldout_{n.replace(' ', '_')}": round(figures[n].value, 4) for n in names}
