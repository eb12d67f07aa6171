"""Generation: batches of chains, steered row by row, with noise that no batch can change."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steerkit.decoding import Decoder, Row, follow, spell
from steerkit.errors import GenerationError
from steerkit.models import ThinkingModel, check_length
from steerkit.positions import PROMPT, THINK
from steerkit.sampling import Noise, Sampling, choose
from steerkit.steering import RowSteering, Steering, rows_of
from steerkit.stopping import Stop, Until, closing_ids
from steerkit.streaming import Progress
from steerkit.tasks import Task, task_hash
from steerkit.traces import THINK as THINK_STRINGS
from steerkit.traces import Trace, Traces

OnToken = Callable[[int, int, str], None]
"""Called with the row, the number of tokens before this one, and the text it adds."""

Forbid = Callable[[Sequence[int]], Collection[int]]
"""From the ids that a row has written so far to the ids that may not come next."""

Prefix = str | Sequence[str | Sequence[int] | None] | None
"""What responses begin with: one text for all, or one entry per prompt."""

LONGEST = 1024
"""New tokens per chain where nothing else is asked for, or what the context leaves if less."""
BATCH = 64
_log = logging.getLogger(__name__)


def generate(
    model: ThinkingModel,
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
    until: Until = "end",
    thinking_budget: int | None = None,
    force_answer: bool | str = False,
    prefix: Prefix = None,
    forbid: Forbid | None = None,
    batch_size: int | None = None,
    on_token: OnToken | None = None,
    progress: Progress | None = None,
    on_interrupt: Literal["return", "raise"] = "return",
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
    temperature, top_p, top_k, min_p:
        The softmax's temperature, 0 being greedy, and filters of what may be sampled, applied
        in this order: the ``top_k`` likeliest tokens, the likeliest that together hold
        ``top_p``, those at least ``min_p`` times as likely as the likeliest
        (:class:`steerkit.sampling.Sampling`).
    seed:
        Of the noise. Task, sample and step alone decide what noise a token sees, so chains
        of one task under different coefficients are paired, and neither order nor batch
        changes a chain, but for ties within rounding.
    until:
        Where a chain ends before its own end: after the closing think string (``think``),
        with the first line of its answer or a closed ``\\boxed{...}`` (``answer``), or where a
        function of the response so far says so.
    thinking_budget, force_answer:
        Thinking tokens after which a chain is cut off and marked ``truncated``. With
        ``force_answer`` a line break and the closing think string are written for it instead
        (or the text that is given, which must hold that string), it goes on to its answer,
        and the trace is marked ``forced_answer`` (budget forcing: Muennighoff et al. 2025,
        arXiv 2501.19393).
    prefix:
        What the response already begins with: text for all prompts, or a list with one text,
        one sequence of token ids, or ``None`` per prompt. The chain goes on from there as if
        it had written that itself: the prefix is part of the response and of its phases, is
        steered where its positions are, and its tokens count as steps for the noise. Text is
        tokenized by itself, as the response of a trace is.
    forbid:
        Tokens that may not come next, from what the row has written so far, e.g.
        :func:`steerkit.puzzles.openers.forbid`; the others keep their odds. The end token
        should stay allowed.
    batch_size:
        Rows at a time, 64 by default. Rows that finish leave the batch and waiting rows take
        their places; running out of memory halves it and goes on.
    on_token, progress:
        Called after every token, and whenever chains are finished.
    on_interrupt:
        Ctrl-C returns the chains that are finished, with ``traces.interrupted`` set, or
        raises ``KeyboardInterrupt`` as it does when none is.

    Returns
    -------
    :class:`Traces` in the order of the prompts, samples of a prompt side by side, with
    ``token_ids`` (without the end token) and ``metadata`` (``steering``, ``seed``,
    ``sample``, ``temperature``, and filters, ``truncated``, ``forbid``, ``forced_answer`` or
    ``prefix_tokens`` where it is so). They carry no
    spans yet: see :func:`steerkit.annotate`.

    Raises :class:`GenerationError` for a prompt that is empty or leaves no room in the
    context and for numbers out of range, :class:`SteeringError` and :class:`VectorsError`
    for terms that cannot be applied. Whatever happens, no hook stays behind.
    """
    _check(samples, max_new_tokens, batch_size)
    # numpy's numbers are no JSON
    sampling = Sampling(temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    seed = int(seed)
    max_new_tokens = None if max_new_tokens is None else int(max_new_tokens)
    text = force_answer if isinstance(force_answer, str) else f"\n{model.think[1]}\n"
    if force_answer and thinking_budget is None:
        raise GenerationError("an answer is forced when a budget is spent", fix="thinking_budget")
    stop = Stop(until, thinking_budget, closing_ids(model, text) if force_answer else ())
    rows = _rows(model, prompts, steer, prefix, samples, max_new_tokens)
    RowSteering(model, [row.terms for row in rows])  # refuses misfits before anything runs

    def take(row: Row, token: int) -> None:
        before = len(row.ids)
        shown = _shown(model, row.ids) if on_token is not None else ""
        stop.take(model, row, token)
        if on_token is not None and len(row.ids) > before:
            # a character whose bytes are not all there yet is shown with its last token
            on_token(row.number, before, _shown(model, row.ids)[len(shown) :])

    decoder = Decoder(model, rows, batch_size or BATCH, _chooser(sampling, seed, forbid), take)
    before, interrupted, done = model.generating, False, 0
    model.generating = True
    try:
        for finished in decoder.run():
            if progress is not None and finished > done:
                progress(finished, len(rows))
            done = finished
    except KeyboardInterrupt:
        interrupted = any(row.ended for row in rows)
        if on_interrupt == "raise" or not interrupted:
            raise
        over = sum(bool(row.ended) for row in rows)
        _log.warning("interrupted: %d of %d chains are finished and kept", over, len(rows))
    finally:
        model.generating = before
    rows = [row for row in rows if row.ended]
    traces = _traces(model, rows, sampling, seed, max_new_tokens, forbid is not None)
    traces.interrupted = interrupted
    return traces


def _chooser(
    sampling: Sampling, seed: int, forbid: Forbid | None
) -> Callable[[Tensor, Sequence[Row]], list[int]]:
    """Next tokens of rows: what is forced on them, or what sampling gives."""
    noise: Noise | None = None

    def choose_next(logits: Tensor, rows: Sequence[Row]) -> list[int]:
        nonlocal noise
        if forbid is not None:
            for place, row in enumerate(rows):
                logits[place, list(forbid(row.ids))] = -torch.inf
        if sampling.temperature > 0 and noise is None:
            noise = Noise(seed, logits.shape[1], logits.device)
        keys = np.array([row.key for row in rows], dtype=np.uint64)
        tokens = choose(logits, sampling, noise, keys, [len(row.ids) for row in rows]).tolist()
        return [
            row.forced.pop(0) if row.forced else token
            for row, token in zip(rows, tokens, strict=True)
        ]

    return choose_next


def _shown(model: ThinkingModel, ids: Sequence[int]) -> str:
    return spell(model, ids).rstrip("\ufffd")


def _check(samples: int, max_new_tokens: int | None, batch_size: int | None) -> None:
    for name, value in (
        ("samples", samples),
        ("max_new_tokens", max_new_tokens),
        ("batch_size", batch_size),
    ):
        if value is not None and value < 1:
            raise GenerationError(f"{name} is out of range", expected="at least 1", found=value)


def _rows(
    model: ThinkingModel,
    prompts: str | Task | Sequence[str | Task],
    steer: Steering,
    prefix: Prefix,
    samples: int,
    max_new_tokens: int | None,
) -> list[Row]:
    listed = [prompts] if isinstance(prompts, str | Task) else list(prompts)
    if not listed:
        raise GenerationError("no prompt to answer", expected="at least one")
    rows: list[Row] = []
    parts = zip(
        listed, rows_of(steer, len(listed)), _prefixes(model, prefix, len(listed)), strict=True
    )
    for place, (entry, terms, begun) in enumerate(parts):
        task = _task(entry, f"prompt {place}")
        prompt = model.render(task.prompt)
        model.check_ids(prompt, f"prompt {place}")
        taken = len(prompt) + len(begun)
        room = LONGEST if model.context is None else model.context - taken
        limit = max_new_tokens or max(min(LONGEST, room), 1)
        check_length(model, taken, limit, f"prompt {place}")
        start = PROMPT if model.waits_for_opening else THINK
        for sample in range(samples):
            row = Row(len(rows), task, sample, terms, prompt, limit, tuple(begun), [start])
            for token in begun:
                follow(model, row, token)
            rows.append(row)
    return rows


def _prefixes(model: ThinkingModel, prefix: Prefix, prompts: int) -> list[list[int]]:
    """Token ids of every prompt's prefix."""
    listed = [prefix] * prompts if prefix is None or isinstance(prefix, str) else list(prefix)
    if len(listed) != prompts:
        raise GenerationError(
            "the list of prefixes does not match the prompts",
            expected=f"{prompts} entries, one per prompt",
            found=len(listed),
        )
    found = []
    for place, entry in enumerate(listed):
        if isinstance(entry, str):
            options = {"add_special_tokens": False, "verbose": False}
            ids = list(model.tokenizer(entry, **options)["input_ids"])
        else:
            ids = [int(i) for i in entry or ()]
        model.check_ids(ids, f"prefix {place}")
        if any(i in model.eos_ids for i in ids):
            raise GenerationError("the prefix holds an end token", where=f"prefix {place}")
        found.append(ids)
    return found


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


def _traces(
    model: ThinkingModel,
    rows: Sequence[Row],
    sampling: Sampling,
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
            **sampling.to_json(),
        }
        if forbidding:
            metadata["forbid"] = True
        if row.ended in ("limit", "budget"):
            metadata["truncated"] = True
        if row.closed_for_it:
            metadata["forced_answer"] = True
        if row.begun:
            metadata["prefix_tokens"] = len(row.begun)
        if model.think != THINK_STRINGS:
            metadata["think"] = list(model.think)
        made_by: list[Any] = [row.task.prompt, model.name, model.revision, metadata, max_new_tokens]
        made_by += [list(row.begun)] if row.begun else []
        digest = hashlib.blake2b(json.dumps(made_by).encode(), digest_size=5).hexdigest()
        name = f"{row.task.id}-{digest}"
        seen[name] = seen.get(name, 0) + 1
        traces.append(
            Trace(
                id=name if seen[name] == 1 else f"{name}-{seen[name]}",
                task_id=row.task.id,
                category=row.task.category,
                prompt=row.task.prompt,
                response=spell(model, row.ids),
                model=model.name,
                revision=model.revision,
                token_ids=tuple(row.ids),
                metadata=metadata,
            )
        )
    return Traces(traces)
