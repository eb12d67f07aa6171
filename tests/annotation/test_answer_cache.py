"""Kept answers: by content, whole or not at all, without text and without keys."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from steerkit.annotation.answer_cache import AnswerCache, cache_folder, content_key
from steerkit.errors import ResourceError

KEY = content_key(["model", "text"])
LABELS = ["deduction", "backtracking"]


@pytest.fixture
def cache(tmp_path):
    return AnswerCache(tmp_path / "answers")


def test_labels_come_back(cache):
    assert cache.get(KEY, 2, LABELS) is None
    cache.put(KEY, ("deduction", "unparsed"), {"served": "m"})
    assert cache.get(KEY, 2, LABELS) == ("deduction", "unparsed")
    assert cache.get(content_key(["model", "other"]), 2, LABELS) is None
    (file,) = (path for path in cache.folder.rglob("*") if path.is_file())
    assert json.loads(file.read_text()) == {
        "format": 1,
        "labels": ["deduction", "unparsed"],
        "served": "m",
    }


def test_the_key_is_of_the_content_alone():
    assert len(KEY) == 64
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert len({content_key(x) for x in (["a", "b"], ["ab"], ["b", "a"], "ab")}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"format": 1, "labels": ["deduction", "backtrac',
        '["deduction", "backtracking"]',
        '{"format": 1, "labels": ["deduction"]}',
        '{"format": 1, "labels": ["deduction", "daydreaming"]}',
        '{"format": 1, "labels": ["deduction", 3]}',
        '{"format": 2, "labels": ["deduction", "backtracking"]}',
    ],
)
def test_a_damaged_file_is_asked_for_again_and_said(cache, caplog, text):
    cache.put(KEY, LABELS, {})
    (file,) = (path for path in cache.folder.rglob("*") if path.is_file())
    assert cache.get(KEY, 2, LABELS) == tuple(LABELS), "positive control"
    file.write_text(text)
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        assert cache.get(KEY, 2, LABELS) is None
    assert file.name in caplog.text


def test_the_folder_is_the_users_unless_named(monkeypatch):
    monkeypatch.delenv("STEERKIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "steerkit" / "answers"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/steerkit/answers")
    monkeypatch.setenv("STEERKIT_CACHE", "/y")
    assert cache_folder() == Path("/y/answers")


def test_a_folder_that_cannot_be_is_told_beforehand(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="--cache"):
        AnswerCache(tmp_path / "file" / "answers").check()
    AnswerCache(tmp_path / "new" / "answers").check()
    assert (tmp_path / "new" / "answers").is_dir()
