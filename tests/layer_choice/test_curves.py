"""Curves: sums over chains, ratios by hand, whatever the batches and the memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerkit.errors import ExtractionError
from steerkit.layer_choice import curves as module
from steerkit.layer_choice.curves import FORCED, forced_curves, graph_tokens
from steerkit.layer_choice.forcing import forced_batches
from steerkit.layer_choice.openers import opener_slopes
from steerkit.layer_choice.steps import step_effects
from tests.test_steering import direction
from tests.test_streaming import fail_above
from tests.tiny import LAYERS, tiny_model, tiny_traces

LAYERS_READ = [0, 2]
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


def directions():
    return {"backtracking": direction(1), "deduction": direction(2, name="deduction")}


def test_values_are_ratios_of_sums_over_all_chains(model) -> None:
    traces = tiny_traces(6)
    found = forced_curves(
        model, directions(), traces, LAYERS_READ, FORCED, coefficient=0.3, batch_tokens=200
    )
    (batch,) = forced_batches(model, traces, tokens=384, batch_tokens=10_000)
    for name, d in directions().items():
        vectors = {name: torch.stack([d.vector(layer) for layer in LAYERS_READ])}
        slopes = opener_slopes(model, batch, vectors, LAYERS_READ, published=True)[name]
        steps = step_effects(model, batch, {name: d}, LAYERS_READ, 0.3)[name]
        positions = float(batch.thinking.sum())

        def total(part: torch.Tensor) -> np.ndarray:
            return part.double().sum(dim=0).numpy()

        def contrast(sums: dict) -> np.ndarray:
            own = total(sums["own"]) / total(sums["n_own"])
            other = total(sums["other"]) / total(sums["n_other"])
            return own - other

        expected = {
            "gradient": 0.3 * contrast(slopes),
            "gain": contrast(steps),
            "effect": (total(steps["divergence"]) - total(steps["random"])) / positions,
            "published": 0.3 * np.abs(total(slopes["published"])) / positions,
        }
        for score, values in expected.items():
            np.testing.assert_allclose(found[score][name][:, 0], values, **CLOSE)
            low, high = found[score][name][:, 1], found[score][name][:, 2]
            assert bool((low < high).all())


def test_batches_are_small_enough_for_a_graph(model, monkeypatch) -> None:
    assert graph_tokens(model) > 2048
    wide = forced_curves(model, directions(), tiny_traces(6), [1], ["gradient"])
    monkeypatch.setattr(module, "_GRAPH_BYTES", {"cpu": 30 * LAYERS * model.d_model * 4 * 100})
    assert graph_tokens(model) == 100
    widths: list[int] = []
    plain = module.opener_slopes
    monkeypatch.setattr(
        module,
        "opener_slopes",
        lambda m, forced, *rest, **more: (
            widths.append(forced.ids.numel()) or plain(m, forced, *rest, **more)
        ),
    )
    narrow = forced_curves(model, directions(), tiny_traces(6), [1], ["gradient"])
    longest = max(len(model.align(trace).ids) for trace in tiny_traces(6))
    assert len(widths) > 2 and max(widths) <= max(100, longest)
    for name in directions():
        np.testing.assert_allclose(
            narrow["gradient"][name], wide["gradient"][name], rtol=1e-3, atol=1e-5
        )


def test_memory_that_runs_out_halves_the_batch() -> None:
    model, traces = tiny_model(), tiny_traces(6)
    expected = forced_curves(model, directions(), traces, [1], ["gradient", "gain"])
    longest = max(len(model.align(trace).ids) for trace in traces)
    full = torch.OutOfMemoryError("full")
    handle = fail_above(model.hf.get_input_embeddings(), 2 * longest, full)
    told: list[tuple[int, int]] = []
    found = forced_curves(
        model,
        directions(),
        traces,
        [1],
        ["gradient", "gain"],
        progress=lambda done, total: told.append((done, total)),
    )
    handle.remove()
    assert told[-1][0] == told[-1][1]
    for score in expected:
        for name in directions():
            torch.testing.assert_close(
                found[score][name][:, 0], expected[score][name][:, 0], **CLOSE
            )
    handle = fail_above(model.hf.get_input_embeddings(), 5, full)
    with pytest.raises(ExtractionError, match=r"one chain alone does not fit.*auroc"):
        forced_curves(model, directions(), traces, [1], ["gradient"])
    handle.remove()


def test_a_behaviour_without_boundaries_is_nan_and_never_a_number(model) -> None:
    absent = {"adding-knowledge": direction(1, name="adding-knowledge")}
    found = forced_curves(model, absent, tiny_traces(4), [0, 1], ["gradient", "effect"])
    assert bool(found["gradient"]["adding-knowledge"].isnan().all())
    assert bool(found["effect"]["adding-knowledge"].isfinite().all())  # steps need no boundary
    nothing = forced_curves(model, directions(), [], [0, 1], ["gradient"])
    assert bool(nothing["gradient"]["deduction"].isnan().all())
    assert nothing["gradient"]["deduction"].shape == (2, 3)
