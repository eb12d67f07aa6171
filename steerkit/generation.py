"""Generation: batches of chains, steered row by row, with noise that no batch can change."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int8, Int64
from torch import Tensor

from steerkit.errors import GenerationError
from steerkit.models import ThinkingModel, check_length
from steerkit.positions import ANSWER, PAD, PROMPT, THINK, still_opening
from steerkit.sampling import Noise, choose, row_key
from steerkit.steering import RowSteering, Steering, rows_of
from steerkit.streaming import Progress, halves, out_of_memory
from steerkit.tasks import Task, task_hash
from steerkit.traces import THINK as THINK_STRINGS
from steerkit.traces import Trace, Traces
from steerkit.vectors import Terms

OnToken = Callable[[int, int, str], None]
"""Called with the row, the number of tokens before this one, and the text it adds."""

Forbid = Callable[[Sequence[int]], Collection[int]]
"""From the ids that a row has written so far to the ids that may not come next."""

LONGEST = 1024
"""New tokens per chain where nothing else is asked for, or what the context leaves if less."""
BATCH = 64
_log = logging.getLogger(__name__)


@dataclass
class _Row:
    """One chain while it is written."""

    number: int
    task: Task
    sample: int
    terms: Terms
    prompt: list[int]
    limit: int
    start: int
    phase: int = field(init=False)
    ids: list[int] = field(init=False)
    truncated: bool = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything written."""
        self.ids, self.phase, self.truncated = [], self.start, False

    @cached_property
    def key(self) -> int:
        return row_key(self.task.prompt, self.sample)


def generate(
    model: ThinkingModel,
    prompts: str | Task | Sequence[str | Task],
    *,
    steer: Steering = None,
    samples: int = 1,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    forbid: Forbid | None = None,
    on_token: OnToken | None = None,
    progress: Progress | None = None,
) -> Traces:
    """Write a chain for every prompt, steered or not.

    Parameters
    ----------
    prompts:
        User messages or tasks; each goes through the model's chat template by itself.
    steer:
        Terms for all prompts (``0.3 * vectors["backtracking"]``, sums of such, ``None``), or
        a list with one entry per prompt. Every row of a batch keeps terms of its own; the
        same prompt may stand in the list several times under different terms.
    samples:
        Chains per prompt.
    max_new_tokens:
        Where a chain is cut off and marked ``truncated``; by default 1024, or what the
        context leaves.
    temperature:
        The softmax's; 0 is greedy.
    seed:
        Of the noise. Task, sample and step alone decide what noise a token sees, so chains
        of one task under different coefficients are paired, and neither order nor batch
        changes a chain, but for ties within rounding.
    batch_size:
        Rows at a time, 64 by default. Rows that have finished leave the batch whenever a
        quarter of it has; running out of memory halves it and starts that batch anew.
    forbid:
        Tokens that may not come next, from what the row has written so far, e.g.
        :func:`steerkit.puzzles.openers.forbid`; the others keep their odds. The end token
        should stay allowed.
    on_token, progress:
        Called after every token, and after every batch.

    Returns
    -------
    :class:`Traces` in the order of the prompts, samples of a prompt side by side, with
    ``token_ids`` (without the end token) and ``metadata`` (``steering``, ``seed``,
    ``sample``, ``temperature``, and ``truncated`` or ``forbid`` where it is so). They carry no
    spans yet: see :func:`steerkit.annotate`.

    Raises :class:`GenerationError` for a prompt that is empty or leaves no room in the
    context and for numbers out of range, :class:`SteeringError` and :class:`VectorsError`
    for terms that cannot be applied. Whatever happens, no hook stays behind.
    """
    _check(samples, max_new_tokens, temperature, batch_size)
    temperature, seed = float(temperature), int(seed)  # numpy's numbers are no JSON
    max_new_tokens = None if max_new_tokens is None else int(max_new_tokens)
    rows = _rows(model, prompts, steer, samples, max_new_tokens)
    RowSteering(model, [row.terms for row in rows])  # refuses misfits before anything runs
    waiting = [
        rows[i : i + (batch_size or BATCH)] for i in range(0, len(rows), batch_size or BATCH)
    ]
    done, before = 0, model.generating
    model.generating = True
    try:
        while waiting:
            batch = waiting.pop(0)
            try:
                _write(model, batch, temperature, seed, forbid, on_token)
            except (torch.OutOfMemoryError, RuntimeError) as problem:
                if not out_of_memory(problem):
                    raise
                waiting[:0] = _halved(batch)
                continue
            done += len(batch)
            if progress is not None:
                progress(done, len(rows))
    finally:
        model.generating = before
    return _traces(model, rows, temperature, seed, max_new_tokens, forbid is not None)


