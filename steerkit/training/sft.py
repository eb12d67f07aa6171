"""Supervised training of the bundled models on program-generated chains."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Qwen2ForCausalLM

from steerkit.files import write_text_atomic
from steerkit.loading import load
from steerkit.puzzles.tasks import KINDS
from steerkit.training.batches import IGNORED, Example, batches_from, collate, held_out_batch
from steerkit.training.checkpoints import (
    Position,
    TrainingLog,
    draw_log,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from steerkit.training.config import BASE, SFTConfig, learning_rate
from steerkit.training.model import (
    build_model,
    export_model,
    quick_backward,
    round_weights,
    training_device,
)
from steerkit.training.model_card import sft_card
from steerkit.training.scorecard import evaluate
from steerkit.training.tokenizer import build_tokenizer

logger = logging.getLogger(__name__)

COLUMNS = (
    *("step", "tokens", "loss", "learning_rate", "tokens_per_second", "heldout_loss"),
    *("closed", "parsed", "accuracy", *(f"accuracy_{kind}" for kind in KINDS)),
)
"""Columns of ``log.csv``; from ``closed`` on they are of sampled chains, at checkpoints."""


def train_sft(
    out: Path | str,
    config: SFTConfig | None = None,
    *,
    device: str | None = None,
    resume: bool = True,
    checkpoint_seconds: float = 300.0,
    log_steps: int = 50,
    sampled_tasks: int = 48,
    evaluated_tasks: int = 1000,
    stop_step: int | None = None,
) -> Path:
    """Train a thinking model on chains of the bundled puzzles into ``out``; returns ``out``.

    As it goes the folder gets ``log.csv``, and every ``checkpoint_seconds`` (at the next
    log row) ``training.png``, a figure of the log, and ``checkpoint/`` with weights,
    optimizer state and place in the data. A run
    that was killed goes on from there, to the same weights as an uninterrupted one on the
    same machine with the same number of threads. At the end ``out`` holds the model in
    Hugging Face format with a model card; log and checkpoint may then be removed.

    Parameters
    ----------
    out, config:
        The folder, and what decides the result; the defaults make the bundled model.
    device:
        Where to train; by default a CUDA GPU if there is one, else the CPU.
    resume:
        Whether to go on from a checkpoint in ``out``; else it is removed.
    checkpoint_seconds, log_steps:
        Seconds between checkpoints; optimizer steps between log rows.
    sampled_tasks:
        Held-out tasks to sample chains for at every checkpoint, for the log; 0 for none.
    evaluated_tasks:
        Held-out tasks for the scorecard in the model card; 0 for no model card.
    stop_step:
        Stop after this step, at a checkpoint, as if the run had been killed there.

    Raises :class:`TrainingError` for a checkpoint of another configuration.
    """
    config = config or SFTConfig()
    out = Path(out)
    tokenizer = build_tokenizer()
    model = build_model(config, tokenizer).to(training_device(device))
    thinking = load(model, tokenizer=tokenizer, name=BASE)
    optimizer = _optimizer(config, model)
    position = Position()
    if not resume:
        shutil.rmtree(out / "checkpoint", ignore_errors=True)
        (out / "log.csv").unlink(missing_ok=True)
    saved = latest_checkpoint(out)
    if saved is not None:
        position = load_checkpoint(saved, config, model, optimizer, Position)
        logger.info("resuming at step %d, %d tokens", position.step, position.tokens)
    log = TrainingLog(out / "log.csv", position.step, COLUMNS)
    held_out = held_out_batch(config, tokenizer)
    saved_at = logged_at = time.monotonic()
    logged_tokens = position.tokens
    losses: list[float] = []
    batches = batches_from(config, tokenizer, position)
    model.train()
    while position.tokens < config.tokens and position.step != stop_step:
        batch = next(batches)
        rate = learning_rate(config, position.tokens)
        losses.append(_step(config, model, optimizer, batch, rate))
        position.step += 1
        position.tokens += sum(len(ids) for ids, _ in batch)
        finished = position.tokens >= config.tokens
        if position.step % log_steps and not finished:
            continue
        now = time.monotonic()
        due = now - saved_at >= checkpoint_seconds
        row: dict[str, float] = {
            "step": position.step,
            "tokens": position.tokens,
            "loss": round(sum(losses) / len(losses), 4),
            "learning_rate": round(rate, 7),
            "tokens_per_second": round((position.tokens - logged_tokens) / (now - logged_at)),
        }
        if position.step % (4 * log_steps) == 0 or finished:
            with torch.no_grad():
                row["heldout_loss"] = round(_loss(config, model, held_out).item(), 4)
        if due and sampled_tasks:
            figures = evaluate(thinking, sampled_tasks, seed=1)
            measured = {name.replace(" ", "_"): figure for name, figure in figures.items()}
            row |= {n: round(measured[n].value, 4) for n in COLUMNS if n in measured}
        log.write(row)
        logger.info("%s", " ".join(f"{name}={value}" for name, value in row.items()))
        logged_at, logged_tokens, losses = time.monotonic(), position.tokens, []
        if due:
            save_checkpoint(out, config, model, optimizer, position)
            draw_log(out)
            saved_at = time.monotonic()
    save_checkpoint(out, config, model, optimizer, position)
    draw_log(out)
    if position.tokens >= config.tokens:
        round_weights(model)
        export_model(model, tokenizer, out)
        if evaluated_tasks:
            figures = evaluate(thinking, evaluated_tasks, seed=0)
            card = sft_card(config, position, figures, evaluated_tasks)
            write_text_atomic(out / "README.md", card)
    return out


def _optimizer(config: SFTConfig, model: Qwen2ForCausalLM) -> torch.optim.AdamW:
    groups = [
        {
            "params": [p for p in model.parameters() if p.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _loss(config: SFTConfig, model: Qwen2ForCausalLM, batch: list[Example]) -> Float[Tensor, ""]:
    """Mean cross entropy over response tokens, in nats per token."""
    ids, labels = (part.to(model.device) for part in collate(batch, model.config.pad_token_id))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
        # padding stands on the right of a causal model: no attention mask is needed
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


def _step(
    config: SFTConfig,
    model: Qwen2ForCausalLM,
    optimizer: torch.optim.AdamW,
    batch: list[Example],
    rate: float,
) -> float:
    with quick_backward(model):
        loss = _loss(config, model, batch)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
