"""Noise is standard Gumbel, the same for the same row and step, and choosing with it samples."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
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


def test_noise_that_is_worked_out_where_it_can_decide_gives_the_same_winners() -> None:
    """With a large vocabulary only likely tokens and rare noise are looked at."""
    size, n = 9000, 500
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(size, generator=generator)
    lonely = -10.05 + 0.01 * normal  # a quarter of the draws come from far below
    lonely[5] = 0.0
    filtered = lonely.clone()
    filtered[::2] = -torch.inf
    noise, rows = Noise(2, size, CPU), keys(*(f"t{i}" for i in range(n)))
    for logits in (normal, 6.0 * normal, lonely, filtered, lonely.masked_fill(lonely < -1, -1e999)):
        steps = list(range(n))
        expected = (logits + noise.gumbel(rows, steps)).argmax(dim=-1)
        found = choose(logits.expand(n, -1), Sampling(), noise, rows, steps)
        assert torch.equal(found, expected)
        # positive control: who wins depends on the noise, wherever there is a choice
        assert len(set(expected.tolist())) > 10 or int(torch.isfinite(logits).sum()) == 1
        if logits is lonely:
            assert 100 < int((expected != 5).sum()) < 180


def test_temperature_zero_is_greedy_and_sampling_needs_noise() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert choose(logits, Sampling(0.0)).tolist() == [1]
    with pytest.raises(GenerationError, match="noise"):
        choose(logits, Sampling())


def warped(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The same filters as transformers has them, in the order in which it applies them."""
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = logits / sampling.temperature
    if sampling.top_k is not None:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p is not None:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    return scores


def clear_of_borders(logits: torch.Tensor, sampling: Sampling) -> bool:
    """Whether there is no tie, and no filter has to decide by less than float32's rounding."""
    scores = (logits / sampling.temperature).sort(dim=-1, descending=True).values
    clear = bool((scores.diff(dim=-1) < 0).all())
    p = torch.softmax(scores.double()[:, : sampling.top_k], dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        before = p.cumsum(dim=-1) - p
        clear &= bool(((before - sampling.top_p).abs() > 2e-6).all())
    if sampling.min_p is not None:
        clear &= bool((((p / p[:, :1]).log() - math.log(sampling.min_p)).abs() > 1e-5).all())
    return clear


def drawn_logits(seed: int, vocabulary: int, spread: float) -> torch.Tensor:
    """Two rows without ties: one of normal logits, one flat; both are in random order."""
    generator = torch.Generator().manual_seed(seed)
    peaked = torch.randn(vocabulary, generator=generator) * spread
    flat = torch.randperm(vocabulary, generator=generator) / vocabulary * 0.5
    return torch.stack([peaked, flat])


SHARES = st.one_of(st.none(), st.floats(0.01, 0.99), st.just(1.0))


@given(
    st.integers(0, 2**31),
    st.sampled_from([5, 255, 256, 257, 700, 2000]),
    st.floats(0.1, 8.0),
    st.sampled_from([0.3, 1.0, 1.7]),
    SHARES,
    st.one_of(st.none(), st.integers(1, 2500)),
    SHARES,
)
@settings(max_examples=150, deadline=None)
def test_filters_and_all_their_combinations_are_those_of_transformers(
    seed, vocabulary, spread, temperature, top_p, top_k, min_p
) -> None:
    logits = drawn_logits(seed, vocabulary, spread)
    sampling = Sampling(temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    assume(clear_of_borders(logits, sampling))
    before = logits.clone()
    found = sampling.filtered(logits)
    torch.testing.assert_close(found, warped(logits, sampling), rtol=0, atol=0)
    assert torch.equal(logits, before)
    assert bool(torch.isfinite(found).any(dim=-1).all())  # the likeliest is never left out


@pytest.mark.parametrize(
    "options", [{"top_k": 300}, {"top_p": 0.6}, {"min_p": 0.7}, {"top_k": 20}, {"top_p": 0.05}]
)
def test_every_filter_alone_is_that_of_transformers_and_leaves_something_out(options) -> None:
    logits = drawn_logits(3, 1000, 2.0)
    assert clear_of_borders(logits, Sampling(**options))
    found = Sampling(**options).filtered(logits)
    torch.testing.assert_close(found, warped(logits, Sampling(**options)), rtol=0, atol=0)
    kept = torch.isfinite(found).sum(dim=-1)
    assert bool((kept > 0).all()) and int(kept.min()) < 1000
    # positive control: the order of the filters matters, and so does the temperature
    turned = Sampling(top_p=0.6).filtered(Sampling(top_k=20).filtered(logits))
    assert not torch.equal(
        turned, Sampling(top_k=20).filtered(Sampling(top_p=0.6).filtered(logits))
    )
    hot = torch.isfinite(Sampling(2.0, **options).filtered(logits))
    assert ("top_k" in options) == torch.equal(hot, torch.isfinite(found))


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.9, 0.999])
def test_the_nucleus_is_the_smallest_set_that_holds_the_share(top_p) -> None:
    """By its definition, in float64; few of a peaked row and many of a flat one are in it."""
    logits = drawn_logits(1, 3000, 8.0)
    kept = torch.isfinite(Sampling(top_p=top_p).filtered(logits))
    p = torch.softmax(logits.double(), dim=-1)
    held = (p * kept).sum(dim=-1)
    least = p.masked_fill(~kept, 1.0).amin(dim=-1)
    assert bool((held >= top_p - 1e-6).all())
    assert bool((held - least < top_p + 1e-6).all())
    assert bool((p.masked_fill(kept, 0.0).amax(dim=-1) < least).all())
    assert int(kept[1].sum()) > 400 > int(kept[0].sum())