def _check(
    samples: int, max_new_tokens: int | None, temperature: float, batch_size: int | None
) -> None:
    for name, value in (
        ("samples", samples),
        ("max_new_tokens", max_new_tokens),
        ("batch_size", batch_size),
    ):
        if value is not None and value < 1:
            raise GenerationError(f"{name} is out of range", expected="at least 1", found=value)
    if not (math.isfinite(temperature) and temperature >= 0):
        raise GenerationError(
            "the temperature is out of range", expected="0 (greedy) or more", found=temperature
        )


def _rows(
    model: ThinkingModel,
    prompts: str | Task | Sequence[str | Task],
    steer: Steering,
    samples: int,
    max_new_tokens: int | None,
) -> list[_Row]:
    listed = [prompts] if isinstance(prompts, str | Task) else list(prompts)
    if not listed:
        raise GenerationError("no prompt to answer", expected="at least one")
    rows: list[_Row] = []
    for place, (entry, terms) in enumerate(zip(listed, rows_of(steer, len(listed)), strict=True)):
        task = _task(entry, f"prompt {place}")
        prompt = model.render(task.prompt)
        model.check_ids(prompt, f"prompt {place}")
        room = LONGEST if model.context is None else model.context - len(prompt)
        limit = max_new_tokens or max(min(LONGEST, room), 1)
        check_length(model, len(prompt), limit, f"prompt {place}")
        start = PROMPT if model.waits_for_opening else THINK
        rows += [
            _Row(len(rows) + sample, task, sample, terms, prompt, limit, start)
            for sample in range(samples)
        ]
    return rows


def _task(entry: object, where: str) -> Task:
    """A task, or a bare prompt as one; refuses what holds no readable text."""
    prompt = entry.prompt if isinstance(entry, Task) else entry
    if not isinstance(prompt, str):
        raise GenerationError(
            "not a prompt", expected="text or a Task", found=type(entry).__name__, where=where
        )
    if not prompt.strip():
        raise GenerationError("the prompt is empty", where=where)
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise GenerationError("the prompt is not valid Unicode text", where=where) from None
    if isinstance(entry, Task):
        return entry
    return Task(id=f"prompt-{task_hash(prompt)[:8]}", prompt=prompt)


def _halved(batch: list[_Row]) -> list[list[_Row]]:
    if len(batch) == 1:
        raise GenerationError(
            "one row alone does not fit in memory",
            found=f"{len(batch[0].prompt)} tokens of prompt, {batch[0].limit} to be generated",
            where=f"task {batch[0].task.id!r}",
            fix="lower max_new_tokens, or use a smaller dtype or another device",
        )
    _log.warning("out of memory at %d rows: halved", len(batch))
    for row in batch:
        row.restart()
    return halves(batch)


class _Batch:
    """Tensors of the rows that are still being written, and where they stand."""

    def __init__(self, model: ThinkingModel, rows: list[_Row]) -> None:
        from transformers import DynamicCache

        self.model, self.rows = model, list(rows)
        self.steering = RowSteering(model, [row.terms for row in rows])
        self.cache = DynamicCache(config=model.hf.config)
        self.finished = [False] * len(rows)
        width = max(len(row.prompt) for row in rows)
        self.ids: Int64[Tensor, "row position"] = torch.full((len(rows), width), model.pad_id)
        self.mask = torch.zeros(len(rows), width, dtype=torch.int64)
        self.phase: Int8[Tensor, "row position"] = torch.full_like(self.mask, PAD).to(torch.int8)
        self.generated: Bool[Tensor, "row position"] = self.mask.bool()
        for number, row in enumerate(rows):
            start = width - len(row.prompt)
            self.ids[number, start:] = torch.tensor(row.prompt)
            self.mask[number, start:] = 1
            self.phase[number, start:] = PROMPT
            self.phase[number, -1] = row.phase
        self.generated[:, -1] = True
        accepted = inspect.signature(model.hf.forward).parameters
        # transformers renames the argument: the old name warns from 5.24 on
        name = "cache" if "cache" in accepted else "past_key_values"
        self._arguments: dict[str, Any] = {name: self.cache, "use_cache": True}
        if "logits_to_keep" in accepted:
            self._arguments["logits_to_keep"] = 1
        self._vocabulary = len(model.tokenizer)

    def logits(self) -> Tensor:
        """One forward pass over what is new; float32 logits of the next token of every row."""
        device = self.model.device
        places = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        self.steering.place(self.phase, self.generated)
        output = self.model.hf(
            input_ids=self.ids.to(device),
            attention_mask=self.mask.to(device),
            position_ids=places.to(device),
            **self._arguments,
        )
        logits = output.logits[:, -1].float()
        logits[:, self._vocabulary :] = -torch.inf  # rows of the embedding that are no token
        return logits

    def advance(self, tokens: list[int]) -> None:
        """Make ``tokens`` the coming input, once the rows have taken note of them."""
        self.ids = torch.tensor(tokens)[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)
        codes = [
            PAD if over else row.phase for row, over in zip(self.rows, self.finished, strict=True)
        ]
        self.phase = torch.tensor(codes, dtype=torch.int8)[:, None]
        self.generated = torch.ones_like(self.ids, dtype=torch.bool)

    def shrink(self) -> None:
        """Let finished rows go once they are a quarter of the batch: moving the cache costs too."""
        kept = [i for i, over in enumerate(self.finished) if not over]
        if not kept or 4 * len(kept) > 3 * len(self.rows):
            return
        index = torch.tensor(kept)
        self.cache.batch_select_indices(index)  # layers may lie on several devices
        self.steering.select(index)
        self.ids, self.mask, self.phase = self.ids[index], self.mask[index], self.phase[index]
        self.generated = self.generated[index]
        self.rows = [self.rows[i] for i in kept]
        self.finished = [False] * len(kept)


