"""Cosines: against numpy, planted truths that intervals cover, and laws of geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steerkit.cosine_matrix import PARTS, Cosines
from steerkit.directions import CONTRASTS, contrast, replicates
from steerkit.errors import ExtractionError, StatisticsError
from steerkit.geometry import MIN_TASKS, cosines, student_quantile
from steerkit.moments import Moments
from steerkit.reading import REPLICATES, column_weights
from steerkit.reliability import split_half
from tests.synthetic import (
    LABELS,
    collected,
    planted_moments,
    reference_contrast,
    synthetic_chains,
)

PAIRS = np.triu_indices(4, 1)
RATES = np.array([5.0, 1.5, 1.0, 1.2])


def planted_means(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of four labels, and the cosines that their directions have under ``rest``."""
    rng = np.random.default_rng(5)
    a, b, c = np.linalg.qr(rng.normal(size=(width, 3)))[0].T
    means = np.array([0 * a, b, 0.8 * b + 0.6 * c, 0.8 * a - 0.5 * b])
    others = [[k for k in range(4) if k != label] for label in range(4)]
    truth = np.array(
        [
            m - np.average(means[o], axis=0, weights=RATES[o])
            for m, o in zip(means, others, strict=True)
        ]
    )
    units = truth / np.linalg.norm(truth, axis=1, keepdims=True)
    return means, units @ units.T


