"""Noise is standard Gumbel, the same for the same row and step, and choosing with it samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.errors import GenerationError
from steerkit.sampling import Noise, Sampling, choose, gumbel_of, row_key

CPU = torch.device("cpu")
EULER = 0.5772156649015329


def keys(*prompts: str, sample: int = 0) -> np.ndarray:
    return np.array([row_key(prompt, sample) for prompt in prompts], dtype=np.uint64)


def test_noise_is_standard_gumbel_and_uncorrelated() -> None:
    noise = Noise(0, 4000, CPU)
    rows = keys(*(f"task {i}" for i in range(50)))
    first, second = noise.gumbel(rows, 0).double(), noise.gumbel(rows, 1).double()
    n = first.numel()
    assert abs(float(first.mean()) - EULER) < 5 * math.pi / math.sqrt(6 * n)
    assert abs(float(first.var()) - math.pi**2 / 6) < 0.05
    # Kolmogorov-Smirnov distance from exp(-exp(-x))
    ordered = first.flatten().sort().values
    theory = torch.exp(-torch.exp(-ordered))
    distance = (theory - torch.arange(1, n + 1) / n).abs().max()
    assert float(distance) < 1.95 / math.sqrt(n)
    for a, b in (
        (first, second),  # steps
        (first[:-1], first[1:]),  # rows
        (first[:, :-1], first[:, 1:]),  # tokens
        (first, Noise(1, 4000, CPU).gumbel(rows, 0).double()),  # seeds
        (first, noise.gumbel(keys(*(f"task {i}" for i in range(50)), sample=1), 0).double()),
    ):
        found = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(float(found)) < 5 / math.sqrt(n)


@given(st.integers(0, 2**40), st.integers(0, 10_000), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_noise_depends_on_seed_key_step_and_token_alone(seed: int, step: int, sample: int) -> None:
    rows = keys("a b", "c d", "e f", sample=sample)
    whole = Noise(seed, 97, CPU).gumbel(rows, step)
    turned = Noise(seed, 97, CPU).gumbel(rows[::-1].copy(), step)
    shorter = Noise(seed, 41, CPU).gumbel(rows[1:2], step)
    assert torch.equal(whole, turned.flip(0))
    assert torch.equal(whole[1:2, :41], shorter)
    assert bool(torch.isfinite(whole).all())


def test_noise_is_finite_and_exact_at_both_ends() -> None:
    """Rounded to an end, one token in 2^26 would win against any logits."""
    edge = [-(2**31), -(2**31) + 1, -(2**31) + 64, -1, 0, 1, 2**31 - 65, 2**31 - 1]
    bits = torch.tensor(edge, dtype=torch.int32)
    u = (bits.double() + 2**31 + 0.5) / 2**32
    expected = -torch.log(-torch.log1p(-u))
    torch.testing.assert_close(gumbel_of(bits).double(), expected, rtol=1e-5, atol=1e-6)
    assert float(gumbel_of(bits)[0]) == pytest.approx(32.5 * math.log(2) + math.log(2) / 2, abs=0.4)
    whole = Noise(0, 151_936, CPU).gumbel(keys(*(f"task {i}" for i in range(150))), 0)
    assert bool(torch.isfinite(whole).all())
    # the largest of n standard Gumbel values is log n + a standard Gumbel value
    assert abs(float(whole.amax(dim=1).mean()) - math.log(151_936) - EULER) < 0.5


def test_a_certain_token_is_always_chosen_from_a_large_vocabulary() -> None:
    logits = torch.zeros(1, 151_936)
    logits[0, 7] = 60.0
    noise = Noise(0, 151_936, CPU)
    for first in range(0, 1200, 100):
        rows = keys(*(f"task {i}" for i in range(first, first + 100)))
        assert set(choose(logits.expand(100, -1), Sampling(), noise, rows, 3).tolist()) == {7}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [bad, bad]])
    for temperature in (0.0, 1.0):
        with pytest.raises(GenerationError, match="not finite"):
            choose(logits, Sampling(temperature), Noise(0, 2, CPU), keys("a", "b"))
    assert choose(torch.tensor([[0.0, -float("inf")]]), Sampling(0)).tolist() == [0]


def test_noise_never_changes_between_versions() -> None:
    """Chains in files can be made again: the hash is part of what a seed means."""
    found = Noise(7, 3, CPU).gumbel(keys("Use 3, 7, 8 to make 29."), 5)[0]
    expected = torch.tensor([-0.03989467, 0.36040688, 1.68753552])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_wordings_of_one_task_share_noise_and_tasks_do_not() -> None:
    assert row_key("Use 3, 7, 8 to make 29.", 0) == row_key("Use 8, 3, 7 to make 29.", 0)
    assert row_key("Use 3, 7, 8 to make 29.", 0) != row_key("Use 3, 7, 8 to make 30.", 0)
    assert row_key("Use 3, 7, 8 to make 29.", 0) != row_key("Use 3, 7, 8 to make 29.", 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choosing_with_noise_samples_the_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    n = 20_000
    rows, noise = keys(*(f"t{i}" for i in range(n))), Noise(3, 5, CPU)
    chosen = choose(logits.expand(n, 5), Sampling(temperature), noise, rows)
    found = torch.bincount(chosen, minlength=5).double()
    expected = torch.softmax(logits.double() / temperature, 0) * n
    likely = expected > 5
    statistic = float(((found - expected) ** 2 / expected)[likely].sum())
    assert statistic < 18.5  # chi-square, 3 or 4 degrees of freedom, 0.1 %
    # positive control: the same draws do not fit another temperature
    other = torch.softmax(logits.double() / (1.3 * temperature), 0) * n
    assert float(((found - other) ** 2 / other)[likely].sum()) > 100


def test_temperature_zero_is_greedy_and_sampling_needs_noise() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert choose(logits, Sampling(0.0)).tolist() == [1]
    with pytest.raises(GenerationError, match="noise"):
        choose(logits, Sampling())
