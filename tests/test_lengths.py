"""Lengths of directions: intervals that cover planted lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerkit.directions import contrast, replicates
from steerkit.lengths import norm_interval
from steerkit.moments import Moments
from steerkit.reading import Chain
from steerkit.reliability import split_half
from tests.synthetic import LABELS, Synthetic, collected, planted_moments

UNEVEN = np.arange(1, 25) ** -0.25 / np.sqrt((np.arange(1, 25) ** -0.5).mean())
"""Noise whose first dimension, along which the truth lies, is twice as large as the last ones."""


def planted(tasks: int, noise: float, width: int = 24, **changes) -> list[Moments]:
    """400 data sets, 25 as the layers of one: the last of three labels lies at length 1."""
    means = np.zeros((3, width))
    means[2, 0] = 1.0
    options = {"tasks": tasks, "layers": 25, "span_noise": noise, **changes}
    rates = np.array([0.0, 2.0, 2.0])
    return [planted_moments(means, rates, seed=seed, **options) for seed in range(16)]


@pytest.mark.parametrize(
    ("tasks", "noise", "changes"),
    [
        (20, 0.6, {}),
        (40, 0.8, {}),
        (40, 0.4, {"width": 8}),
        (40, 0.5, {"chain_noise": 0.3}),
        (60, 0.8, {"spectrum": UNEVEN}),
        (150, 0.8, {}),
    ],
)
def test_norm_intervals_cover_the_length(tasks: int, noise: float, changes: dict) -> None:
    data = planted(tasks, noise, **changes)
    assert float(split_half(data[0])["backtracking"].mean()) > 0.45
    value, low, high = torch.cat([norm_interval(m)["backtracking"] for m in data]).T
    assert bool(((low <= value) & (value <= high)).all())
    assert 0.92 <= float(((low <= 1.0) & (high >= 1.0)).double().mean()) <= 0.98
    # it misses on both sides
    assert float((low > 1.0).double().mean()) < 0.055 > float((high < 1.0).double().mean())
    assert float((high - low).median()) < 0.9  # tight enough to say something


def test_the_difference_itself_is_too_long_and_plain_percentiles_miss() -> None:
    """Positive control: the same data, the two answers that come to mind first."""
    data = planted(40, 0.8)
    k = data[0].labels.index("backtracking")
    raw = torch.cat([contrast(m, "rest")[k].norm(dim=1) for m in data])
    assert float(raw.median()) > 1.1
    drawn = torch.stack([replicates(m, i)[0][1:, k].norm(dim=-1) for m in data for i in range(25)])
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975]).double(), dim=1)
    assert float(((low <= 1.0) & (high >= 1.0)).double().mean()) < 0.3


def test_labels_of_a_single_task_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    chains = [
        Synthetic(
            Chain(
                f"c{i}", f"t{i}", (1, 9), ((1, 3, LABELS[0]), (5, 7, LABELS[2 if i == 0 else 1]))
            ),
            rng.normal(size=(1, 9, 6)),
        )
        for i in range(8)
    ]
    assert set(norm_interval(collected(chains))) == {LABELS[0], LABELS[1]}
