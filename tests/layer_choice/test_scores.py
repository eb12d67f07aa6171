"""Scores, causal sweep and choice: planted effects are found, and nothing is chosen on tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import steerkit as sk
from steerkit.errors import ExtractionError
from steerkit.layer_choice.choice import select_tasks
from steerkit.layer_choice.scores import CHEAP, score_layers, select_chains
from steerkit.tasks import Task
from steerkit.vectors import SteeringVectors
from tests.test_extraction import planted_model
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


def test_chains_that_extraction_cut_are_cut_again_and_one_task_is_no_sweep(monkeypatch) -> None:
    model, traces = tiny_model(), tiny_traces(40)
    whole = sk.extract(model, traces, choose_by="auroc")
    lengths = sorted(len(model.align(t).ids) for t in traces.split("select"))
    monkeypatch.setattr(model, "context", lengths[-1] - 1)
    cut = SteeringVectors(dict(whole), {**whole.provenance, "too_long": "cut"})
    assert len(score_layers(model, cut, traces, scores=("auroc",)))
    with pytest.raises(ExtractionError, match="longer than"):  # without it
        score_layers(model, whole, traces, scores=("auroc",))
    assert len(score_layers(model, whole, traces, scores=("auroc",), too_long="skip"))
    with pytest.raises(ExtractionError, match="one task gives a causal sweep no interval"):
        score_layers(
            model, whole, traces, scores=("sweep",), tasks=[Task("a", "Why?")], annotate="rules"
        )
