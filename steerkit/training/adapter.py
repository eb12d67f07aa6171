"""Fitting an adapter: LoRA on chains of thought makes a chat model think, resumably."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from steerkit.errors import TrainingError
from steerkit.models import ThinkingModel
from steerkit.traces import Trace
from steerkit.training.adapter_card import AdapterRecord
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.batches import Example
from steerkit.training.chat_examples import (
    ChatExamples,
    chat_examples,
    micro_batches,
    steps_of_pass,
)
from steerkit.training.checkpoints import (
    AdapterPosition,
    TrainingLog,
    draw_log,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    saved_config,
)
from steerkit.training.config import share_of_rate
from steerkit.training.lora import (
    lora,
    round_matrices,
    target_layers,
    weights_digest,
    write_adapter,
)
from steerkit.training.response_loss import backward, mean_loss

_log = logging.getLogger(__name__)

COLUMNS = (
    *("step", "tokens", "loss", "learning_rate", "tokens_per_second", "heldout_loss"),
    "grad_norm",
)
"""Columns of ``log.csv``; the held-out loss is that before the first step and after the last."""


def train_adapter(
    out: Path | str,
    model: ThinkingModel,
    traces: Iterable[Trace],
    config: AdapterConfig | None = None,
    *,
    minutes: float | None = None,
    base_name: str | None = None,
    chains_name: str = "",
    resume: bool = True,
    checkpoint_seconds: float = 300.0,
    stop_step: int | None = None,
) -> Path:
    """Fit a LoRA adapter that makes ``model`` think like ``traces``, into ``out``; returns it.

    The speed is measured first and an estimate logged. As the run goes, ``out`` gets
    ``log.csv``, ``training.png``, and ``checkpoint/`` with matrices, optimizer state and place
    in the data. A run that was killed goes on from there, on the same machine with the same
    number of threads to the same bits on a CPU (kernels of a GPU may add up in another order).
    At the end ``out`` is an adapter in peft's folder format with a card
    (:func:`steerkit.training.lora.write_adapter`), for ``sk.load(base, adapter=out)``; log and
    checkpoint may then be removed. ``model`` is left as it was.

    Parameters
    ----------
    out:
        The folder.
    model:
        The base: a chat model whole in memory, its weights in any number format. They stay as
        they are; the LoRA matrices and their optimizer are float32.
    traces:
        Chains with prompt, closed thinking section and answer, annotated or not.
    config:
        What decides the result; the defaults are for a model of some 1.5 B parameters.
    minutes:
        Cut the plan to what the measured speed allows in this time, held-out measurements
        included. The learning rate falls to zero at the end of the plan that is left. The
        cut is kept in the checkpoint: a resumed run goes on with it.
    base_name, chains_name:
        What the files call the base (its Hub name, say) and the chains.
    resume:
        Whether to go on from a checkpoint in ``out``; else it is removed.
    checkpoint_seconds:
        Seconds between checkpoints.
    stop_step:
        Stop after this step, at a checkpoint, as if the run had been killed there.

    Raises :class:`TrainingError` for chains or a model that cannot be trained on, a checkpoint
    of another run, and memory that runs out; :class:`ModelError` without the extra ``adapter``.
    """
    out, began = Path(out), time.monotonic()
    examples, config = _resolved(model, traces, config or AdapterConfig())
    if not resume:
        shutil.rmtree(out / "checkpoint", ignore_errors=True)
        (out / "log.csv").unlink(missing_ok=True)
    saved = latest_checkpoint(out)
    if saved is not None and minutes is not None:
        config = replace(config, steps=int(saved_config(saved).get("steps", config.steps)))
    position = AdapterPosition()
    with lora(model, config) as adapted:
        trained = [p for p in model.hf.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        size = sum(p.numel() for p in trained)
        _log.info("%s adapter weights in %s", f"{size:,}", ", ".join(config.targets))
        if saved is not None:
            position = load_checkpoint(saved, config, model.hf, optimizer, AdapterPosition)
            _log.info("resuming at step %d of %d", position.step, config.steps)
        else:
            config = _measured(model, examples, config, position, minutes, began)
            save_checkpoint(out, config, model.hf, optimizer, position)
        log = TrainingLog(out / "log.csv", position.step, COLUMNS)
        if position.before is not None:
            log.write_once({"step": 0, "tokens": 0}, heldout_loss=position.before)
        saved_at = time.monotonic()
        while position.step < config.steps and position.step != stop_step:
            row = _step(model, examples, config, position, optimizer)
            log.write(row)
            if time.monotonic() - saved_at >= checkpoint_seconds:
                save_checkpoint(out, config, model.hf, optimizer, position)
                draw_log(out)
                saved_at = time.monotonic()
        save_checkpoint(out, config, model.hf, optimizer, position)
        if position.step < config.steps:
            draw_log(out)
            return out
        round_matrices(adapted)
        after = mean_loss(model, examples.held_out, config.batch_tokens)
        if after is not None:
            log.write_once({"step": position.step, "tokens": position.tokens}, heldout_loss=after)
            _log.info("held-out loss %.4f, before %.4f", after, position.before)
        draw_log(out)
        record = AdapterRecord(model, config, examples, position, after, size, chains_name)
        named = base_name or model.name
        written = write_adapter(
            out,
            adapted,
            base=named,
            chat_template=examples.chat_template,
            record=record.to_json(named),
            card=record.card(out.resolve().name, named),
        )
        _log.info("%s: %.1f MB", out, written / 1e6)
    return out


def _resolved(
    model: ThinkingModel, traces: Iterable[Trace], config: AdapterConfig
) -> tuple[ChatExamples, AdapterConfig]:
    """The chains as token ids, and the configuration with all that they and the model decide."""
    if model.adapter is not None:
        raise TrainingError(
            f"{model.base_name} has an adapter already",
            found=model.adapter.name,
            fix="load the base alone; an adapter upon another is not supported",
        )
    examples = chat_examples(model, traces, config)
    for reason, count in sorted(examples.skipped.items()):
        _log.warning("left out: %d chains %s", count, reason)
    steps = -(-len(examples.train) // config.chains)
    dtype = str(model.dtype).removeprefix("torch.")
    return examples, replace(
        config,
        targets=target_layers(model, config.targets),
        batch_tokens=config.batch_tokens or (768 if model.device.type == "cpu" else 4096),
        steps=config.steps or config.passes * steps,
        weights=f"{weights_digest(model)} {dtype}",
        data=examples.digest,
    )


def _plan(examples: ChatExamples, config: AdapterConfig, step: int) -> list[Example]:
    """The examples of a step, counted from 0."""
    per_pass = -(-len(examples.train) // config.chains)
    number, place = divmod(step, per_pass)
    return steps_of_pass(examples.train, config, number)[place]


def _measured(
    model: ThinkingModel,
    examples: ChatExamples,
    config: AdapterConfig,
    position: AdapterPosition,
    minutes: float | None,
    began: float,
) -> AdapterConfig:
    """Measure the held-out loss and the speed, say how long it will take, and cut the plan to it.

    Nothing that is trained changes.
    """
    started = time.monotonic()
    position.before = mean_loss(model, examples.held_out, config.batch_tokens)
    holding_out = time.monotonic() - started
    speed = _speed(model, _plan(examples, config, 0), config)
    sizes = [_tokens(_plan(examples, config, step)) for step in range(config.steps)]
    _log.info(
        "%.1f tokens a second, forward and backward: %d steps of up to %d chains, %s tokens, take "
        "about %.0f minutes",
        speed,
        config.steps,
        config.chains,
        f"{sum(sizes):,}",
        (sum(sizes) / speed + holding_out) / 60,
    )
    if minutes is None:
        return config
    left = minutes * 60 - (time.monotonic() - began) - holding_out
    steps, spent = 0, 0.0
    for size in sizes:
        spent += size / speed
        if spent > left:
            break
        steps += 1
    if steps == 0:
        raise TrainingError(
            f"not one step fits in {minutes:g} minutes",
            found=f"{speed:.1f} tokens a second, {sizes[0]:,} tokens in the first step, and "
            f"{holding_out / 30:.1f} minutes for the held-out chains, before and after",
            fix="allow more minutes, or fewer chains in a step, or hold out fewer tasks",
        )
    if steps < config.steps:
        passes = steps * config.chains / len(examples.train)
        _log.warning(
            "cut to %d of %d steps (%.2f passes) to stay within %g minutes",
            *(steps, config.steps, passes, minutes),
        )
    return replace(config, steps=steps)


def _speed(model: ThinkingModel, examples: Sequence[Example], config: AdapterConfig) -> float:
    """Tokens a second, forward and backward; gradients are thrown away."""
    part = micro_batches(examples, config.batch_tokens)[0]
    if model.device.type != "cpu":  # kernels are chosen and loaded on their first use
        backward(model, part, config.batch_tokens)
    started = time.monotonic()
    backward(model, part, config.batch_tokens)  # ends in .item(), which waits for the device
    seconds = time.monotonic() - started
    model.hf.zero_grad(set_to_none=True)
    return _tokens(part) / max(seconds, 1e-9)


def _step(
    model: ThinkingModel,
    examples: ChatExamples,
    config: AdapterConfig,
    position: AdapterPosition,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """One step; the position moves on. The row of the log."""
    started = time.monotonic()
    batch = _plan(examples, config, position.step)
    share = share_of_rate(position.step, 1, config.warmup_steps, config.steps, config.decay)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=config.dropout > 0):
        if config.dropout > 0:
            # dropout follows from seed and step, so that no generator's state need be kept
            torch.manual_seed(config.seed * 1_000_003 + position.step)
        loss = backward(model, batch, config.batch_tokens)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, config.clip)
    for group in optimizer.param_groups:
        group["lr"] = share * config.learning_rate
    optimizer.step()
    optimizer.zero_grad()
    seconds = time.monotonic() - started
    position.step += 1
    position.tokens += _tokens(batch)
    position.seconds += seconds
    row = {
        "step": position.step,
        "tokens": position.tokens,
        "loss": round(loss, 4),
        "learning_rate": round(share * config.learning_rate, 8),
        "tokens_per_second": round(_tokens(batch) / max(seconds, 1e-9), 1),
        "grad_norm": round(float(norm), 4),
    }
    left = position.seconds / position.step * (config.steps - position.step)
    figures = " ".join(f"{name}={row[name]}" for name in ("loss", "tokens_per_second"))
    _log.info(
        "step %d of %d: %s, %.0f minutes left", position.step, config.steps, figures, left / 60
    )
    return row


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(ids) for ids, _ in examples)
