"""Bundled data is found by one function, in a checkout and in an installed wheel."""

from __future__ import annotations

import pytest

from steerkit import resources
from steerkit.errors import ResourceError
from steerkit.resources import bundled_adapters, bundled_models, data
from steerkit.traces import read_traces


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A checkout's data folder; the wheel's is not there yet."""
    checkout = tmp_path / "data"
    for name in ("traces/own.jsonl", "models/small/config.json", "models/tiny/config.json"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("{}")
    (checkout / "models" / "README.md").write_text("no model")
    (tmp_path / "secret").write_text("outside")
    monkeypatch.setattr(resources, "_ROOTS", (tmp_path / "_data", checkout))
    return tmp_path


def test_files_and_folders_are_found_by_name(tree):
    assert data("traces/own.jsonl") == tree / "data" / "traces" / "own.jsonl"
    assert data("traces").is_dir() and data() == tree / "data"


def test_an_installed_wheel_comes_first(tree):
    (tree / "_data" / "traces").mkdir(parents=True)
    (tree / "_data" / "traces" / "own.jsonl").write_text("{}")
    assert data("traces/own.jsonl") == tree / "_data" / "traces" / "own.jsonl"


def test_a_name_that_is_not_bundled_lists_what_is(tree):
    with pytest.raises(ResourceError, match=r"'traces/none\.jsonl'") as error:
        data("traces/none.jsonl")
    assert "traces/own.jsonl" in str(error.value) and "models/small" in str(error.value)


@pytest.mark.parametrize("name", ["../secret", "traces/../../secret", "{tree}/secret"])
def test_nothing_outside_is_reached(tree, name):
    with pytest.raises(ResourceError):
        data(name.format(tree=tree))


def test_bundled_models_are_folders_by_name(tree):
    assert list(bundled_models()) == ["small", "tiny"]
    (tree / "data" / "models" / "change").mkdir()
    (tree / "data" / "models" / "change" / "adapter_config.json").write_text("{}")
    assert list(bundled_models()) == ["small", "tiny"] and list(bundled_adapters()) == ["change"]
    assert bundled_models()["tiny"] == tree / "data" / "models" / "tiny"


def test_no_data_at_all_is_a_typed_error(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_ROOTS", (tmp_path / "_data", tmp_path / "data"))
    with pytest.raises(ResourceError):
        data("traces/own.jsonl")


def test_what_the_package_promises_is_bundled():
    assert len(read_traces(data("traces/countdown.jsonl"))) >= 500
    assert "countdown-thinking" in bundled_models()
