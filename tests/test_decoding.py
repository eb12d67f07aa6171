"""No capacity, joining or shortage of memory changes a chain, and nothing is left behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest
import torch

from steerkit import decoding
from steerkit.decoding import Batch, Decoder
from steerkit.errors import GenerationError
from steerkit.models import ThinkingModel
from steerkit.sampling import Noise
from steerkit.traces import Traces
from steerkit.writing import Writing
from tests.test_steering import direction
from tests.tiny import ARCHITECTURES, tiny_model

PROMPTS = [
    "Use 3, 7, 8 to make 29.",
    "Use 5, 6, 20 to make 14. Use 5, 6, 20 to make 14. Use 5, 6, 20 to make 14.",
    "Use 2, 9 to make 18.",
    "7",
]
# of a forward pass, so that padding always costs less than one, or always more
CHEAP, DEAR = ({"cpu": sign << 40, "cuda": 0} for sign in (1, -1))


def ending(architecture: str = "qwen2") -> ThinkingModel:
    """A model with many ways to end, so that its rows end at different steps."""
    model = tiny_model(architecture)
    model.hf.generation_config.eos_token_id = list(range(40, 80))
    return model


SHORT: dict[str, Any] = {"samples": 4, "max_new_tokens": 6, "seed": 2}


def steer() -> list[Any]:
    closing = direction()
    return [0.5 * closing, None, -0.5 * closing.at(where="think"), 0.3 * closing]


def hooks(model: ThinkingModel) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for m in (*model.hf.modules(), *model.residual.modules())
    )


def tokens(traces: Traces) -> list[tuple[int, ...] | None]:
    return [trace.token_ids for trace in traces]


@pytest.fixture(scope="module")
def short() -> tuple[ThinkingModel, Traces]:
    model = ending()
    return model, model.generate(PROMPTS, steer=steer(), batch_size=1, **SHORT)


@pytest.fixture
def joins(monkeypatch) -> list[tuple[int, int]]:
    """Rows that were writing, and rows that came to them, of every joining."""
    found: list[tuple[int, int]] = []
    joined = Batch.joined

    def spy(self: Batch, other: Batch | None) -> None:
        if other is not None:
            found.append((self.live, other.live))
        joined(self, other)

    monkeypatch.setattr(Batch, "joined", spy)
    return found


@contextmanager
def watched(model: ThinkingModel) -> Iterator[list[tuple[int, int]]]:
    """Rows and positions of every forward pass."""
    seen: list[tuple[int, int]] = []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = model.hf.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_capacity_and_no_joining_changes_a_chain(architecture, monkeypatch, joins) -> None:
    model = ending(architecture)
    options = {"steer": steer(), "samples": 2, "max_new_tokens": 14, "seed": 4}
    expected = model.generate(PROMPTS, batch_size=1, **options)
    assert not joins and len({len(trace.token_ids or ()) for trace in expected}) >= 4
    for price, capacities in ((CHEAP, (2, 3, 5, 64)), (DEAR, (2, 5))):
        monkeypatch.setattr(decoding, "_OVERHEAD", price)
        for capacity in capacities:
            joins.clear()
            with watched(model) as seen:
                found = model.generate(PROMPTS, batch_size=capacity, **options)
            assert found == expected
            assert max(rows for rows, _ in seen) == min(capacity, 8)
            # all eight fit at once in 64; where padding is dear, a batch ends before the next
            assert bool(joins) == (price is CHEAP and capacity < 8)
            assert all(there > 0 and there + new <= capacity for there, new in joins)


def test_chains_that_feel_their_neighbours_would_be_noticed(monkeypatch, joins) -> None:
    """Positive control: a cache that is put together in the wrong order changes chains."""
    model = ending()
    monkeypatch.setattr(decoding, "_OVERHEAD", CHEAP)
    options = {"samples": 2, "max_new_tokens": 14, "seed": 4}
    expected = model.generate(PROMPTS, batch_size=1, **options)
    real = decoding.join_caches

    def turned(parts: Any, lengths: Any, config: Any) -> Any:
        return real([(cache, rows.flip(0)) for cache, rows in parts], lengths, config)

    monkeypatch.setattr(decoding, "join_caches", turned)
    assert joins == [] and model.generate(PROMPTS, batch_size=5, **options) != expected
    assert joins


def test_rows_join_while_padding_costs_less_than_a_forward_pass(monkeypatch, joins) -> None:
    """Between the two prices rows of like length join, and a long one and short ones do not."""
    model = ending()
    prompts = [f"Use 3, 7, 8 to make {number}." for number in range(20, 28)]
    prompts[3] = " ".join(prompts[:6])
    column = 3 * 2 * 16 * 4  # layers, keys and values, width, bytes
    weights = sum(p.numel() * 4 for p in model.hf.parameters())
    monkeypatch.setattr(decoding, "_OVERHEAD", {"cpu": 12 * column - weights, "cuda": 0})
    asked, padding = [], Batch.padding

    def spy(self: Batch, others: Any) -> int:
        lengths = [row.length for row in [*self.rows, *others] if not row.ended]
        asked.append(sum(max(lengths) - length for length in lengths))
        assert padding(self, others) == column * asked[-1]
        return padding(self, others)

    monkeypatch.setattr(Batch, "padding", spy)
    options = {"max_new_tokens": 20, "seed": 1}
    found = model.generate(prompts, batch_size=2, **options)
    assert 0 < len(joins) == sum(columns <= 12 for columns in asked) < len(asked)
    assert found == model.generate(prompts, batch_size=1, **options)


@pytest.mark.parametrize("cache", ["growing", "other"])
def test_rows_whose_cache_cannot_be_joined_wait_for_the_next_batch(cache, monkeypatch, joins):
    model = ending()
    monkeypatch.setattr(decoding, "_OVERHEAD", CHEAP)
    options = {"samples": 2, "max_new_tokens": 14, "seed": 4}
    expected = model.generate(PROMPTS, batch_size=1, **options)
    if cache == "other":
        from transformers import DynamicCache

        monkeypatch.setattr(decoding, "growing_cache", lambda config: DynamicCache(config=config))
    assert model.generate(PROMPTS, batch_size=3, **options) == expected
    assert bool(joins) == (cache == "growing")


def test_progress_never_goes_back_and_ends_with_all() -> None:
    model = ending()
    writing = Writing(model, PROMPTS, samples=3, max_new_tokens=12)
    decoder = Decoder(model, writing.rows, 4, writing.choose, writing.take)
    seen = list(decoder.run())
    assert seen == sorted(seen) and seen[-1] == 12 and len(set(seen)) > 4
    assert all(row.ended for row in writing.rows) and decoder.batch is None


def test_finished_rows_that_run_along_are_left_as_they_are(monkeypatch) -> None:
    """Of sixteen rows one that ends stays until a second one does, and nothing is added to it."""
    model, beside, forward = tiny_model(), [], Decoder._forward

    def spy(self: Decoder, batch: Batch) -> None:
        beside.append([row.ended for row in batch.rows])
        forward(self, batch)

    monkeypatch.setattr(Decoder, "_forward", spy)
    heard: list[tuple[int, int]] = []
    # a row that had ended by its end token would only choose it again
    options = {"until": lambda text: text.endswith(("7", "e")), "samples": 4, "max_new_tokens": 10}
    expected = model.generate(PROMPTS, batch_size=1, **options)
    assert set(chain.from_iterable(beside)) == {""}
    found = model.generate(
        PROMPTS, on_token=lambda row, step, _: heard.append((row, step)), **options
    )
    assert found == expected and "until" in chain.from_iterable(beside)
    assert len(set(heard)) == len(heard) == sum(len(trace.token_ids or ()) for trace in found)


def test_columns_that_no_row_uses_any_more_are_dropped(short, monkeypatch) -> None:
    model, expected = short
    monkeypatch.setattr(decoding, "_OVERHEAD", CHEAP)
    joined, dropped = Batch.joined, []

    def spy(self: Batch, other: Batch | None) -> None:
        before = self.width
        joined(self, other)
        if self.rows:
            assert self.width == self.mask.shape[1] == max(row.length for row in self.rows)
            assert self.cache.get_seq_length() == self.width - 1
            dropped.append(before - self.width)

    monkeypatch.setattr(Batch, "joined", spy)
    assert model.generate(PROMPTS, steer=steer(), batch_size=5, **SHORT) == expected
    assert max(dropped) > 10  # the long prompt's rows have gone


class Planted:
    """An exception at one call of one kind, and after it none."""

    def __init__(self, kind: str, number: int, problem: BaseException | None = None) -> None:
        self.kind, self.number, self.calls, self.raised = kind, number, 0, False
        self.problem = problem or torch.OutOfMemoryError("planted")

    def __call__(self, kind: str) -> None:
        if kind == self.kind:
            self.calls += 1
            if self.calls > self.number and not self.raised:
                self.raised = True
                raise self.problem


@contextmanager
def planting(model: ThinkingModel, planted: Planted, monkeypatch) -> Iterator[None]:
    """Let it see every forward pass, every joining, and what happens in the middle of one."""

    def forward(module: Any, args: Any, kwargs: Any) -> None:
        planted("prefill" if kwargs["input_ids"].shape[1] > 1 else "decode")

    def middle(module: Any, args: Any) -> None:
        planted("within the layers")  # before the edit of layer 1

    def late(module: Any, args: Any, output: Any) -> None:
        planted("after the layers")

    joined, join_caches, steered = Batch.joined, decoding.join_caches, Batch._steer
    begin = Batch.__init__

    def joining(self: Batch, other: Batch | None) -> None:
        planted("before joining")
        joined(self, other)
        planted("after joining")

    def caches(*args: Any) -> Any:
        found = join_caches(*args)  # rows of the cache are gone already
        planted("within joining")
        return found

    def steering(self: Batch) -> None:
        planted("edits")
        steered(self)

    def beginning(self: Batch, model: ThinkingModel, rows: Any) -> None:
        assert not any(row.ended for row in rows), "a finished row is begun anew"
        begin(self, model, rows)

    handles = [
        model.hf.register_forward_pre_hook(forward, with_kwargs=True),
        model.hf.model.layers[0].mlp.register_forward_pre_hook(middle),
        model.hf.register_forward_hook(late),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "joined", joining)
        patch.setattr(Batch, "_steer", steering)
        patch.setattr(Batch, "__init__", beginning)
        patch.setattr(decoding, "join_caches", caches)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


OFTEN = ("prefill", "decode", "within joining")
SELDOM = ("within the layers", "after the layers", "edits", "before joining", "after joining")
CALLS = [(kind, n) for kind in OFTEN for n in range(8)] + [(k, n) for k in SELDOM for n in (0, 4)]


@pytest.mark.parametrize(("kind", "number"), CALLS)
def test_memory_that_runs_out_at_any_call_changes_nothing(
    short, kind, number, monkeypatch, caplog
) -> None:
    """No row is lost, no piece told twice, and chains are as if there had been room."""
    model, expected = short
    monkeypatch.setattr(decoding, "_OVERHEAD", CHEAP)
    heard: dict[int, list[str]] = {}
    counted = []

    def hear(row: int, step: int, piece: str) -> None:
        assert step == len(heard.setdefault(row, []))
        heard[row].append(piece)

    before, planted = hooks(model), Planted(kind, number)
    with planting(model, planted, monkeypatch), caplog.at_level(logging.WARNING):
        found = model.generate(
            PROMPTS,
            steer=steer(),
            batch_size=5,
            on_token=hear,
            progress=lambda done, total: counted.append((done, total)),
            **SHORT,
        )
    assert planted.raised and "halved" in caplog.text
    assert found == expected
    for row, trace in enumerate(found):
        assert "".join(heard.get(row, [])) == trace.response
        assert len(heard.get(row, [])) == len(trace.token_ids or ())
    assert counted == sorted(set(counted)) and counted[-1] == (16, 16)
    assert hooks(model) == before


def test_memory_that_runs_out_while_tokens_are_chosen_halves_the_batch(short, monkeypatch) -> None:
    """The noise is numpy's, which raises an error of its own kind; no row is written twice."""
    model, expected = short
    winners, calls, failed = Noise.winners, list[int](), list[int]()

    def small(self: Noise, scaled: Any, keys: Any, steps: Any) -> Any:
        calls.append(len(keys))
        if len(calls) > 2 and len(keys) > 4:
            failed.append(len(keys))
            raise MemoryError("Unable to allocate 4.64 MiB for an array")
        return winners(self, scaled, keys, steps)

    monkeypatch.setattr(Noise, "winners", small)
    found = model.generate(PROMPTS, steer=steer(), batch_size=16, **SHORT)
    assert len(failed) >= 2 and max(calls[-3:]) <= 4 and found == expected


