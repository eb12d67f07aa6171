"""Shapes are checked over the whole package while the tests run; data that tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

# before torch looks for GPUs, here and in every process that a test starts: what is expected
# is computed on the CPU, and commands and loading would else choose the GPU
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# before anything of steerkit is imported; an int is a float where one is asked for (PEP 484)
install_import_hook(
    "steerkit", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder named by STEERKIT_REFERENCE: real chains, a real tokenizer, published means."""
    named = os.environ.get("STEERKIT_REFERENCE")
    if not named:
        pytest.skip("STEERKIT_REFERENCE is not set: no reference chains here")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"STEERKIT_REFERENCE names no folder: {folder}")
    return folder


@pytest.fixture(autouse=True)
def _behaviors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares, itself or by a command or a file, is gone after it."""
    from steerkit import behaviors

    monkeypatch.setattr(behaviors, "_known", dict(behaviors._known))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the tests' own type checks, as users run it."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
