"""Decoding: rows that write side by side; who has finished leaves, who waits takes the place."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from steerkit.cache import growing_cache, join_caches, joinable
from steerkit.errors import GenerationError
from steerkit.memory import MEMORY_ERRORS, out_of_memory
from steerkit.models import ThinkingModel
from steerkit.output_head import packed_head
from steerkit.places import Positions
from steerkit.positions import PAD, PROMPT
from steerkit.response import Response
from steerkit.sampling import row_key
from steerkit.steering import RowSteering
from steerkit.tasks import Task
from steerkit.terms import Terms

_SHARE = 8
"""Rows leave and join once one in so many has finished: moving the cache costs too."""
_OVERHEAD = {"cpu": 32 << 20, "cuda": 16 << 30}
"""Bytes that memory could move while a forward pass is being launched, about."""
_log = logging.getLogger(__name__)

Next = Callable[[Float[Tensor, "row vocabulary"], Sequence["Row"]], list[int]]
"""Chooses the next token of every row from its logits."""


@dataclass
class Row(Response):
    """One chain while it is written.

    Attributes
    ----------
    number:
        Its place among the chains asked for.
    prompt, begun:
        Token ids of the rendered prompt, and of what the response begins with.
    limit:
        New tokens at most.
    forced:
        Tokens that come next whatever the model would choose.
    closed_for_it:
        Whether its thinking was closed by force.
    ended:
        Why it is finished (``end``, ``until``, ``limit``, ``budget``); empty while it is not.
    """

    number: int
    task: Task
    sample: int
    terms: Terms
    prompt: list[int]
    limit: int
    begun: tuple[int, ...]
    forced: list[int] = field(default_factory=list)
    closed_for_it: bool = False
    ended: str = ""

    @cached_property
    def key(self) -> int:
        """Names the row's noise."""
        return row_key(self.task.prompt, self.sample)

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.ids)


