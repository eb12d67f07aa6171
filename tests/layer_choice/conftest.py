"""A tiny model and one batch of its chains."""

from __future__ import annotations

import pytest

from steerkit.layer_choice.forcing import forced_batches
from steerkit.models import ThinkingModel
from tests.tiny import tiny_model, tiny_traces


@pytest.fixture(scope="module")
def model() -> ThinkingModel:
    return tiny_model()


@pytest.fixture(scope="module")
def forced(model):
    (batch,) = forced_batches(model, tiny_traces(4), tokens=400, batch_tokens=4000)
    return batch