@pytest.mark.parametrize("top_p", [0.3, 0.8, 0.95, 0.9999, 0.99999999])
@pytest.mark.parametrize("drop", [0.0, 5.0, 7.99, 8.01, 12.0, 19.99, 20.01, 25.0, 60.0])
def test_a_nucleus_reaches_however_far_down_it_must(drop, top_p) -> None:
    """One likely token and 50,000 far below it, which together may hold the larger part."""
    generator = torch.Generator().manual_seed(0)
    tail = -drop - torch.rand(50_000, generator=generator, dtype=torch.float64) * 0.5
    logits = torch.cat([torch.zeros(1), tail]).float()[None]
    logits = torch.cat([logits, torch.linspace(0, -40, 50_001)[None]])
    kept = torch.isfinite(Sampling(top_p=top_p).filtered(logits))
    p = torch.softmax(logits.double(), dim=-1)
    ordered, order = p.sort(dim=-1, descending=True)
    inside = kept.gather(1, order)
    assert bool((inside[:, :-1] >= inside[:, 1:]).all())  # the likeliest ones, whatever their share
    held = (p * kept).sum(dim=-1)
    least = ordered.masked_fill(~inside, 1.0).amin(dim=-1)
    assert bool((held >= top_p - 1e-5).all())
    # the last of equal tokens goes with the others
    ties = (p * (p == least[:, None])).sum(dim=-1)
    assert bool((held - ties < top_p + 1e-5).all())


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_p": 0.499}, 1),
        ({"top_p": 0.501}, 2),
        ({"top_p": 0.749}, 2),
        ({"top_p": 0.751}, 3),
        ({"top_p": 0.999}, 4),
        ({"top_p": 1.0}, 4),
        ({"top_p": 1e-9}, 1),
        ({"min_p": 0.501}, 1),
        ({"min_p": 0.499}, 2),
        ({"min_p": 0.301}, 2),
        ({"min_p": 0.299}, 3),
        ({"min_p": 1.0}, 1),
        ({"min_p": 1e-30}, 4),
        ({"top_k": 1}, 1),
        ({"top_k": 4}, 4),
        ({"top_k": 50}, 4),
        # 1/2 and 1/4 are 2/3 and 1/3 of what the first filter left
        ({"top_k": 2, "top_p": 0.66}, 1),
        ({"top_k": 2, "top_p": 0.67}, 2),
        ({"top_k": 2, "min_p": 0.499}, 2),
        ({"top_p": 0.7, "min_p": 0.501}, 1),
        ({}, 4),
    ],
)
def test_what_filters_keep_of_four_tokens_of_known_probabilities(options, kept) -> None:
    logits = torch.tensor([[0.15, 0.5, 0.1, 0.25]]).log()
    found = Sampling(**options).filtered(logits)
    expected = logits.masked_fill(logits < logits.sort(descending=True).values[0, kept - 1], -1e999)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_ties_at_a_border_are_kept() -> None:
    logits = torch.tensor([[1.0, 0.0, 1.0, 1.0, -1.0]])
    for options in ({"top_k": 1}, {"top_k": 2}, {"top_p": 0.1}, {"min_p": 1.0}):
        assert torch.isfinite(Sampling(**options).filtered(logits))[0].tolist() == [
            *(True, False, True, True, False)
        ]


