"""Writing: what one call of ``generate`` asks for, as rows, choices and traces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.decoding import Row
from steerkit.errors import GenerationError
from steerkit.models import ThinkingModel, check_length
from steerkit.response import first_phase, follow, spell
from steerkit.sampling import Noise, Sampling, choose
from steerkit.steering import RowSteering, Steering, rows_of
from steerkit.stopping import Stop, Until, closing_ids
from steerkit.tasks import Task, task_hash
from steerkit.traces import THINK as THINK_STRINGS
from steerkit.traces import Trace, Traces

Forbid = Callable[[Sequence[int]], Collection[int]]
"""From the ids that a row has written so far to the ids that may not come next."""

Prefix = str | Sequence[str | Sequence[int] | None] | None
"""What responses begin with: one text for all, or one entry per prompt."""

LONGEST = 1024
"""New tokens per chain where nothing else is asked for, or what the context leaves if less."""


class Writing:
    """Rows to be written, how their next tokens are chosen, and what becomes of them.

    Arguments are those of :func:`steerkit.generation.generate`, checked here before anything
    runs.
    """

    def __init__(
        self,
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
    ) -> None:
        for name, value in (("samples", samples), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise GenerationError(f"{name} is out of range", expected="at least 1", found=value)
        self.model = model
        # numpy's numbers are no JSON
        self.seed = int(seed)
        self.sampling = Sampling(temperature, top_p=top_p, top_k=top_k, min_p=min_p)
        self.stop = _stop(model, until, thinking_budget, force_answer)
        self._limit = None if max_new_tokens is None else int(max_new_tokens)
        self._forbid = forbid
        self._noise: Noise | None = None
        self.rows = _rows(model, prompts, steer, prefix, samples, self._limit)
        RowSteering(model, [row.terms for row in self.rows])  # refuses misfits

    def choose(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """Next tokens of rows: what is forced on them, or what sampling gives."""
        if self._forbid is not None:
            for place, row in enumerate(rows):
                # what a finished row would write, or one that is told what to, is never read
                if not row.ended and not row.forced:
                    logits[place, self._forbidden(row, logits.shape[1])] = -torch.inf
        if self.sampling.temperature > 0 and self._noise is None:
            self._noise = Noise(self.seed, logits.shape[1], logits.device)
        keys = np.array([row.key for row in rows], dtype=np.uint64)
        steps = [len(row.ids) for row in rows]
        tokens = choose(logits, self.sampling, self._noise, keys, steps).tolist()
        return [
            row.forced.pop(0) if row.forced else token
            for row, token in zip(rows, tokens, strict=True)
        ]

    def _forbidden(self, row: Row, width: int) -> list[int]:
        """Ids that ``forbid`` names for a row; :class:`GenerationError` where none is left."""
        assert self._forbid is not None
        found, where = self._forbid(row.ids), f"task {row.task.id!r}, token {len(row.ids)}"
        try:
            ids = {int(i) for i in found}
        except (TypeError, ValueError):
            raise GenerationError(
                "forbid gives no token ids",
                expected="a collection of ids",
                found=repr(found)[:80],
                where=where,
            ) from None
        if ids and not 0 <= min(ids) <= max(ids) < width:
            raise GenerationError(
                "forbid names a token that there is not",
                expected=f"ids from 0 to {width - 1}",
                found=min(ids) if min(ids) < 0 else max(ids),
                where=where,
            )
        known = min(self.model.vocabulary, width)
        if sum(i < known for i in ids) == known:
            raise GenerationError(
                "every token is forbidden",
                expected="at least one that may come",
                where=where,
                fix="leave the end token allowed",
            )
        return list(ids)

    def take(self, row: Row, token: int) -> None:
        """Note a token of a row, and why the row is finished if it is."""
        self.stop.take(self.model, row, token)

    def text(self, row: Row, tokens: int | None = None) -> str:
        """What a row has written, or its first ``tokens``; a character whose bytes are not all
        there yet is left out."""
        return spell(self.model, row.ids[:tokens]).rstrip("\ufffd")

    def traces(self, rows: Sequence[Row]) -> Traces:
        """Finished rows as traces."""
        made, seen = [], dict[str, int]()
        for row in rows:
            metadata = self._metadata(row)
            name = f"{row.task.id}-{self._digest(row, metadata)}"
            seen[name] = seen.get(name, 0) + 1
            made.append(
                Trace(
                    id=name if seen[name] == 1 else f"{name}-{seen[name]}",
                    task_id=row.task.id,
                    category=row.task.category,
                    prompt=row.task.prompt,
                    response=spell(self.model, row.ids),
                    model=self.model.name,
                    revision=self.model.revision,
                    token_ids=tuple(row.ids),
                    metadata=metadata,
                )
            )
        return Traces(made)

    def _metadata(self, row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {
            "steering": [term.to_json() for term in row.terms],
            "seed": self.seed,
            "sample": row.sample,
            **self.sampling.to_json(),
            **self.stop.to_json(),
        }
        if self._forbid is not None:
            found["forbid"] = True
        if row.ended in ("limit", "budget"):
            found["truncated"] = True
        if row.closed_for_it:
            found["forced_answer"] = True
        if row.begun:
            found["prefix_tokens"] = len(row.begun)
        if self.model.think != THINK_STRINGS:
            found["think"] = list(self.model.think)
        return found

    def _digest(self, row: Row, metadata: dict[str, Any]) -> str:
        """Ten digits that name the chain among those of its task."""
        model = self.model
        made_by: list[Any] = [row.task.prompt, model.name, model.revision, metadata, self._limit]
        made_by += [list(row.begun)] if row.begun else []
        return hashlib.blake2b(json.dumps(made_by).encode(), digest_size=5).hexdigest()


def _stop(model: ThinkingModel, until: Until, budget: int | None, force_answer: bool | str) -> Stop:
    if not force_answer:
        return Stop(until, budget)
    if budget is None:
        raise GenerationError(
            "an answer is forced once a budget of thinking is spent", fix="pass thinking_budget"
        )
    text = force_answer if isinstance(force_answer, str) else f"\n{model.think[1]}\n"
    return Stop(until, budget, closing_ids(model, text))


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
        for sample in range(samples):
            row = Row(
                *(len(rows), task, sample, terms, prompt, limit, tuple(begun)),
                phases=[first_phase(model)],
            )
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