def test_memory_that_keeps_running_out_halves_again(short, monkeypatch) -> None:
    model, expected = short
    monkeypatch.setattr(decoding, "_OVERHEAD", CHEAP)
    tried: list[int] = []

    def small(module: Any, args: Any, kwargs: Any) -> None:
        tried.append(kwargs["input_ids"].shape[0])
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("planted")

    handle = model.hf.register_forward_pre_hook(small, with_kwargs=True)
    try:
        found = model.generate(PROMPTS, steer=steer(), batch_size=16, **SHORT)
    finally:
        handle.remove()
    assert tried[:4] == [16, 8, 4, 2] and max(tried[3:]) == 2 and found == expected


@pytest.mark.parametrize("calls", [0, 3])
@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("planted"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_one_row_that_does_not_fit_alone_is_an_error(short, calls, problem) -> None:
    model, _ = short
    before, tried = hooks(model), []

    def never(module: Any, args: Any, kwargs: Any) -> None:
        tried.append(kwargs["input_ids"].shape[0])
        if len(tried) > calls:
            raise problem

    handle = model.hf.register_forward_pre_hook(never, with_kwargs=True)
    try:
        with pytest.raises(GenerationError, match="one row alone does not fit"):
            model.generate(PROMPTS, steer=0.5 * direction(), batch_size=5, **SHORT)
    finally:
        handle.remove()
    assert tried[calls:] == [5, 2, 1]
    assert hooks(model) == before


@pytest.mark.parametrize("problem", [RuntimeError("something else"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["prefill", "decode", "before joining", "edits"])
def test_no_hook_is_left_after_another_exception(short, problem, kind, monkeypatch) -> None:
    model, _ = short
    monkeypatch.setattr(decoding, "_OVERHEAD", CHEAP)
    before, planted = hooks(model), Planted(kind, 3, problem)
    options = {"steer": steer(), "batch_size": 5, "on_interrupt": "raise", **SHORT}
    with planting(model, planted, monkeypatch), pytest.raises(type(problem)) as caught:
        model.generate(PROMPTS, **options)
    assert planted.raised and caught.value is problem
    assert hooks(model) == before


@pytest.mark.parametrize("passes", [1, 4])
def test_no_hook_is_left_by_a_run_that_is_abandoned(short, passes) -> None:
    model, _ = short
    model.hf.train()
    before, modes = hooks(model), [module.training for module in model.hf.modules()]
    writing = Writing(model, PROMPTS, steer=0.5 * direction(), max_new_tokens=8)
    decoder = Decoder(model, writing.rows, 2, writing.choose, writing.take)
    run = decoder.run()
    for _ in range(passes):
        next(run)
    # positive control: in between they are there, and the model is in evaluation mode
    assert hooks(model) > before and not model.hf.training
    run.close()
    assert hooks(model) == before
    assert [module.training for module in model.hf.modules()] == modes and any(modes)
    model.hf.eval()


def test_no_hook_is_left_by_a_run_to_the_end(short) -> None:
    model, _ = short
    before = hooks(model)
    writing = Writing(model, PROMPTS, steer=0.5 * direction(), max_new_tokens=8)
    during = [
        hooks(model) for _ in Decoder(model, writing.rows, 2, writing.choose, writing.take).run()
    ]
    assert max(during) > before == hooks(model)


def test_long_prompts_are_read_first_so_that_rows_of_like_length_meet() -> None:
    model = ending()
    prompts = ["7", " ".join(["Use 2, 9 to make 18."] * 4), "9", "Use 2, 9 to make 18."]
    with watched(model) as seen:
        found = model.generate(prompts, batch_size=2, max_new_tokens=3, seed=1)
    widths = [width for _, width in seen if width > 1]
    assert widths == sorted(widths, reverse=True) and len(widths) == 2
    assert [trace.prompt for trace in found] == prompts