def planted(width: int, tasks: int, noise: float, *, data_sets: int, **changes) -> list[Moments]:
    """Data sets, two as the layers of one: these share their chains and differ in noise."""
    means, _ = planted_means(width)
    return [
        planted_moments(
            means,
            RATES,
            tasks=tasks,
            layers=2,
            span_noise=noise,
            chain_noise=noise / 3,
            seed=seed,
            **changes,
        )
        for seed in range(data_sets // 2)
    ]


def stacked(found: list[Cosines], part: str) -> np.ndarray:
    """[data set, pair]"""
    return np.concatenate([getattr(f, part).numpy() for f in found])[:, PAIRS[0], PAIRS[1]]


def covered(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


def reliability(moments: list[Moments]) -> float:
    """The least of the split-half cosines of the labels, each the mean over some data sets."""
    halves = [torch.stack(list(split_half(m, "rest").values())) for m in moments[:9]]
    return float(torch.cat(halves, dim=1).mean(dim=1).min())


SPECTRUM = np.arange(1, 65) ** -0.5 / np.sqrt((np.arange(1, 65) ** -1.0).mean())
"""Noise whose first dimensions are much larger than the others, as in real models."""


@pytest.mark.parametrize(
    ("width", "tasks", "noise", "changes"),
    [
        (64, 60, 0.05, {}),
        (64, 60, 0.2, {}),
        (64, 60, 0.2, {"spectrum": SPECTRUM}),
        (64, 30, 0.1, {}),
        (192, 60, 0.12, {}),
    ],
)
def test_intervals_cover_planted_cosines(width, tasks, noise, changes) -> None:
    data = planted(width, tasks, noise, data_sets=240, **changes)
    assert reliability(data) > 0.6
    found = [cosines(m, "rest") for m in data]
    truth = planted_means(width)[1][PAIRS]
    assert 0.92 <= covered(stacked(found, "low"), stacked(found, "high"), truth) <= 0.98
    # tight enough to say something
    assert np.median(stacked(found, "high") - stacked(found, "low")) < 0.5
    assert np.abs(np.nanmean(stacked(found, "corrected"), axis=0) - truth).max() < 0.03


def test_percentiles_of_replicates_and_uncorrected_intervals_would_not_cover() -> None:
    """Positive control: the same data sets, the two intervals that come to mind first."""
    data = planted(192, 60, 0.12, data_sets=200)
    found = [cosines(m, "rest") for m in data]
    truth = planted_means(192)[1][PAIRS]
    assert 0.92 <= covered(stacked(found, "low"), stacked(found, "high"), truth) <= 0.98
    drawn = []
    for moments in data:
        for i in range(2):
            vectors = replicates(moments, i, "rest")[0][1:]
            units = vectors / vectors.norm(dim=-1, keepdim=True)
            drawn.append(torch.einsum("rid,rjd->rij", units, units).numpy()[:, *PAIRS])
    low, high = np.quantile(np.stack(drawn, axis=1), [0.025, 0.975], axis=0)
    assert covered(low, high, truth) < 0.6
    half = (stacked(found, "high") - stacked(found, "low")) / 2
    plain = stacked(found, "cosine")
    assert covered(plain - half, plain + half, truth) < 0.88
    assert np.abs(plain.mean(axis=0) - truth).max() > 0.05


def test_intervals_of_unreliable_directions_are_wide_not_wrong() -> None:
    data = planted(64, 40, 4.0, data_sets=200)
    assert reliability(data) < 0.2
    found = [cosines(m, "rest") for m in data]
    truth = planted_means(64)[1][PAIRS]
    low, high = stacked(found, "low"), stacked(found, "high")
    assert covered(low, high, truth) >= 0.92
    nothing = (low == -1) & (high == 1)
    assert nothing.mean() > 0.5
    assert (np.isnan(stacked(found, "corrected")) <= nothing).all()


def test_ends_are_where_fieller_puts_them() -> None:
    """In numpy, from directions of chains taken as often as a replicate says."""
    chains = synthetic_chains(30, seed=3, tasks=15)
    moments = collected(chains)
    weights = {c.chain.task: column_weights(c.chain.task).tolist() for c in chains}
    drawn = np.array(
        [
            [
                reference_contrast(chains, "rest", label, {t: w[r] for t, w in weights.items()})
                for label in LABELS
            ]
            for r in range(1 + REPLICATES)
        ]
    )  # [column, label, layer, d_model]
    found = cosines(moments, "rest")
    for layer in range(2):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            a, b = drawn[0, i, layer], drawn[0, j, layer]
            e, f = (drawn[1:, k, layer] - drawn[1:, k, layer].mean(axis=0) for k in (i, j))
            noise = [(x * y).sum() / (REPLICATES - 1) for x, y in ((e, f), (e, e), (f, f))]
            top, aa, bb = a @ b - noise[0], a @ a - noise[1], b @ b - noise[2]
            place = (layer, i, j)
            np.testing.assert_allclose(
                float(found.cosine[place]), a @ b / np.sqrt(a @ a * (b @ b)), atol=1e-12
            )
            if aa <= 0 or bb <= 0:
                assert float(found.low[place]) == -1 and float(found.high[place]) == 1
                continue
            tasks = min(len(moments.tasks[LABELS[k]]) for k in (i, j))
            t = stats.t.ppf(0.975, 1 / (1 / (tasks - 1) + 1 / (REPLICATES - 1)))
            bottom = np.sqrt(aa * bb)

            def errors(c: float, a=a, b=b, e=e, f=f, aa=aa, bb=bb, top=top, bottom=bottom) -> float:
                changes = e @ b + f @ a - c * bottom * (e @ a / aa + f @ b / bb)
                return float(abs(top - c * bottom) / changes.std(ddof=1))

            inside = [c for c in np.linspace(-1, 1, 4001) if errors(c) <= t]
            ends = [float(end[place]) for end in (found.low, found.high)]
            np.testing.assert_allclose([min(inside), max(inside)], ends, atol=2e-3)
            if ends != [-1.0, 1.0]:
                np.testing.assert_allclose(float(found.corrected[place]), top / bottom, atol=1e-9)


@pytest.mark.parametrize("name", CONTRASTS)
def test_plain_cosines_are_those_of_the_directions(name: str) -> None:
    moments = collected(synthetic_chains(25, seed=1))
    found = cosines(moments, name)
    assert found.behaviors == LABELS and found.layers == (0, 1)
    raw = contrast(moments, name)
    for i in range(3):
        for j in range(3):
            expected = torch.cosine_similarity(raw[i], raw[j], dim=-1)
            torch.testing.assert_close(found.cosine[:, i, j], expected)
    for part in PARTS:
        values = getattr(found, part)
        torch.testing.assert_close(values, values.transpose(1, 2), equal_nan=True)
        assert torch.equal(values.diagonal(dim1=1, dim2=2), torch.ones(2, 3).double())
    assert bool((found.low <= found.high).all())


@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
@settings(max_examples=15, deadline=None)
def test_turning_and_scaling_activations_changes_nothing(seed: int, factor: float) -> None:
    moments = planted(64, 20, 0.5, data_sets=2)[0]
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(64, 64)))[0]
    before = cosines(moments)
    moments._sums = [sums @ torch.from_numpy(turn) * factor for sums in moments._sums]
    after = cosines(moments)
    for part in PARTS:
        torch.testing.assert_close(
            getattr(after, part), getattr(before, part), rtol=1e-7, atol=1e-8, equal_nan=True
        )
    moments._sums = [sums * torch.linspace(0.2, 3, 64) for sums in moments._sums]
    assert not torch.allclose(cosines(moments).cosine, before.cosine, atol=1e-3)


