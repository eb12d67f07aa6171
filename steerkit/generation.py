"""Generation: batches of chains, steered row by row, with noise that no batch can change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from steerkit.decoding import Decoder, Row
from steerkit.errors import GenerationError
from steerkit.models import ThinkingModel
from steerkit.steering import Steering
from steerkit.stopping import Until
from steerkit.streaming import Progress
from steerkit.tasks import Task
from steerkit.terms import Terms
from steerkit.traces import Traces
from steerkit.writing import Forbid, Prefix, Writing

OnToken = Callable[[int, int, str], None]
"""Called with the row, the number of tokens before this one, and the text it adds."""

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
        Called after every token, and whenever chains are finished; either may use the model.
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
    context, for numbers out of range and where ``forbid`` leaves no token,
    :class:`SteeringError` and :class:`VectorsError` for terms that cannot be applied. Whatever
    happens, no hook stays behind.
    """
    if batch_size is not None and batch_size < 1:
        raise GenerationError("batch_size is out of range", expected="at least 1", found=batch_size)
    writing = Writing(
        model,
        prompts,
        steer=steer,
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        until=until,
        thinking_budget=thinking_budget,
        force_answer=force_answer,
        prefix=prefix,
        forbid=forbid,
    )
    rows = writing.rows
    _warn_of_strength(row.terms for row in rows)

    def take(row: Row, token: int) -> None:
        before = len(row.ids)
        told = writing.text(row) if on_token is not None else ""
        writing.take(row, token)
        if on_token is not None and len(row.ids) > before:
            decoder.release()
            on_token(row.number, before, writing.text(row)[len(told) :])

    decoder = Decoder(model, rows, batch_size or BATCH, writing.choose, take)
    interrupted, done = False, 0
    try:
        for finished in decoder.run():
            if progress is not None and finished > done:
                decoder.release()
                progress(finished, len(rows))
            done = finished
    except KeyboardInterrupt:
        interrupted = any(row.ended for row in rows)
        if on_interrupt == "raise" or not interrupted:
            raise
        over = sum(bool(row.ended) for row in rows)
        _log.warning("interrupted: %d of %d chains are finished and kept", over, len(rows))
    traces = writing.traces([row for row in rows if row.ended])
    traces.interrupted = interrupted
    return traces


def _warn_of_strength(rows: Iterable[Terms]) -> None:
    """Say once of every direction that it is pushed further than its text stayed whole."""
    told = set()
    for terms in rows:
        for term in terms:
            direction, fluent = term.direction, term.direction.fluent
            # a range is in the direction's own unit, and says nothing of the others
            if fluent is None or term.operator != "add" or term.unit != direction.default_unit:
                continue
            if term.resolved_layers() != (direction.layer,):
                continue
            if not fluent[0] <= term.coefficient <= fluent[1]:
                told.add((direction.behavior, term.coefficient, fluent))
    for behavior, coefficient, (low, high) in sorted(told):
        _log.warning(
            "%s at %+g is outside the range in which text stayed fluent, %+g to %+g",
            behavior,
            coefficient,
            low,
            high,
        )
