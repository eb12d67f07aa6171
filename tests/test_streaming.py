"""Chains are packed, run to the last layer asked for, and read once each, whatever happens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steerkit.errors import ExtractionError, TraceError
from steerkit.models import ThinkingModel
from steerkit.residual import decoder_layers
from steerkit.streaming import Item, cut, pack, stream
from steerkit.traces import Trace, Traces
from tests.test_residual import counted, hooks_in, hooks_on
from tests.tiny import CONTEXT, tiny_model, tiny_trace, tiny_traces

ALIGNER = tiny_model()


@dataclass
class Kept:
    """What readers saw: the states of every chain by layer, committed batches, their shapes."""

    states: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    started: int = 0


class Keeper:
    """A reader that keeps everything, as no real one does."""

    def __init__(self, kept: Kept, items: list[Item], width: int) -> None:
        self.kept, self.items, self.width = kept, items, width
        self.seen: dict[int, Tensor] = {}
        kept.started += 1

    def read(self, layer: int, hidden: Tensor) -> None:
        assert layer not in self.seen
        assert hidden.shape[:2] == (len(self.items), self.width)
        self.seen[layer] = hidden.clone()

    def commit(self) -> None:
        self.kept.shapes.append((len(self.items), self.width))
        for row, (trace, chain) in enumerate(self.items):
            assert trace.id == chain.trace_id and trace.id not in self.kept.states
            self.kept.states[trace.id] = {
                layer: hidden[row, : len(chain.ids)] for layer, hidden in self.seen.items()
            }


def run(model: ThinkingModel, traces, layers=(0, 2), **settings) -> Kept:
    kept = Kept()
    stream(model, traces, layers, lambda items, width: Keeper(kept, items, width), **settings)
    return kept


def assert_same_states(a: Kept, b: Kept, tolerance: float = 1e-4) -> None:
    assert a.states.keys() == b.states.keys()
    for name, layers in a.states.items():
        for layer, value in layers.items():
            torch.testing.assert_close(value, b.states[name][layer], rtol=tolerance, atol=tolerance)


def fail_above(module: nn.Module, limit: int, error: Exception):
    """Make a module raise when more than ``limit`` positions run at once."""

    def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        if given.shape[0] * given.shape[1] > limit:
            raise error

    return module.register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("batch_tokens", [1, 100, 400, 100_000])
@torch.no_grad()
def test_every_chain_is_read_once_with_hugging_face_states(batch_tokens: int) -> None:
    model, traces = tiny_model(), tiny_traces(12)
    kept = run(model, traces, batch_tokens=batch_tokens)
    assert set(kept.states) == {trace.id for trace in traces}
    for rows, width in kept.shapes:
        assert rows == 1 or rows * width <= batch_tokens
    for trace in traces:
        ids = torch.tensor([model.align(trace).ids])
        states = model.hf(ids, output_hidden_states=True).hidden_states
        assert set(kept.states[trace.id]) == {0, 2}
        torch.testing.assert_close(kept.states[trace.id][0], states[1][0], rtol=1e-4, atol=1e-4)
        last = model.hf.get_decoder().norm(kept.states[trace.id][2])
        torch.testing.assert_close(last, states[3][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "gemma3", "phi3"])
def test_padding_changes_nothing_in_other_shapes(architecture: str) -> None:
    model, traces = tiny_model(architecture), tiny_traces(8)
    assert_same_states(run(model, traces, batch_tokens=100_000), run(model, traces, batch_tokens=1))


def test_the_comparison_sees_a_wrong_layer() -> None:
    model, traces = tiny_model(), tiny_traces(2)
    kept = run(model, traces, layers=(0, 1))
    for layers in kept.states.values():
        layers[1] = layers[0]
    with pytest.raises(AssertionError):
        assert_same_states(kept, run(model, traces, layers=(0, 1)))


@given(
    lengths=st.lists(st.integers(1, 50), max_size=30),
    batch_tokens=st.integers(1, 300),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_packing_keeps_every_chain_within_the_budget_in_any_order(
    lengths: list[int], batch_tokens: int, order
) -> None:
    trace = tiny_trace(["deduction"])
    chain = ALIGNER.align(trace)
    items = [
        (trace, replace(chain, trace_id=f"{n:03}", ids=(0,) * length))
        for n, length in enumerate(lengths)
    ]
    batches = pack(items, batch_tokens)
    assert sorted(i.trace_id for b in batches for _, i in b) == [i.trace_id for _, i in items]
    for batch in batches:
        longest = max(len(i.ids) for _, i in batch)
        assert len(batch) == 1 or len(batch) * longest <= batch_tokens
    shuffled = list(items)
    order.shuffle(shuffled)
    assert pack(shuffled, batch_tokens) == batches


@torch.no_grad()
def test_layers_above_the_last_and_the_head_never_run() -> None:
    model, traces = tiny_model(), tiny_traces(6)
    names = {module: name for name, module in model.hf.named_modules()}
    layers = [names[layer] for layer in decoder_layers(model.hf)]
    head, norm = names[model.hf.get_output_embeddings()], names[model.hf.get_decoder().norm]
    for asked, expected in (((0,), (1, 0, 0)), ((1, 0), (1, 1, 0)), ((2,), (1, 1, 1))):
        with counted(model.hf) as calls:
            kept = run(model, traces, layers=asked, batch_tokens=200)
        batches = len(kept.shapes)
        assert batches > 1
        assert [calls[name] for name in layers] == [batches * n for n in expected]
        assert calls[head] == calls[norm] == 0


def test_too_long_chains_are_refused_cut_or_skipped_and_counted() -> None:
    model = tiny_model(max_position_embeddings=60)
    labels = ["deduction", "backtracking", "example-testing"]
    short = tiny_trace(labels[:2], 0)
    long = tiny_trace(labels * 4, 1)
    length = len(model.align(long).ids)
    assert len(model.align(short).ids) <= 60 < length
    with pytest.raises(
        ExtractionError, match=rf"trace 'chain-1'.*at most 60 tokens; found {length} tokens.*cut"
    ):
        run(model, [short, long])
    counters: Counter[str] = Counter()
    kept = run(model, [short, long], too_long="skip", counters=counters)
    assert set(kept.states) == {"chain-0"}
    assert counters["chains skipped: longer than the context"] == 1
    counters.clear()
    kept = run(model, [short, long], too_long="cut", counters=counters)
    assert len(kept.states["chain-1"][0]) == 60
    lost = sum(end > 60 for _, end, _ in model.align(long).spans)
    assert counters["chains cut"] == 1 and counters["spans cut"] == lost > 0
    # what is left of the chain is what it was: causal attention never looks ahead
    wide = tiny_model()
    whole = run(wide, [long]).states["chain-1"][2][:60]
    torch.testing.assert_close(kept.states["chain-1"][2], whole, rtol=1e-4, atol=1e-4)


def test_a_chain_whose_prompt_fills_the_context_is_skipped() -> None:
    model = tiny_model(max_position_embeddings=12)
    counters: Counter[str] = Counter()
    kept = run(model, [tiny_trace(["deduction"])], too_long="cut", counters=counters)
    assert not kept.states and counters["chains skipped: longer than the context"] == 1


def test_cut_keeps_what_lies_within() -> None:
    chain = tiny_model().align(tiny_trace(["deduction", "backtracking", "deduction"]))
    at = chain.spans[1][1]
    shorter = cut(chain, at)
    assert shorter.ids == chain.ids[:at] and shorter.spans == chain.spans[:2]
    assert shorter.thinking == (chain.thinking[0], at)
    assert len(shorter.offsets) == at - chain.prompt_length
    assert shorter.phases.tolist() == chain.phases[:at].tolist()
    assert cut(chain, at - 1).spans == chain.spans[:1]
    assert cut(chain, 3).thinking == (3, 3) and cut(chain, 3).offsets == ()


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("embeddings", torch.OutOfMemoryError("CUDA out of memory")),
        ("a later layer", torch.OutOfMemoryError("CUDA out of memory")),
        ("a later layer", RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)")),
        ("a later layer", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")),
        ("a later layer", MemoryError("Unable to allocate 1.2 GiB for an array")),
    ],
)
def test_out_of_memory_halves_the_batch_and_loses_nothing(where: str, problem: Exception) -> None:
    model, traces = tiny_model(), tiny_traces(16)
    expected = run(model, traces, batch_tokens=100_000)
    module = model.hf.get_input_embeddings() if where == "embeddings" else None
    module = module or decoder_layers(model.hf)[1]
    limit = 2 * max(len(model.align(trace).ids) for trace in traces)
    handle = fail_above(module, limit, problem)
    reported: list[tuple[int, int]] = []
    kept = run(
        model,
        traces,
        batch_tokens=100_000,
        progress=lambda done, total: reported.append((done, total)),
    )
    handle.remove()
    assert len(expected.shapes) == 1 and len(kept.shapes) >= 8
    assert kept.started > len(kept.shapes)  # some batches failed on the way
    assert all(rows * width <= limit for rows, width in kept.shapes)
    assert_same_states(kept, expected)
    assert reported[-1] == (16, 16)
    assert hooks_in(model.residual) == 0


def test_one_chain_that_does_not_fit_in_memory_is_named() -> None:
    model, traces = tiny_model(), tiny_traces(4)
    before = hooks_on(model.hf)
    handle = fail_above(model.hf.get_input_embeddings(), 1, torch.OutOfMemoryError("no"))
    with pytest.raises(ExtractionError, match=r"trace 'chain-\d'.*one chain alone does not fit"):
        run(model, traces)
    handle.remove()
    assert hooks_in(model.residual) == 0 and hooks_on(model.hf) == before
    assert len(run(model, traces).states) == 4


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyboardInterrupt(), ValueError("x")])
def test_other_failures_pass_through_and_leave_nothing_behind(error: BaseException) -> None:
    model, traces = tiny_model(), tiny_traces(4)
    before = hooks_on(model.hf)
    handle = fail_above(decoder_layers(model.hf)[1], 1, error)  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        run(model, traces)
    handle.remove()
    assert hooks_in(model.residual) == 0 and hooks_on(model.hf) == before
    assert len(run(model, traces).states) == 4


def test_dropout_is_off_and_the_models_mode_comes_back() -> None:
    model = tiny_model(attention_dropout=0.5)
    expected = run(model, tiny_traces(3))
    model.hf.train()
    model.hf.model.layers[0].eval()
    modes = [module.training for module in model.hf.modules()]
    assert any(modes) and not all(modes)
    assert_same_states(run(model, tiny_traces(3)), expected, tolerance=0)
    assert [module.training for module in model.hf.modules()] == modes
    ids = torch.tensor([model.align(tiny_traces(1)[0]).ids])
    model.hf.train()
    with torch.no_grad():  # the check can fail: dropout is there
        assert not torch.equal(model.hf(ids).logits, model.hf(ids).logits)


def test_no_gradient_is_kept() -> None:
    model = tiny_model()
    model.hf.requires_grad_(True)
    kept = run(model, tiny_traces(2))
    assert not any(s.requires_grad for layers in kept.states.values() for s in layers.values())


def test_progress_counts_every_chain_once() -> None:
    model, traces = tiny_model(), tiny_traces(10)
    reported: list[tuple[int, int]] = []
    run(model, traces, batch_tokens=150, progress=lambda *seen: reported.append(seen))
    done = [n for n, _ in reported]
    assert len(done) > 2 and done == sorted(set(done)) and reported[-1] == (10, 10)
    assert {total for _, total in reported} == {10}


def test_chains_are_aligned_in_shards_that_bound_memory() -> None:
    model = tiny_model()
    traces = [tiny_trace(["deduction"], n) for n in range(130)]
    kept = run(model, traces, batch_tokens=1_000_000)
    assert [rows for rows, _ in kept.shapes] == [128, 2]


def test_retokenised_chains_are_counted() -> None:
    model = tiny_model()
    known = model.tokenizer.convert_tokens_to_ids
    trace = Trace("c", "t", "I need", prompt="?", token_ids=tuple(known(["I", " ", "need"])))
    counters: Counter[str] = Counter()
    run(model, [trace, tiny_trace(["deduction"])], counters=counters)
    assert counters["chains retokenized"] == 1
    wrong = Trace("bad", "t", "I need", prompt="?", token_ids=(5, 5))
    with pytest.raises(TraceError, match="trace 'bad'"):
        run(model, [tiny_trace(["deduction"]), wrong])
    assert hooks_in(model.residual) == 0


def test_bad_batch_sizes_are_refused_and_no_chains_are_no_work() -> None:
    model = tiny_model()
    for batch_tokens in (0, -5):
        with pytest.raises(ExtractionError, match="batch_tokens must be positive"):
            run(model, tiny_traces(2), batch_tokens=batch_tokens)
    assert not run(model, Traces()).states


def test_a_context_just_long_enough_is_enough() -> None:
    trace = tiny_trace(["deduction"])
    length = len(tiny_model().align(trace).ids)
    assert length < CONTEXT
    assert run(tiny_model(max_position_embeddings=length), [trace]).states
    with pytest.raises(ExtractionError):
        run(tiny_model(max_position_embeddings=length - 1), [trace])
