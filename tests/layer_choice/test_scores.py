"""Scores, causal sweep and choice: planted effects are found, and nothing is chosen on tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import steerkit as sk
from steerkit.errors import ExtractionError
from steerkit.layer_choice.causal import causal_sweep
from steerkit.layer_choice.choice import choose_layers, select_tasks, with_ranges
from steerkit.layer_choice.scores import CHEAP, chosen_layers, score_layers, select_chains
from steerkit.statistics import mean_interval
from steerkit.tasks import Task
from steerkit.traces import Span, Traces
from steerkit.vectors import SteeringVectors
from tests.test_extraction import planted_model
from tests.test_ranges import Scripted
from tests.test_steering import direction
from tests.tiny import LAYERS, tiny_model, tiny_traces


def extracted(strength: float = 400.0):
    model, _ = planted_model(strength)
    traces = tiny_traces(40)
    return model, traces, sk.extract(model, traces)


def test_every_cheap_score_has_a_row_a_layer_with_its_interval() -> None:
    model, traces, vectors = extracted()
    told = []
    table = score_layers(
        model,
        vectors,
        traces,
        scores=CHEAP,
        progress=lambda done, total: told.append((done, total)),
    )
    assert set(table.score) == set(CHEAP)
    for score in CHEAP:
        part = table[table.score == score]
        assert len(part) == len(vectors) * LAYERS
        assert bool(
            (part.low <= part.value + 1e-9).all() and (part.value <= part.high + 1e-9).all()
        )
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    curve = table[(table.score == "auroc") & (table.behavior == "backtracking")]
    np.testing.assert_allclose(curve.value, vectors["backtracking"].auroc, atol=1e-5)


def test_a_direction_that_lifts_the_openers_scores_above_one_that_does_not() -> None:
    """Planted at the last layer: the unembedding of the behaviour's first tokens."""
    model, traces, vectors = extracted()
    model.hf.tie_weights()
    chains = select_chains(vectors, traces)
    openers = {
        model.align(t).ids[s]
        for t in chains
        for s, _, label in model.align(t).spans
        if label == "backtracking"
    }
    rows = model.hf.get_output_embeddings().weight[sorted(openers)].detach().mean(dim=0)
    d = vectors["backtracking"]
    tensor = d.tensor.clone()
    tensor[-1] = rows
    planted = SteeringVectors({"backtracking": replace(d, tensor=tensor)}, vectors.provenance)
    reverse = SteeringVectors({"backtracking": replace(d, tensor=-tensor)}, vectors.provenance)
    last = {}
    for name, v in (("planted", planted), ("reverse", reverse)):
        table = score_layers(model, v, traces, scores=("gradient", "gain"), layers=[LAYERS - 1])
        last[name] = table.set_index("score").value
    for score in ("gradient", "gain"):
        assert last["planted"][score] > 0 > last["reverse"][score]


def test_only_select_tasks_are_scored() -> None:
    _, traces, vectors = extracted()
    chains = select_chains(vectors, traces)
    assert {t.task_key for t in chains} == {t.task_key for t in traces.split("select")}
    with pytest.raises(ExtractionError, match="no annotated chains of select tasks"):
        select_chains(vectors, traces.split("extract"))
    with pytest.raises(ExtractionError, match="no annotated chains of select tasks"):
        select_chains(vectors, traces.split("evaluate"))
    tasks = select_tasks(vectors, traces, [], 100)
    assert {t.prompt for t in tasks} == {t.prompt for t in traces.split("select")}
    assert len(select_tasks(vectors, traces, [], 2)) == 2
    kept = [Task("x", t.prompt) for t in traces.split("evaluate")]
    with pytest.raises(ExtractionError, match="no select tasks"):
        select_tasks(vectors, traces, kept, 5)


def test_scores_that_cannot_be_had_are_refused() -> None:
    model, traces, vectors = extracted()
    with pytest.raises(ExtractionError, match="unknown score 'kl'"):
        score_layers(model, vectors, traces, scores=["kl"])
    with pytest.raises(ExtractionError, match="needs tasks and an annotator"):
        score_layers(model, vectors, traces, scores=["sweep"])
    other = SteeringVectors({"backtracking": replace(direction(), n_layers=9)}, {})
    with pytest.raises(sk.SteerkitError, match="do not fit"):
        score_layers(model, other, traces)


def by_word(traces: Traces) -> Traces:
    """Every word is a span: of backtracking where its length is even."""
    found = []
    for trace in traces:
        spans, at = [], 0
        for word in trace.response.split(" "):
            if word:
                label = "backtracking" if len(word) % 2 == 0 else "deduction"
                spans.append(Span(at, at + len(word), label))
            at += len(word) + 1
        found.append(trace.with_spans(spans, "by word"))
    return Traces(found)


