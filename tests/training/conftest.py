"""The small base that tests of reinforcement learning begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.bases import tasks_with_answers, unsure_base


@pytest.fixture(scope="session")
def known_tasks():
    """Four tasks of the rl pool with four different answers."""
    return tasks_with_answers(4, 4)


@pytest.fixture(scope="session")
def base_folder(known_tasks, tmp_path_factory) -> Path:
    """A base that can tell these tasks apart."""
    return unsure_base(tmp_path_factory.mktemp("bases") / "tiny-base", known_tasks)