def test_more_tasks_and_lower_levels_make_intervals_narrower() -> None:
    few, many = (planted(64, tasks, 0.6, data_sets=50) for tasks in (20, 160))

    def width(data: list[Moments], level: float = 0.95) -> float:
        found = [cosines(m, level=level) for m in data]
        return float(np.median(stacked(found, "high") - stacked(found, "low")))

    assert width(many) < 0.6 * width(few)
    assert width(many, 0.5) < 0.5 * width(many)


def test_two_behaviours_set_against_each_other_are_opposite_without_doubt() -> None:
    means, _ = planted_means(64)
    moments = planted_moments(
        means[:2], RATES[:2], tasks=30, layers=2, span_noise=0.3, chain_noise=0.1
    )
    found = cosines(moments)
    for part in PARTS:
        torch.testing.assert_close(
            getattr(found, part)[:, 0, 1], -torch.ones(2).double(), rtol=0, atol=1e-6
        )


def test_unrelated_means_have_the_cosines_that_their_contrasts_share() -> None:
    means = np.eye(64)[:4]
    frequent = np.array([40.0, 1.0, 1.0, 1.0])
    options = {"tasks": 60, "layers": 2, "span_noise": 0.02, "chain_noise": 0.0}
    many, even = (planted_moments(means, r, **options) for r in (frequent, np.ones(4)))
    for moments, name, expected in ((many, "rest", 0.5), (even, "balanced", -1 / 3)):
        found = cosines(moments, name).corrected[:, 1:, 1:]
        apart = ~torch.eye(3, dtype=torch.bool)
        assert float((found[:, apart] - expected).abs().max()) < 0.08


def test_behaviours_can_be_chosen_and_do_not_depend_on_the_choice() -> None:
    moments = collected(synthetic_chains(25, seed=1))
    whole = cosines(moments)
    part = cosines(moments, behaviors=["backtracking", "deduction", "backtracking"])
    assert part.behaviors == ("backtracking", "deduction")
    for name in PARTS:
        expected = getattr(whole.subset(part.behaviors), name)
        torch.testing.assert_close(getattr(part, name), expected, equal_nan=True)
    with pytest.raises(ExtractionError, match=r"no direction of 'initializing'.*deduction, exa"):
        cosines(moments, behaviors=["initializing"])
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(StatisticsError, match="between 0 and 1"):
            cosines(moments, level=level)
    alone = cosines(moments, "backtracking:deduction")
    assert alone.behaviors == ("backtracking",) and alone.cosine.shape == (2, 1, 1)


def test_without_enough_tasks_there_is_a_cosine_but_no_interval() -> None:
    for tasks, known in ((MIN_TASKS - 1, False), (MIN_TASKS + 20, True)):
        moments = collected(synthetic_chains(90, seed=2, tasks=tasks))
        assert all((len(found) >= MIN_TASKS) == known for found in moments.tasks.values())
        found = cosines(moments)
        apart = ~torch.eye(3, dtype=torch.bool)
        assert bool(found.cosine.isfinite().all())
        for part in (found.low, found.high):
            assert bool((part[:, apart].isfinite() == known).all())
        assert bool((found.low.diagonal(dim1=1, dim2=2) == 1).all())


def test_quantiles_are_students() -> None:
    freedom = torch.tensor([4.0, 6.3, 10.0, 31.5, 500.0], dtype=torch.float64)
    for level in (0.5, 0.9, 0.95):
        expected = stats.t.ppf((1 + level) / 2, freedom.numpy())
        np.testing.assert_allclose(student_quantile(freedom, level).numpy(), expected, atol=2e-3)
    assert float(student_quantile(freedom, 0.95)[0]) > 2.7  # the normal one is 1.96
