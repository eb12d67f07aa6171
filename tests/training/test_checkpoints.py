"""The log of a training run: resumed exactly, never half written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from steerkit.training.checkpoints import TrainingLog

COLUMNS = ("step", "loss", "closed")


def test_a_resumed_log_drops_the_rows_that_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.csv"
    log = TrainingLog(path, 0, COLUMNS)
    for step in (5, 10, 15):
        log.write({"step": step, "loss": 1.5, "closed": 0.25})
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4 and lines[0].decode().strip().split(",") == list(COLUMNS)
    TrainingLog(path, 10, COLUMNS)
    assert path.read_bytes() == b"".join(lines[:3])


def test_a_log_is_whole_when_resuming_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.csv"
    TrainingLog(path, 0, COLUMNS).write({"step": 5, "loss": 1.5})
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TrainingLog(path, 5, COLUMNS)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