def test_what_was_forbidden_stays_so_under_every_filter() -> None:
    logits = drawn_logits(5, 600, 1.0)
    logits[:, ::2] = -torch.inf
    for options in ({"top_k": 500}, {"top_p": 0.9999999}, {"top_p": 0.5}, {"min_p": 1e-9}):
        found = Sampling(**options).filtered(logits)
        assert bool((found[:, ::2] == -torch.inf).all())
        assert bool(torch.isfinite(found).any(dim=-1).all())


FILTERS = [
    {"top_k": 3},
    {"top_p": 0.8},
    {"min_p": 0.2},
    {"top_k": 5, "top_p": 0.85, "min_p": 0.15},
]


@pytest.mark.parametrize("options", FILTERS)
def test_filtered_sampling_draws_from_what_is_left_renormalised(options) -> None:
    logits = torch.tensor([2.0, 1.6, 1.3, 0.5, 0.0, -1.0, -30.0])
    n, size = 20_000, len(logits)
    sampling = Sampling(0.8, **options)
    rows, noise = keys(*(f"t{i}" for i in range(n))), Noise(5, size, CPU)
    chosen = choose(logits.expand(n, size), sampling, noise, rows)
    found = torch.bincount(chosen, minlength=size).double()
    kept = torch.isfinite(warped(logits[None], sampling)[0])
    assert 2 <= int(kept.sum()) < size - 1 and not bool(found[~kept].any())
    p = torch.softmax(logits.double() / 0.8, 0)
    expected = (p * kept / (p * kept).sum() * n)[kept]
    statistic = float(((found[kept] - expected) ** 2 / expected).sum())
    assert statistic < 18.5  # chi-square, at most 4 degrees of freedom, 0.1 %
    # positive control: not from the distribution as it was before, nor at another temperature
    before = (p * n)[kept]
    assert float(((found[kept] - before) ** 2 / before).sum()) > 100
    other = torch.softmax(logits.double() / 1.2, 0) * kept
    other = (other / other.sum() * n)[kept]
    assert float(((found[kept] - other) ** 2 / other).sum()) > 40


@pytest.mark.parametrize("options", FILTERS)
def test_a_token_that_had_won_and_survives_the_filter_still_wins(options) -> None:
    """The noise is that of the token, not of its rank: chains with and without are paired."""
    logits = torch.tensor([2.0, 1.6, 1.3, 0.5, 0.0, -1.0, -30.0])
    rows, noise = keys(*(f"t{i}" for i in range(2000))), Noise(5, len(logits), CPU)
    many = logits.expand(len(rows), -1)
    free = choose(many, Sampling(), noise, rows, 7)
    found = choose(many, Sampling(**options), noise, rows, 7)
    kept = torch.isfinite(Sampling(**options).filtered(logits[None])[0])
    survived = kept[free]
    assert torch.equal(found[survived], free[survived])
    assert bool(kept[found].all()) and 100 < int((~survived).sum()) < 1000
    # positive control: other noise gives other tokens
    other = choose(many, Sampling(**options), noise, rows, 8)
    assert not torch.equal(other[survived], free[survived])


def test_filters_have_no_say_in_greedy_choice() -> None:
    logits = drawn_logits(0, 300, 1.0)
    for options in ({}, *FILTERS):
        assert torch.equal(choose(logits, Sampling(0.0, **options)), logits.argmax(dim=-1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "the temperature is out of range"),
        ({"temperature": math.inf}, "the temperature is out of range"),
        ({"temperature": math.nan}, "the temperature is out of range"),
        *(
            ({name: value}, f"{name} is out of range")
            for name in ("top_p", "min_p")
            for value in (0.0, -0.5, 1.0001, math.nan, math.inf)
        ),
        ({"top_k": 0}, "top_k is out of range"),
        ({"top_k": -5}, "top_k is out of range"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(GenerationError, match=message):
        Sampling(**options)


def test_what_is_recorded_is_the_temperature_and_the_filters_that_are_on() -> None:
    assert Sampling().to_json() == {"temperature": 1.0}
    assert Sampling(0.0, top_k=4).to_json() == {"temperature": 0.0, "top_k": 4}
    whole = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "min_p": 0.05}
    assert Sampling(**whole).to_json() == whole


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_become_numbers_that_json_knows() -> None:
    given = {"top_p": np.float32(0.5), "top_k": np.int64(3), "min_p": np.float64(0.25)}
    found = Sampling(np.float32(0.5), **given).to_json()
    assert found == {"temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.25}
    assert json.loads(json.dumps(found)) == found