def test_the_sweep_counts_what_generation_gives() -> None:
    model = tiny_model()
    tasks = [Task(f"t{i}", f"Use 3, 7, {i} to make 29.") for i in range(6)]
    directions = {"backtracking": direction(3)}
    options = {"max_new_tokens": 12, "seed": 5}
    table = causal_sweep(model, tasks, directions, [0, 2], 0.8, by_word, **options)
    assert table.layer.tolist() == [0, 2]

    def shares(coefficient: float, layer: int) -> np.ndarray:
        term = coefficient * directions["backtracking"].at(layer=layer)
        labelled = by_word(model.generate(tasks, steer=term if coefficient else None, **options))
        labels = [[span.label for span in trace.spans] for trace in labelled]
        return np.array([row.count("backtracking") / max(len(row), 1) for row in labels])

    for row in table.itertuples():
        up, down = shares(0.8, row.layer), shares(-0.8, row.layer)
        assert (row.value, row.low, row.high) == pytest.approx(mean_interval(up - down))
        assert (row.up, row.down) == pytest.approx((up.mean(), down.mean()))
        assert row.base == pytest.approx(shares(0.0, 0).mean())
    assert (table["parsed"] == 1.0).all() and (table.tasks == 6).all()
    none = causal_sweep(model, tasks, directions, [0], 1e-9, by_word, **options)
    assert none.value.tolist() == [0.0]  # positive control: nothing pushed, nothing moved


def scored(**columns) -> pd.DataFrame:
    base = {
        "behavior": "backtracking",
        "layer": [0, 1, 2],
        "score": "sweep",
        "low": 0.0,
        "high": 1.0,
    }
    return pd.DataFrame({**base, "closed": 1.0, "parsed": 1.0, **columns})


def test_the_largest_score_wins_unless_text_falls_apart() -> None:
    assert chosen_layers(scored(value=[0.1, 0.4, 0.4]), "sweep") == {"backtracking": 1}
    broken = scored(value=[0.1, 0.4, 0.3], parsed=[1.0, 0.5, 0.95])
    assert chosen_layers(broken, "sweep") == {"backtracking": 2}
    assert chosen_layers(scored(value=[0.1, 0.4, 0.3], closed=0.5), "sweep") == {"backtracking": 1}
    assert chosen_layers(broken.assign(score="gain"), "gain") == {"backtracking": 1}


def test_a_choice_is_stored_and_forgets_ranges_of_another_layer(tmp_path) -> None:
    d = replace(direction(), layer=1, fluent=(-0.4, 0.3), free=(-0.1, 0.1))
    other = replace(direction(2, name="deduction"), layer=0)
    vectors = SteeringVectors({"backtracking": d, "deduction": other}, {"model": "m"})
    choice = choose_layers(vectors, scored(value=[0.1, 0.4, 0.3]), "sweep", {"coefficient": 0.2})
    assert choice.vectors["backtracking"].fluent == (-0.4, 0.3)
    moved = choose_layers(vectors, scored(value=[0.1, 0.2, 0.3]), "sweep").vectors
    assert moved["backtracking"].layer == 2 and moved["backtracking"].fluent is None
    assert moved["deduction"].layer == 0 and moved["deduction"].chosen_by == ""
    back = sk.read_vectors(choice.vectors.save(tmp_path / "v"))
    assert back["backtracking"].chosen_by == "sweep"
    assert (back["backtracking"].fluent, back["backtracking"].free) == ((-0.4, 0.3), (-0.1, 0.1))
    assert back.provenance["layer_choice"] == {"score": "sweep", "coefficient": 0.2}
    with pytest.raises(ExtractionError, match="not scored by 'gain'"):
        choose_layers(vectors, scored(value=[1.0, 2.0, 3.0]), "gain")


def test_ranges_are_stored_with_the_choice(monkeypatch) -> None:
    monkeypatch.setattr("steerkit.ranges.generate", Scripted(-0.5, 0.25))
    vectors = SteeringVectors({"backtracking": direction()}, {})
    choice = choose_layers(vectors, scored(value=[0.0, 0.4, 0.3]), "sweep")
    tasks = [Task("a", "Use 3, 7, 8 to make 29.")]
    found = with_ranges(choice, tiny_model(), tasks, None)
    assert found.vectors["backtracking"].fluent == (-0.5, 0.25)
    assert found.ranges["backtracking"].fluent.high == 0.25
    assert torch.equal(found.vectors["backtracking"].tensor, direction().tensor)