class Batch:
    """Tensors of the rows that are being written: their cache, and what is to be run next."""

    def __init__(self, model: ThinkingModel, rows: Sequence[Row]) -> None:
        self.model, self.rows, self.device = model, list(rows), model.device
        self.cache = growing_cache(model.hf.config)
        self.width = max(row.length for row in rows)
        shape = (len(rows), self.width)
        self.ids: Int64[Tensor, "row position"] = torch.full(shape, model.pad_id)
        self.mask: Int64[Tensor, "row column"] = torch.zeros(shape, dtype=torch.int64)
        self.positions = at = Positions(
            phase=torch.full(shape, PAD, dtype=torch.int8),
            index=torch.zeros(shape, dtype=torch.int64),
            step=torch.full(shape, -1),
            starts=torch.zeros(shape, dtype=torch.bool),
        )
        for number, row in enumerate(rows):
            first = self.width - len(row.ids) - 1  # predicts the first token of the response
            start = self.width - row.length
            self.ids[number, start:] = torch.tensor(row.prompt + row.ids)
            self.mask[number, start:] = 1
            at.index[number, start:] = torch.arange(row.length)
            at.phase[number, start:first] = PROMPT
            at.phase[number, first:] = torch.tensor(row.phases, dtype=torch.int8)
            at.step[number, first:] = torch.arange(len(row.ids) + 1)
            at.starts[number, first:] = torch.tensor(row.starts)
        self.mask = self.mask.to(self.device)
        accepted = inspect.signature(model.hf.forward).parameters
        # transformers renames the argument: the old name warns from 5.24 on
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._steer()

    def _steer(self) -> None:
        self.steering = RowSteering(self.model, [row.terms for row in self.rows])

    @property
    def caches(self) -> bool:
        """Whether the model has kept the keys and values of what it ran."""
        return bool(self.cache.get_seq_length())

    @property
    def live(self) -> int:
        """Rows that are not finished."""
        return sum(not row.ended for row in self.rows)

    def logits(self) -> Float[Tensor, "row vocabulary"]:
        """One forward pass over what is new; float32 logits of the next token of every row."""
        self.steering.place(self.positions)
        output = self.model.hf(
            input_ids=self.ids.to(self.device),
            attention_mask=self.mask,
            position_ids=self.positions.index.to(self.device),
            use_cache=True,
            **{self._cache_name: self.cache},
            **self._last,
        )
        logits = output.logits[:, -1].float()
        known = self.model.vocabulary
        if known < logits.shape[1]:  # rows of the embedding that are no token
            logits[:, known:] = -torch.inf
        return logits

    def advance(self) -> None:
        """Make the newest token of every row the coming input; finished rows run along."""
        self.width += 1
        self.ids = torch.tensor([[(row.ids or row.prompt)[-1]] for row in self.rows])
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        codes = [PAD if row.ended else row.phases[-1] for row in self.rows]
        self.positions = Positions(
            phase=torch.tensor(codes, dtype=torch.int8)[:, None],
            index=torch.tensor([[row.length - 1] for row in self.rows]),
            step=torch.tensor([[len(row.ids)] for row in self.rows]),
            starts=torch.tensor([[row.starts[-1]] for row in self.rows]),
        )

    def padding(self, others: Sequence[Row]) -> int:
        """Bytes of padding that a step would read if these rows joined those still writing."""
        lengths = [row.length for row in (*self.rows, *others) if not row.ended]
        return self._column * (max(lengths) * len(lengths) - sum(lengths))

    @cached_property
    def _column(self) -> int:
        """Bytes of one position of one row in all layers of the cache."""
        return sum(
            states.shape[1] * states.shape[-1] * states.element_size()
            for layer in self.cache.layers
            for states in (layer.keys, layer.values)
        )

    def joined(self, other: Batch | None) -> None:
        """Let finished rows go and take ``other``'s rows in; both have advanced."""
        kept = [i for i, row in enumerate(self.rows) if not row.ended]
        parts = [(self, kept)]
        if other is not None:
            parts.append((other, [i for i, row in enumerate(other.rows) if not row.ended]))
        parts = [(batch, index) for batch, index in parts if index]
        if not parts:
            self.rows = []
            return
        # columns that no remaining row uses are left behind; the coming one is not cached yet
        widths = [
            max(batch.rows[i].length for i in index) if joinable(batch.cache) else batch.width
            for batch, index in parts
        ]
        caches = [(batch.cache, torch.tensor(index)) for batch, index in parts]
        self.cache = join_caches(caches, [width - 1 for width in widths], self.model.hf.config)
        self.width = max(widths)
        masks = [
            torch.nn.functional.pad(batch.mask[index][:, -width:], (self.width - width, 0))
            for (batch, index), width in zip(parts, widths, strict=True)
        ]
        self.mask = torch.cat(masks)
        self.ids = torch.cat([batch.ids[index] for batch, index in parts])
        self.positions = Positions.joined([batch.positions.select(index) for batch, index in parts])
        self.rows = [batch.rows[i] for batch, index in parts for i in index]
        self._steer()


