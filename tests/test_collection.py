"""Collection equals a plain float64 computation over Hugging Face's own hidden states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import steerkit as sk
from steerkit.behaviors import behaviors
from steerkit.collection import collect, model_layers, trace_digest
from steerkit.directions import CONTRASTS, contrast, defined
from steerkit.errors import BehaviorError, ExtractionError
from steerkit.models import ThinkingModel
from steerkit.moments import Moments
from steerkit.positions import Window
from steerkit.reading import COLUMNS, REPLICATES, Chain, column_weights
from steerkit.residual import decoder_layers
from steerkit.traces import Span, Trace, Traces
from tests.synthetic import Synthetic, reference_contrast, span_means
from tests.test_residual import counted, hooks_in
from tests.test_streaming import fail_above
from tests.tiny import (
    ARCHITECTURES,
    LAYERS,
    SENTENCES,
    tiny_hf,
    tiny_model,
    tiny_trace,
    tiny_traces,
)

LABELS = tuple(b.name for b in behaviors() if b.name in SENTENCES)


@torch.no_grad()
def states(model: ThinkingModel, ids: Sequence[int]) -> np.ndarray:
    """Outputs of every decoder layer in float64, by torch's own hooks: [layer, position, width]."""
    found: list[torch.Tensor] = []

    def hook(_: object, __: object, output: torch.Tensor | tuple[torch.Tensor]) -> None:
        found.append(output if isinstance(output, torch.Tensor) else output[0])

    handles = [layer.register_forward_hook(hook) for layer in decoder_layers(model.hf)]
    output = model.hf(torch.tensor([ids]), output_hidden_states=True, logits_to_keep=1)
    expected = output.hidden_states
    for handle in handles:
        handle.remove()
    for n, value in enumerate(found[:-1]):
        assert torch.equal(value, expected[n + 1])
    return torch.cat(found).double().numpy()


PAPER = Window(1, 10)


def plain(
    model: ThinkingModel, traces: Sequence[Trace], before: int = 1, length: int = 10
) -> list[Synthetic]:
    """Chains one by one, with their windows from the words of the definition."""
    result = []
    for trace in traces:
        aligned = model.align(trace)
        windows = []
        for s, e, label in aligned.spans:
            read = [i for i in range(len(aligned.ids)) if max(s - before, 0) <= i < s + length]
            read = [i for i in read if i < e - 1]
            if read:
                windows.append((read[0], read[-1] + 1, label))
        canonical = json.dumps(trace.to_json(), sort_keys=True, separators=(",", ":"))
        key = hashlib.sha256(canonical.encode()).hexdigest()
        chain = Chain(key, aligned.task_key, aligned.thinking, tuple(windows))
        result.append(Synthetic(chain, states(model, aligned.ids)))
    return result


