"""Layer choice: areas under ROC curves against scikit-learn and planted truths."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from steerkit.errors import ExtractionError
from steerkit.layer_choice import area_under_roc, areas, auroc, suggested_layer
from steerkit.layer_choice.foresight import Foreseen, area_intervals
from steerkit.models import ThinkingModel
from steerkit.traces import Span, Trace, Traces
from tests.test_collection import states
from tests.test_residual import hooks_in
from tests.tiny import LAYERS, SENTENCES, tiny_model, tiny_traces


@given(
    positive=st.lists(st.integers(-4, 4), min_size=1, max_size=30),
    negative=st.lists(st.integers(-4, 4), min_size=1, max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_area_under_roc_equals_scikit_learn_ties_included(
    positive: list[int], negative: list[int]
) -> None:
    truth = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(truth, positive + negative)
    found = area_under_roc(torch.tensor(positive).double(), torch.tensor(negative).double())
    assert found == pytest.approx(expected, abs=1e-12)


def test_area_of_perfect_reversed_and_equal_scores() -> None:
    low, high = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])
    assert area_under_roc(high, low) == 1.0
    assert area_under_roc(low, high) == 0.0
    assert area_under_roc(low, low) == 0.5
    assert area_under_roc(torch.zeros(3), torch.zeros(5)) == 0.5


def test_an_area_needs_both_classes() -> None:
    for left, right in ((0, 3), (3, 0)):
        with pytest.raises(ExtractionError, match=f"{left} positives and {right} negatives"):
            area_under_roc(torch.zeros(left), torch.zeros(right))


def test_areas_leave_out_labels_in_none_or_all_of_the_spans() -> None:
    projections = torch.randn(2, 5, 3, dtype=torch.float64)
    labels = ["deduction"] * 3 + ["backtracking"] * 2
    found = areas(projections, labels, ["deduction", "backtracking", "initializing"])
    assert [area is None for area in found] == [False, False, True]
    assert found[0] is not None and found[0].shape == (2,)
    assert areas(projections[..., :1], ["deduction"] * 5, ["deduction"]) == [None]


def test_the_lowest_of_the_best_layers_is_suggested() -> None:
    assert suggested_layer(torch.tensor([0.5, 0.9, 0.7], dtype=torch.float64), [3, 5, 9]) == 5
    assert suggested_layer(torch.tensor([0.5, 0.9, 0.9], dtype=torch.float64), [3, 5, 9]) == 5


def projections_by_hand(
    model: ThinkingModel, traces: Traces, directions: dict[str, torch.Tensor], layer: int
) -> tuple[list[str], dict[str, list[float]]]:
    """Labels of all spans, and their projections at the token before, from plain forwards."""
    labels: list[str] = []
    found: dict[str, list[float]] = {name: [] for name in directions}
    for trace in traces:
        chain = model.align(trace)
        hidden = states(model, chain.ids)[layer]
        for start, _, label in chain.spans:
            labels.append(label)
            for name, rows in directions.items():
                found[name].append(float(hidden[start - 1] @ rows[layer].double().numpy()))
    return labels, found


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_curves_equal_scikit_learn_on_hugging_face_states(batch_tokens: int) -> None:
    model, traces = tiny_model(), tiny_traces(15)
    generator = torch.Generator().manual_seed(0)
    names = ["backtracking", "deduction", "adding-knowledge"]
    directions = {n: torch.randn(LAYERS, model.d_model, generator=generator) for n in names}
    curves = auroc(model, traces, directions, range(LAYERS), batch_tokens=batch_tokens)
    assert set(curves) == {"backtracking", "deduction"}  # no chain holds the third
    for layer in range(LAYERS):
        labels, by_hand = projections_by_hand(model, traces, directions, layer)
        for name, curve in curves.items():
            expected = roc_auc_score([label == name for label in labels], by_hand[name])
            assert float(curve[layer]) == pytest.approx(expected, abs=1e-9)
            shuffled = np.random.default_rng(0).permutation([label == name for label in labels])
            assert float(curve[layer]) != pytest.approx(
                roc_auc_score(shuffled, by_hand[name]), abs=1e-9
            )
    assert hooks_in(model.residual) == 0


def test_fewer_layers_read_the_right_rows() -> None:
    model, traces = tiny_model(), tiny_traces(10)
    whole = {"deduction": torch.randn(LAYERS, model.d_model)}
    full = auroc(model, traces, whole, range(LAYERS))["deduction"]
    part = auroc(model, traces, {"deduction": whole["deduction"][[0, 2]]}, [0, 2])["deduction"]
    torch.testing.assert_close(part, full[[0, 2]])
    longer = {"deduction": 100 * whole["deduction"]}
    torch.testing.assert_close(auroc(model, traces, longer, range(LAYERS))["deduction"], full)


def marked_traces(count: int) -> Traces:
    """Chains in which the word "Now", outside every span, foretells each backtracking span."""
    traces = []
    for trace in tiny_traces(count, seed=3):
        text, spans = "", []
        for span in trace.spans:
            if span.label == "backtracking":
                text += "Now "
            start = len(text)
            text += SENTENCES[span.label]
            spans.append(Span(start, len(text), span.label))
            text += " "
        traces.append(Trace(trace.id, trace.task_id, text, trace.prompt, spans=tuple(spans)))
    return Traces(traces)


def test_a_planted_layer_is_chosen() -> None:
    model, traces = tiny_model(), marked_traces(12)
    planted = torch.zeros(model.d_model)
    planted[5] = 300.0
    with torch.no_grad():
        embedding = model.hf.get_input_embeddings().weight
        for word in ("Now", " Now"):
            embedding[model.tokenizer.convert_tokens_to_ids(word)] += planted
    noise = torch.randn(LAYERS, model.d_model, generator=torch.Generator().manual_seed(0))
    noise[:, 5] = 0.0
    noise[1] = planted
    curve = auroc(model, traces, {"backtracking": noise}, range(LAYERS))["backtracking"]
    assert float(curve[1]) == 1.0 and suggested_layer(curve, range(LAYERS)) == 1
    assert float(curve[0]) < 0.95 and float(curve[2]) < 0.95
    # nothing foretells it where the word is not planted
    plain = auroc(tiny_model(), traces, {"backtracking": noise}, range(LAYERS))["backtracking"]
    assert float(plain[1]) < 0.95


def test_spans_without_a_token_before_them_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setitem(vars(model), "_beginning", [])  # many tokenizers have no first token
    bare = Traces(replace(t, prompt=None) for t in tiny_traces(6))  # each begins with a span
    direction = {"deduction": torch.ones(LAYERS, model.d_model)}
    for batch_tokens in (1, 4096):
        for traces, expected in ((bare, 6), (tiny_traces(6), 0)):
            counters: Counter[str] = Counter()
            auroc(
                model,
                traces,
                direction,
                range(LAYERS),
                counters=counters,
                batch_tokens=batch_tokens,
            )
            assert counters["spans without a token before them"] == expected


def test_nothing_to_judge_gives_no_curves() -> None:
    model = tiny_model()
    direction = {"deduction": torch.ones(LAYERS, model.d_model)}
    bare = Traces(t.with_spans([], None) for t in tiny_traces(3))
    assert auroc(model, bare, direction, range(LAYERS)) == {}
    assert auroc(model, Traces(), direction, range(LAYERS)) == {}
    assert auroc(model, tiny_traces(3), {}, range(LAYERS)) == {}


def test_chains_without_labels_are_not_run_and_long_ones_are_counted() -> None:
    model = tiny_model(max_position_embeddings=60)
    long = next(t for t in tiny_traces(20) if len(tiny_model().align(t).ids) > 60)
    short = [t for t in tiny_traces(20) if len(tiny_model().align(t).ids) <= 60]
    bare = long.with_spans([Span(0, 3, "unparsed")], None)
    direction = {label: torch.ones(LAYERS, model.d_model) for label in SENTENCES}
    counters: Counter[str] = Counter()
    curves = auroc(model, [bare, *short], direction, range(LAYERS), counters=counters)
    assert curves and not counters["chains skipped: longer than the context"]
    auroc(model, [long, *short], direction, [0, 1, 2], too_long="skip", counters=counters)
    assert counters["chains skipped: longer than the context"] == 1


def test_area_intervals_equal_areas_and_hold_the_truth() -> None:
    """Normal classes a standard deviation apart: the area is Phi(1 / sqrt(2)) = 0.760."""
    truth, edges = 0.7602, []
    own = np.tile([True, False, False, False], 120)
    labels = ["backtracking" if mine else "deduction" for mine in own]
    tasks = [f"t{i // 4}" for i in range(own.size)]
    for seed in range(4):  # of 100 data sets each, as layers
        values = np.random.default_rng(seed).normal(size=(100, own.size)) + own
        seen = Foreseen([torch.from_numpy(values)[:, :, None]], labels, tasks)
        (curve,) = area_intervals(seen, ["backtracking"], seed=seed)
        assert curve is not None
        for row in range(3):
            assert float(curve[row, 0]) == pytest.approx(roc_auc_score(own, values[row]))
        edges.append(curve[:, 1:])
    low, high = torch.cat(edges).T
    assert 0.92 <= float(((low <= truth) & (truth <= high)).double().mean()) <= 0.98
    assert float((high - low).median()) < 0.12
    assert area_intervals(seen, ["initializing"]) == [None]


def test_area_intervals_widen_when_tasks_are_alike() -> None:
    """Spans of one task that say the same are one piece of evidence: tasks are resampled."""
    rng = np.random.default_rng(3)
    once = rng.normal(size=60) + np.tile([1.0, 0.0], 30)
    widths = []
    for repeat in (1, 10):
        values = torch.from_numpy(np.repeat(once, repeat))[None, :, None]
        labels = np.repeat(np.tile(["backtracking", "deduction"], 30), repeat).tolist()
        tasks = np.repeat(np.arange(60), repeat).astype(str).tolist()
        (curve,) = area_intervals(Foreseen([values], labels, tasks), ["backtracking"])
        assert curve is not None
        widths.append(float(curve[0, 2] - curve[0, 1]))
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
