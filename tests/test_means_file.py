"""The file of published means: nothing in it runs, and nothing in it goes unsaid."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import steerkit as sk
from steerkit.errors import ResourceError, VectorsError
from steerkit.means_file import read_means
from steerkit.published import read_published
from tests.test_published import COUNTS, expected, means, written
from tests.tiny import LAYERS, WIDTH


@pytest.fixture
def file(tmp_path) -> Path:
    return written(means(), tmp_path / "means.pt")


def test_means_come_in_float64_by_behaviour(file: Path) -> None:
    found, left_out = read_means(file)
    assert left_out == {} and set(found) == set(COUNTS)
    for label, entry in means().items():
        assert found[label].count == entry["count"]
        assert torch.equal(found[label].mean, entry["mean"].double())


def test_safetensors_say_the_same(file: Path, tmp_path: Path) -> None:
    parts = {}
    for label, entry in means().items():
        parts[f"{label}.mean"] = entry["mean"]
        parts[f"{label}.count"] = torch.tensor(entry["count"])
    save_file(parts, tmp_path / "means.safetensors")
    found, same = read_published(tmp_path / "means.safetensors"), read_published(file)
    assert set(found) == set(same)  # a safetensors file has an order of its own
    for name in same:
        assert torch.equal(found[name].tensor, same[name].tensor)
        assert found[name].spans == same[name].spans
    with pytest.raises(VectorsError, match="this is a vectors file already"):
        read_published(same.save(tmp_path / "v.safetensors"))


class _Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "ran"
    content = {**means(), "backtracking": _Bomb(folder)}
    path = written(content, tmp_path / "evil.pt")
    with pytest.raises(VectorsError, match=r"holds more than tensors.*run code.*mkdir"):
        read_published(path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(VectorsError, match=r"evil\.pkl"):
        read_published(tmp_path / "evil.pkl")
    assert not folder.exists()
    torch.load(path, weights_only=False)
    assert folder.exists()  # the check can fail


def test_labels_that_give_no_direction_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = means()
    nothing = torch.zeros(LAYERS, WIDTH)
    content["summarizing"] = {"mean": nothing, "count": 1}
    content["deductoin"] = {"mean": nothing, "count": 3}
    content["initializing"] = {"mean": nothing, "count": 0}
    content["example-testing"] = {"mean": nothing / 0, "count": 4}
    path = written(content, tmp_path / "means.pt")
    with caplog.at_level(logging.WARNING, "steerkit"):
        vectors = read_published(path)
    assert set(vectors) == set(COUNTS) - {"overall"}
    left_out = {
        "summarizing": {"count": 1, "reason": "no known behaviour"},
        "deductoin": {"count": 3, "reason": "no known behaviour"},
        "initializing": {"count": 0, "reason": "no spans"},
        "example-testing": {"count": 4, "reason": "not finite"},
    }
    assert vectors.provenance["published"]["left_out"] == left_out
    assert all(label in caplog.text for label in left_out)
    # nor do they weigh in the contrast with the rest
    rest = read_published(path, contrast="rest")["backtracking"]
    np.testing.assert_allclose(rest.tensor, expected("backtracking", "rest"), atol=1e-6)
    sk.declare(sk.Behavior("summarizing", "says what was found"))
    assert "summarizing" in read_published(path)


def test_short_names_are_names_and_no_behaviour_comes_twice(tmp_path: Path) -> None:
    content = means()
    content["uncertainty"] = content.pop("uncertainty-estimation")
    vectors = read_published(written(content, tmp_path / "m.pt"))
    assert "uncertainty-estimation" in list(vectors)
    content["uncertainty-estimation"] = content["uncertainty"]
    with pytest.raises(VectorsError, match="two means of 'uncertainty-estimation'"):
        read_published(written(content, tmp_path / "m.pt"))


def changed(label: str, **fields: object) -> dict:
    content = means()
    content[label] = {**content[label], **fields}
    return content


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([1, 2], "not a file of means by label"),
        ({3: means()["overall"]}, "not a file of means by label"),
        ({}, "the mean over thinking sections is missing"),
        ({k: v for k, v in means().items() if k != "overall"}, "thinking sections is missing"),
        ({"overall": means()["overall"]}, "no mean of a known behaviour"),
        (changed("overall", count=0), "not finite or of no response"),
        (changed("overall", mean=torch.full((LAYERS, WIDTH), float("nan"))), "not finite"),
        (changed("deduction", mean=torch.zeros(LAYERS, 5)), "'deduction' has another shape"),
        (changed("deduction", mean=torch.zeros(WIDTH)), r"'deduction' is no mean.*float32 \[32\]"),
        (changed("deduction", mean=torch.zeros(LAYERS, WIDTH, dtype=torch.int64)), "int64"),
        (changed("deduction", mean=None), "mean missing"),
        (changed("deduction", count=None), "count missing"),
        (changed("deduction", count=2.5), "count 2.5"),
        (changed("deduction", count=True), "count True"),
        ({**means(), "deduction": torch.zeros(LAYERS, WIDTH)}, "'deduction' is no mean"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, content: object, named: str) -> None:
    path = written(content, tmp_path / "odd.pt")
    with pytest.raises(VectorsError, match=rf"odd\.pt.*{named}"):
        read_published(path)


def test_missing_and_damaged_files_are_named(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ResourceError, match=r"nowhere\.pt: no such file of published means"):
        read_published(tmp_path / "nowhere.pt")
    with pytest.raises(ResourceError, match="no such file"):
        read_published(tmp_path)
    whole, path = file.read_bytes(), tmp_path / "damaged.pt"
    for content in (b"", b"nonsense", whole[:200], whole[len(whole) // 2 :], b"\x80\x02]q\x00."):
        path.write_bytes(content)
        with pytest.raises(VectorsError, match=r"damaged\.pt"):
            read_published(path)
    path.write_bytes(b"\x10" + bytes(7) + b"{" + b"x" * 20)
    with pytest.raises(VectorsError, match="not a readable safetensors file"):
        read_published(path)