class Decoder:
    """Writes rows to their end, ``capacity`` at a time, and reports every token.

    Parameters
    ----------
    choose:
        Gives the next token of every row.
    take:
        Notes a token of a row, and whether the row is finished (:attr:`Row.ended`).
    readers:
        Hook functions by layer, which see what the edits have made of its output.
    """

    def __init__(
        self,
        model: ThinkingModel,
        rows: Sequence[Row],
        capacity: int,
        choose: Next,
        take: Callable[[Row, int], None],
        readers: Mapping[int, Callable[..., None]] | None = None,
    ) -> None:
        self.model, self.capacity = model, capacity
        self.waiting = _longest_first(rows)
        self._total = len(self.waiting)
        self.batch: Batch | None = None
        self._choose, self._take = choose, take
        self._readers = readers or {}
        self._warned = False
        self._hooks = ExitStack()
        self._hooked: RowSteering | None = None

    def run(self) -> Iterator[int]:
        """After every forward pass, how many rows are finished so far.

        The model is not free until the last one, or until this is closed: see :meth:`at_work`.
        """
        with self.at_work():
            while self.busy:
                yield self.step()

    @property
    def busy(self) -> bool:
        """Whether there are rows to be written."""
        return self.batch is not None or bool(self.waiting)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What :meth:`step` has to be called within; between two steps it may be left.

        Outside of it the model is as it was: no hook of these rows is on it, gradients and
        dropout are the caller's.
        """
        model = self.model
        with model.own_passes(), model.inference(), packed_head(model.hf):
            try:
                yield
            except BaseException as problem:
                self._detach(problem)
                raise
            self.release()

    def release(self) -> None:
        """Take the hooks off until the next step, for a caller that uses the model before it."""
        self._attach(None)

    def step(self) -> int:
        """One forward pass; how many rows are finished after it.

        Running out of memory halves the capacity; rows go on from what they have written.
        """
        while True:
            try:
                self._step()
                break
            except MEMORY_ERRORS as problem:
                if not out_of_memory(problem):
                    raise
                self._halve(problem)
        live = 0 if self.batch is None else self.batch.live
        return self._total - live - len(self.waiting)

    def _step(self) -> None:
        """One forward pass: of rows that join, or of all that are there."""
        fresh = self._next()
        batch = self.batch
        if fresh:
            joining = Batch(self.model, fresh)
            self._forward(joining)
            if not joining.caches:
                self._again()
                return
            if batch is None:
                self.batch = batch = joining
            else:
                batch.joined(joining)
            # last, so that no row is lost if memory runs out in between
            for _ in fresh:
                self.waiting.popleft()
        else:
            assert batch is not None
            self._forward(batch)
            if _SHARE * (len(batch.rows) - batch.live) >= len(batch.rows):
                batch.joined(None)
        if not batch.live:
            self.batch = None

    def _again(self) -> None:
        """Run the whole sequences at the next step, for a model that keeps nothing of this one.

        The modules of a TransformerBridge pass the cache by; going on with the newest token
        alone would forget the others without a word.
        """
        if not self._warned:
            _log.warning("%s keeps no cache: every step runs whole sequences", self.model.name)
            self._warned = True
        self.waiting = deque(row for row in self.waiting if not row.ended)

    def _next(self) -> list[Row]:
        """Waiting rows whose turn it is to join.

        Rows of one batch are padded to the longest, which costs memory traffic at every step.
        While that is less than another forward pass would cost, rows join as places become
        free; otherwise they wait until the longest have finished. A large model always lets them
        in, a small one on a CPU seldom.
        """
        batch = self.batch
        if not self.waiting:
            return []
        free = self.capacity if batch is None else self.capacity - batch.live
        fresh = list(islice(self.waiting, free))
        if batch is None:
            return fresh
        if _SHARE * free < self.capacity:
            return []
        if joinable(batch.cache) and batch.padding(fresh) <= self._forward_bytes:
            return fresh
        return []

    @cached_property
    def _forward_bytes(self) -> int:
        """What a forward pass costs beside its rows, as memory traffic: the weights, the launch."""
        weights = sum(p.numel() * p.element_size() for p in self.model.hf.parameters())
        return weights + _OVERHEAD.get(self.model.device.type, _OVERHEAD["cuda"])

    def _forward(self, batch: Batch) -> None:
        self._attach(batch.steering)
        tokens = self._choose(batch.logits(), batch.rows)
        for row, token in zip(batch.rows, tokens, strict=True):
            if not row.ended:
                self._take(row, token)
        batch.advance()

    def _attach(self, steering: RowSteering | None) -> None:
        """Hook the layers that this steering edits, and no other."""
        if steering is not self._hooked:
            self._hooks.close()
            self._hooked = steering
            if steering is not None:
                self._hooks.enter_context(steering.attached())
                for layer, reader in self._readers.items():
                    self._hooks.enter_context(self.model.residual.hooked(layer, reader))

    def _detach(self, problem: BaseException) -> None:
        # told of the exception, a hook that has not fired yet is no error
        self._hooks.__exit__(type(problem), problem, problem.__traceback__)
        self._hooked = None

    def _halve(self, problem: BaseException) -> None:
        self._detach(problem)
        running = [] if self.batch is None else self.batch.rows
        waiting = {row.number: row for row in (*running, *self.waiting) if not row.ended}
        self.batch = None
        tried = min(self.capacity, len(waiting))
        if tried == 1:
            row = next(iter(waiting.values()))
            raise GenerationError(
                "one row alone does not fit in memory",
                found=f"{row.length} tokens, {row.limit} at most to be generated",
                where=f"task {row.task.id!r}",
                fix="lower max_new_tokens, or use a smaller dtype or another device",
            )
        self.capacity = tried // 2
        self.waiting = _longest_first([waiting[number] for number in sorted(waiting)])
        _log.warning("out of memory at %d rows: halved", tried)


def _longest_first(rows: Sequence[Row]) -> deque[Row]:
    """Rows of like length one after another, so that they meet in a batch with little padding."""
    return deque(sorted(rows, key=lambda row: -row.length))