def assert_equals_plain(
    moments: Moments, chains: list[Synthetic], tolerance: float, layers: Sequence[int]
) -> None:
    """Counts exactly; sums, norms and every contrast within the tolerance of their scale."""
    chosen = [Synthetic(c.chain, c.hidden[list(layers)]) for c in chains]
    for k, label in enumerate(moments.labels):
        for column in (0, 1, REPLICATES, COLUMNS - 1):
            weight = {c.chain.task: int(column_weights(c.chain.task)[column]) for c in chosen}
            total = sum(
                weight[c.chain.task]
                for c in chosen
                for *_, found in c.chain.windows
                if found == label
            )
            assert int(moments.counts[column, k]) == total
            for name in (*CONTRASTS, f"{label}:deduction"):
                if name == "deduction:deduction":
                    continue
                expected = reference_contrast(chosen, name, label, weight)
                assert bool(defined(moments, name)[column, k]) == (expected is not None)
                if expected is not None:
                    scale = max(np.abs(m).max() for c in chosen for _, m in span_means(c))
                    found = contrast(moments, name, column)[k].numpy()
                    np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance)
    thinking = np.concatenate([c.hidden[:, slice(*c.chain.thinking)] for c in chosen], axis=1)
    assert moments.tokens == thinking.shape[1]
    norms = np.linalg.norm(thinking, axis=2).mean(axis=1)
    np.testing.assert_allclose(moments.mean_norm, norms, rtol=tolerance)
    mean = np.linalg.norm(thinking.mean(axis=1), axis=1)
    np.testing.assert_allclose(moments.norm_of_mean / norms, mean / norms, atol=tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_collecting_chain_by_chain_equals_plain_float64(architecture: str) -> None:
    model, traces = tiny_model(architecture), tiny_traces(10)
    moments = collect(model, traces, window=PAPER, batch_tokens=1)
    assert moments.labels == LABELS and moments.layers == tuple(range(LAYERS))
    assert_equals_plain(moments, plain(model, traces), 1e-12, range(LAYERS))


@pytest.mark.parametrize("batch_tokens", [90, 300, 5000])
@pytest.mark.parametrize("architecture", ["qwen2", "gemma3"])
def test_any_batch_size_gives_the_same_moments(architecture: str, batch_tokens: int) -> None:
    model, traces = tiny_model(architecture), tiny_traces(14)
    moments = collect(model, traces, window=PAPER, batch_tokens=batch_tokens)
    assert_equals_plain(moments, plain(model, traces), 1e-5, range(LAYERS))


def test_the_comparison_sees_one_token_more() -> None:
    model, traces = tiny_model(), tiny_traces(10)
    moments = collect(model, traces, window=PAPER, batch_tokens=1)
    for window in ((0, 10), (1, 9), (2, 10)):
        with pytest.raises(AssertionError):
            assert_equals_plain(moments, plain(model, traces, *window), 1e-5, range(LAYERS))


@pytest.mark.parametrize("window", [Window(), Window(0, 3), Window(2, 1), Window(5, 0)])
def test_other_windows_and_fewer_layers(window: Window) -> None:
    model, traces = tiny_model(), tiny_traces(10)
    moments = collect(model, traces, layers=[2, 0, 2], window=window, batch_tokens=1)
    assert moments.layers == (0, 2) and moments.window == window
    chains = plain(model, traces, window.before, window.length)
    assert_equals_plain(moments, chains, 1e-12, (0, 2))


def test_half_precision_states_are_summed_in_float64() -> None:
    model, traces = tiny_model(), tiny_traces(8)
    model.hf.bfloat16()
    moments = collect(model, traces, window=PAPER, batch_tokens=1)
    assert_equals_plain(moments, plain(model, traces), 1e-12, range(LAYERS))


def test_shards_add_up_in_any_order() -> None:
    model, traces = tiny_model(), tiny_traces(12)
    whole = collect(model, traces, batch_tokens=1)
    parts = [collect(model, traces[a : a + 4], labels=LABELS, batch_tokens=1) for a in (8, 0, 4)]
    total = parts[0] + parts[1] + parts[2]
    for i in range(LAYERS):
        scale = whole.layer_sums(i).abs().max()
        torch.testing.assert_close(
            total.layer_sums(i) / scale, whole.layer_sums(i) / scale, rtol=1e-12, atol=1e-12
        )
    assert torch.equal(total.counts, whole.counts) and total.tasks == whole.tasks
    assert total.counters == whole.counters


def test_the_same_call_gives_the_same_bits_in_any_order_of_chains() -> None:
    model, traces = tiny_model(), tiny_traces(12)
    first = collect(model, traces, batch_tokens=300)
    again = collect(model, Traces(reversed(traces)), batch_tokens=300)
    for i in range(LAYERS):
        assert torch.equal(first.layer_sums(i), again.layer_sums(i))
        assert torch.equal(first.layer_shuffled(i), again.layer_shuffled(i))
    assert torch.equal(first.mean_norm, again.mean_norm)


def test_out_of_memory_halves_the_batch_and_counts_nothing_twice() -> None:
    model, traces = tiny_model(), tiny_traces(14)
    chains = plain(model, traces)
    limit = 2 * max(c.hidden.shape[1] for c in chains)
    # after layer 0 has been read: what was read of a failed batch must be forgotten
    handle = fail_above(decoder_layers(model.hf)[1], limit, torch.OutOfMemoryError("full"))
    moments = collect(model, traces, window=PAPER, batch_tokens=100_000)
    handle.remove()
    assert moments.counters["chains"] == 14
    assert_equals_plain(moments, chains, 1e-5, range(LAYERS))
    assert hooks_in(model.residual) == 0


@torch.no_grad()
def test_layers_above_the_last_one_asked_for_never_run() -> None:
    model = tiny_model()
    names = {module: name for name, module in model.hf.named_modules()}
    with counted(model.hf) as calls:
        collect(model, tiny_traces(5), layers=[0, 1], batch_tokens=10_000)
    layers = [calls[names[layer]] for layer in decoder_layers(model.hf)]
    assert layers == [1, 1, 0] and calls[names[model.hf.get_output_embeddings()]] == 0


def test_what_is_left_out_is_counted() -> None:
    model = tiny_model(max_position_embeddings=100)
    plain_chain = tiny_trace(["deduction", "backtracking"], 0)
    response = "I need 29. 3 + 8 = 11.\n</think>\nThe answer is 29."
    # one-token spans: with nothing before them read, nothing is left
    short = Trace("short", "s", response, "Make 1.", spans=(Span(0, 1, "deduction"),))
    without = Trace("without", "w", response, "Make 2.")
    thoughtless = Trace("none", "n", "</think>The answer is 29.", "Make 3.")
    long = tiny_trace(["deduction"] * 30, 1)
    traces = Traces([plain_chain, short, without, thoughtless, long])
    moments = collect(model, traces, window=Window(0, 10), too_long="skip")
    assert dict(moments.counters) == {
        "chains": 4,
        "spans": 2,
        "empty windows": 1,
        "chains without spans": 2,
        "chains without thinking": 1,
        "chains retokenized": 0,
        "chains skipped: longer than the context": 1,
    }
    assert moments.chains[0] == 3
    cut = collect(model, traces, too_long="cut")
    kept = sum(end <= 100 for _, end, _ in model.align(long).spans)
    assert cut.counters["chains cut"] == 1 and cut.counters["spans cut"] == 30 - kept
    assert cut.counters["empty windows"] == 0  # the token before is read
    with pytest.raises(ExtractionError, match=r"trace 'chain-1'.*longer than the model's context"):
        collect(model, traces)


def test_labels_can_be_named_and_others_are_not_read() -> None:
    model, traces = tiny_model(), tiny_traces(8)
    moments = collect(model, traces, labels=["uncertainty", "deduction", "deduction"])
    assert moments.labels == ("uncertainty-estimation", "deduction")
    counts = traces.counts()
    assert moments.counts[0].tolist() == [counts[label] for label in moments.labels]
    assert moments.counters["empty windows"] == 0


def test_bad_requests_are_named() -> None:
    model, traces = tiny_model(), tiny_traces(3)
    bare = Traces(replace(t, spans=()) for t in traces)
    unparsed = Traces(replace(t, spans=(Span(0, 3, "unparsed"),)) for t in traces)
    with pytest.raises(ExtractionError, match=r"no annotated spans.*3 chains.*none.*sk\.annotate"):
        collect(model, bare)
    with pytest.raises(ExtractionError, match=r"no annotated spans.*unparsed"):
        collect(model, unparsed)
    with pytest.raises(BehaviorError, match="unknown behaviour 'wishing'"):
        collect(model, traces, labels=["wishing"])
    for layers, message in (
        ([3], "layer 3 does not exist.*0 to 2"),
        ([-1], "-1"),
        ([], "no layer"),
    ):
        with pytest.raises(ExtractionError, match=message):
            collect(model, traces, layers=layers)
    assert model_layers(model, None) == [0, 1, 2] and model_layers(model, (2, 0, 2)) == [0, 2]


@pytest.mark.usefixtures("unchecked")
def test_layers_may_be_one_number_or_numpys() -> None:
    model = tiny_model()
    for layers, expected in (
        (1, [1]),
        (1.0, [1]),
        (np.int64(1), [1]),
        (np.arange(2), [0, 1]),
        ({2, 0}, [0, 2]),
    ):
        found = model_layers(model, layers)
        assert found == expected and {type(layer) for layer in found} == {int}
    for nonsense in (1.5, "1", [None], True):
        with pytest.raises(ExtractionError, match="a layer is a whole number"):
            model_layers(model, nonsense)  # type: ignore[arg-type]


def test_a_digest_names_the_content_of_a_trace() -> None:
    trace = tiny_trace(["deduction", "backtracking"])
    assert trace_digest(trace) == trace_digest(tiny_trace(["deduction", "backtracking"]))
    others = (
        replace(trace, response=trace.response + "."),
        replace(trace, spans=trace.spans[:1]),
        replace(trace, metadata={"truncated": True}),
    )
    assert len({trace_digest(t) for t in (trace, *others)}) == 4


def test_the_reference_chains_are_collected_over_with_the_real_tokenizer(reference: Path) -> None:
    from transformers import AutoTokenizer

    traces, _ = sk.read_tagged(reference / "r1_distill_qwen_1.5b_annotated.json")
    tokenizer = AutoTokenizer.from_pretrained(reference / "tokenizer-deepseek-r1-distill-qwen")
    hf = tiny_hf(
        vocab_size=151936,
        num_hidden_layers=2,
        max_position_embeddings=8192,
        pad_token_id=None,
    )
    model = sk.load(hf, tokenizer=tokenizer, name="r1-shaped")
    moments = collect(model, traces, batch_tokens=8192)
    counts = traces.counts()
    assert moments.counts[0].tolist() == [counts[label] for label in moments.labels]
    assert len(moments.labels) == 6 and sum(counts.values()) >= 2950
    assert moments.counters["chains"] == 100 and moments.counters["empty windows"] == 0
    assert int(moments.chains[0]) == 100
    assert {label: len(tasks) for label, tasks in moments.tasks.items()} == {
        label: sum(any(s.label == label for s in t.spans) for t in traces)
        for label in moments.labels
    }
    few = traces[:3]
    part = collect(model, few, window=PAPER, batch_tokens=1)
    chosen = plain(model, few)
    assert part.counts[0].tolist() == [few.counts().get(label, 0) for label in part.labels]
    for k, label in enumerate(part.labels):
        expected = reference_contrast(chosen, "rest", label)
        assert expected is not None
        np.testing.assert_allclose(contrast(part, "rest")[k].numpy(), expected, atol=1e-11)
