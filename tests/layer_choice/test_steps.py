"""Steps of a real size against a plain hook that does the same."""

from __future__ import annotations

import pytest
import torch

from steerkit.layer_choice.steps import step_effects
from tests.layer_choice.plain import LABEL, openers, plain_logs, pushed_logs
from tests.test_decoding import hooks
from tests.test_steering import direction


def test_a_step_does_what_a_plain_hook_does(model, forced) -> None:
    directions = {LABEL: direction(1), "deduction": direction(2, name="deduction")}
    before = hooks(model)
    found = step_effects(model, forced, directions, [0, 2], 0.3)
    assert hooks(model) == before
    base = plain_logs(model, forced.ids)
    for name, d in directions.items():
        for i, layer in enumerate((0, 2)):
            logs = pushed_logs(model, forced, 0.3 * d.at(layer=layer))
            divergence = (base.exp() * (base - logs)).sum(dim=-1) * forced.thinking
            mine = found[name]["divergence"][:, i].double()
            torch.testing.assert_close(mine, divergence.sum(dim=1), rtol=1e-3, atol=1e-4)
            for part, k in (("own", 0), ("other", 1)):
                rise = sum(openers(forced, logs, name)[k]) - sum(openers(forced, base, name)[k])
                assert float(found[name][part][:, i].sum()) == pytest.approx(rise, abs=1e-3)
        own, other = openers(forced, base, name)
        assert float(found[name]["n_own"].sum()) == len(own) > 0
        assert float(found[name]["n_other"].sum()) == len(other)
    randoms = [pushed_logs(model, forced, 0.3 * direction(1).random(s).at(layer=2)) for s in (0, 1)]
    mean = sum((base.exp() * (base - logs)).sum(dim=-1) for logs in randoms) / 2
    mine, theirs = found[LABEL]["random"][:, 1].double(), (mean * forced.thinking).sum(dim=1)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_no_step_has_no_effect(model, forced) -> None:
    found = step_effects(model, forced, {LABEL: direction(1)}, [1], 0.0)[LABEL]
    for part in ("divergence", "own", "other", "random"):
        assert not bool(found[part].any())


def test_an_effect_grows_with_the_square_of_a_small_step(model, forced) -> None:
    """KL(p, p') is of second order at p: half the step, a quarter of it."""
    sizes = (0.02, 0.01)
    large, small = (
        step_effects(model, forced, {LABEL: direction(1)}, [1], size)[LABEL] for size in sizes
    )
    ratio = float(large["divergence"].sum() / small["divergence"].sum())
    assert ratio == pytest.approx(4.0, rel=0.15)
    # a gain is of first order
    assert float(large["own"].sum() / small["own"].sum()) == pytest.approx(2.0, rel=0.15)


def test_told_after_every_forward_pass(model, forced) -> None:
    told: list[int] = []
    directions = {LABEL: direction(1), "deduction": direction(2, name="deduction")}
    step_effects(
        model, forced, directions, [0, 2], 0.3, randoms=3, told=lambda: told.append(len(told))
    )
    assert len(told) == 1 + 2 * (2 + 3)  # unsteered; two layers of two directions, three random


def test_a_batch_without_boundaries_has_an_effect_and_no_gain(model) -> None:
    from steerkit.layer_choice.forcing import forced_batches
    from steerkit.traces import Traces
    from tests.tiny import tiny_traces

    bare = Traces(trace.with_spans([], None) for trace in tiny_traces(2))
    (batch,) = forced_batches(model, bare, tokens=400, batch_tokens=4000)
    found = step_effects(model, batch, {LABEL: direction(1)}, [1], 0.3)[LABEL]
    assert bool((found["divergence"] > 0).all())
    assert not bool(found["own"].any()) and not bool(found["n_own"].any())
