"""Streaming chains through a model, packed by length, to the last layer asked for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from steerkit.alignment import AlignedTrace
from steerkit.errors import ExtractionError
from steerkit.memory import MEMORY_ERRORS, out_of_memory
from steerkit.models import ThinkingModel
from steerkit.residual import StopForward
from steerkit.traces import Trace

TooLong = Literal["refuse", "cut", "skip"]
Progress = Callable[[int, int], None]
Item = tuple[Trace, AlignedTrace]

_SHARD = 128  # chains aligned at a time: memory does not grow with their number
_BATCH = {"cpu": 2048}
_log = logging.getLogger(__name__)


@runtime_checkable
class Reader(Protocol):
    """What takes one batch's hidden states, layer by layer, and keeps a summary of them."""

    def read(self, layer: int, hidden: Tensor) -> None:
        """Called inside the forward pass; ``hidden`` is ``[row, position, d_model]``."""

    def commit(self) -> None:
        """Called once the forward pass has succeeded; only now may totals change."""


def stream(
    model: ThinkingModel,
    traces: Sequence[Trace],
    layers: Sequence[int],
    start: Callable[[list[Item], int], Reader],
    *,
    batch_tokens: int | None = None,
    too_long: TooLong = "refuse",
    counters: Counter[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Run chains through the model and hand every batch's hidden states to a reader.

    Parameters
    ----------
    model:
        A thinking model; layers above the last one asked for, and the LM head, never run.
    traces:
        Chains; aligned 128 at a time and packed by length, padded on the right.
    layers:
        Model layers whose ``hook_resid_post`` is read.
    start:
        Makes the reader of a batch from its chains and its width in positions.
    batch_tokens:
        Positions in a batch, padding included; a longer chain is a batch of its own. By
        default 2,048 on a CPU, whose caches larger ones outgrow, and 8,192 elsewhere.
    too_long:
        A chain longer than the context raises (``refuse``), loses its end and the spans
        there (``cut``), or is left out (``skip``); the last two are counted.
    counters:
        Counts of what was cut, skipped or retokenised are added to it.
    progress:
        Called with chains done and chains in all, after every batch.

    Raises :class:`ExtractionError` for a chain that is too long or does not fit in memory,
    :class:`TraceError` for one that does not align. Running out of memory halves the batch;
    whatever happens, no hook stays behind. ``model.steer`` does not reach these passes.
    """
    if batch_tokens is None:
        batch_tokens = _BATCH.get(model.device.type, 8192)
    if batch_tokens < 1:
        raise ExtractionError("batch_tokens must be positive", found=batch_tokens)
    counters = Counter() if counters is None else counters
    running: list[Reader] = []
    done = 0
    with ExitStack() as hooks, model.own_passes(), model.inference():
        for layer in layers:
            # the default argument binds this layer; the hook only reads
            def read(hidden: Tensor, hook: object, layer: int = layer) -> None:
                running[0].read(layer, hidden)

            hooks.enter_context(model.residual.hooked(layer, read))
        hooks.enter_context(model.residual.stop_after(max(layers)))
        for first in range(0, len(traces), _SHARD):
            shard = traces[first : first + _SHARD]
            items = list(_align(model, shard, too_long, counters))
            done += len(shard) - len(items)
            queue = pack(items, batch_tokens)
            while queue:
                batch = queue.pop(0)
                if not _forward(model, batch, start, running):
                    queue[:0] = halves(batch)
                    continue
                done += len(batch)
                if progress is not None:
                    progress(done, len(traces))


def pack(items: Sequence[Item], batch_tokens: int) -> list[list[Item]]:
    """Batches of chains of like length: rows times the longest within ``batch_tokens``."""
    ordered = sorted(items, key=lambda item: (-len(item[1].ids), item[1].trace_id))
    batches: list[list[Item]] = []
    for item in ordered:
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0][1].ids) <= batch_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def _align(
    model: ThinkingModel, traces: Sequence[Trace], too_long: TooLong, counters: Counter[str]
) -> Iterator[Item]:
    for trace in traces:
        chain = model.align(trace)
        counters["chains retokenized"] += chain.retokenized
        length, context = len(chain.ids), model.context
        if context is not None and length > context:
            if too_long == "refuse":
                raise ExtractionError(
                    "the chain is longer than the model's context",
                    expected=f"at most {context} tokens",
                    found=f"{length} tokens",
                    where=f"trace {trace.id!r}",
                    fix='pass too_long="cut" or too_long="skip"',
                )
            if too_long == "skip" or chain.thinking[0] >= context:
                counters["chains skipped: longer than the context"] += 1
                continue
            counters["chains cut"] += 1
            counters["spans cut"] += sum(end > context for _, end, _ in chain.spans)
            chain = cut(chain, context)
        if not chain.ids:
            counters["chains skipped: no tokens"] += 1
            continue
        yield trace, chain


def cut(chain: AlignedTrace, length: int) -> AlignedTrace:
    """The chain's first ``length`` tokens, with the spans that lie within them."""
    return replace(
        chain,
        ids=chain.ids[:length],
        offsets=chain.offsets[: max(length - chain.prompt_length, 0)],
        thinking=(min(chain.thinking[0], length), min(chain.thinking[1], length)),
        spans=tuple(span for span in chain.spans if span[1] <= length),
        phases=chain.phases[:length],
    )


def _forward(
    model: ThinkingModel,
    batch: list[Item],
    start: Callable[[list[Item], int], Reader],
    running: list[Reader],
) -> bool:
    """One batch, read and committed; false when memory ran out before anything changed."""
    width = max(len(chain.ids) for _, chain in batch)
    # causal attention never looks right, so padding on the right needs no mask
    ids = torch.full((len(batch), width), model.pad_id, dtype=torch.int64)
    for row, (_, chain) in enumerate(batch):
        ids[row, : len(chain.ids)] = torch.tensor(chain.ids)
    try:
        running[:] = [start(batch, width)]
        with suppress(StopForward):
            model.residual(input_ids=ids.to(model.device), use_cache=False)
    except MEMORY_ERRORS as problem:
        if not out_of_memory(problem):
            raise
        if len(batch) == 1:
            raise ExtractionError(
                "one chain alone does not fit in memory",
                found=f"{width} tokens",
                where=f"trace {batch[0][0].id!r}",
                fix="use a smaller dtype, fewer layers or another device",
            ) from None
        _log.warning("out of memory at %d chains of %d tokens: halved", len(batch), width)
        running.clear()
        return False
    running.pop().commit()
    return True


def halves(batch: list[Any]) -> list[list[Any]]:
    """What did not fit in memory, in two; a GPU's unused memory is given back first."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    half = len(batch) // 2
    return [batch[:half], batch[half:]]