def _write(
    model: ThinkingModel,
    rows: list[_Row],
    temperature: float,
    seed: int,
    forbid: Forbid | None,
    on_token: OnToken | None,
) -> None:
    """Generate one batch to its end."""
    batch, noise, step = _Batch(model, rows), None, 0
    with model.inference(), batch.steering.attached():
        while True:
            logits = batch.logits()
            if forbid is not None:
                for place, row in enumerate(batch.rows):
                    logits[place, list(forbid(row.ids))] = -torch.inf
            gumbel = None
            if temperature > 0:
                noise = noise or Noise(seed, logits.shape[1], logits.device)
                keys = np.array([row.key for row in batch.rows], dtype=np.uint64)
                gumbel = noise.gumbel(keys, step)
            tokens = choose(logits, temperature, gumbel).tolist()
            step += 1
            for place, (row, token) in enumerate(zip(batch.rows, tokens, strict=True)):
                if not batch.finished[place]:
                    batch.finished[place] = _take(model, row, token, on_token)
            if all(batch.finished):
                return
            batch.advance(tokens)
            batch.shrink()


def _take(model: ThinkingModel, row: _Row, token: int, on_token: OnToken | None) -> bool:
    """Note one token of a row; whether the row is finished."""
    if token in model.eos_ids:
        return True
    before = _spell(model, row.ids) if on_token is not None else ""
    row.ids.append(token)
    if on_token is not None:
        # a character whose bytes are not all there yet is shown with its last token
        whole = _spell(model, row.ids).rstrip("\ufffd")
        on_token(row.number, len(row.ids) - 1, whole[len(before.rstrip("\ufffd")) :])
    row.phase = _phase_after(model, row)
    row.truncated = len(row.ids) == row.limit
    return row.truncated


def _phase_after(model: ThinkingModel, row: _Row) -> int:
    """Phase of the position that holds the row's newest token."""
    if row.phase == ANSWER:
        return ANSWER
    opening, closing = model.think
    if row.phase == PROMPT:
        return PROMPT if still_opening(_spell(model, row.ids), opening) else THINK
    if model.closing_id is not None:
        return ANSWER if row.ids[-1] == model.closing_id else THINK
    return ANSWER if closing in _spell(model, row.ids[-len(closing) :]) else THINK


def _spell(model: ThinkingModel, ids: Sequence[int]) -> str:
    text = model.tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return str(text)


def _traces(
    model: ThinkingModel,
    rows: Sequence[_Row],
    temperature: float,
    seed: int,
    max_new_tokens: int | None,
    forbidding: bool,
) -> Traces:
    seen: dict[str, int] = {}
    traces = []
    for row in rows:
        steering = [term.to_json() for term in row.terms]
        metadata: dict[str, Any] = {
            "steering": steering,
            "seed": seed,
            "sample": row.sample,
            "temperature": temperature,
        }
        if forbidding:
            metadata["forbid"] = True
        if row.truncated:
            metadata["truncated"] = True
        if model.think != THINK_STRINGS:
            metadata["think"] = list(model.think)
        made_by = [row.task.prompt, model.name, model.revision, metadata, max_new_tokens]
        digest = hashlib.blake2b(json.dumps(made_by).encode(), digest_size=5).hexdigest()
        name = f"{row.task.id}-{digest}"
        seen[name] = seen.get(name, 0) + 1
        traces.append(
            Trace(
                id=name if seen[name] == 1 else f"{name}-{seen[name]}",
                task_id=row.task.id,
                category=row.task.category,
                prompt=row.task.prompt,
                response=_spell(model, row.ids),
                model=model.name,
                revision=model.revision,
                token_ids=tuple(row.ids),
                metadata=metadata,
            )
        )
    return Traces(traces)
