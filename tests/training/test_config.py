"""Configurations refuse numbers with which nothing could be trained."""

from __future__ import annotations

import pytest

from steerkit.errors import TrainingError
from steerkit.training.config import RLConfig, SFTConfig, learning_rate


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": 0}, "tokens"),
        ({"layers": 0}, "layers"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"decay": -0.1}, "decay"),
        ({"mixture": (0.0, 0.0, 0.0)}, "mixture"),
        ({"heads": 5}, "heads do not fit"),
        ({"kv_heads": 4}, "heads do not fit"),
    ],
)
def test_supervised_training_with_these_is_refused(fields, message) -> None:
    with pytest.raises(TrainingError, match=message):
        SFTConfig(**fields)


@pytest.mark.parametrize("fields", [{"samples": 1}, {"steps": 0}, {"clip": 0.0}, {"decay": -1.0}])
def test_reinforcement_learning_with_these_is_refused(fields) -> None:
    with pytest.raises(TrainingError, match=next(iter(fields))):
        RLConfig(**fields)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    config = RLConfig(steps=100, warmup_steps=10, decay=0.2, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5) and rates[100] == 0.0
    assert SFTConfig() == SFTConfig() and RLConfig() == RLConfig()
