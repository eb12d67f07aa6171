"""A moments file comes back bit by bit, adds up, and is refused when it is another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from steerkit.directions import contrast, shuffled_contrasts
from steerkit.errors import ExtractionError, ResourceError
from steerkit.moments import _TENSORS, Moments
from steerkit.moments_file import read_moments, write_moments
from steerkit.positions import Window
from steerkit.reliability import split_half
from tests.synthetic import collected, synthetic_chains


def assert_same(a: Moments, b: Moments) -> None:
    for name in ("labels", "layers", "d_model", "seed", "window", "covariance", "tokens", "tasks"):
        assert getattr(a, name) == getattr(b, name), name
    assert dict(a.counters) == dict(b.counters)
    for name in ("counts", "within_counts", "chains"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in _TENSORS:
        for mine, theirs in zip(getattr(a, name), getattr(b, name), strict=True):
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs), name


@pytest.mark.parametrize("covariance", [False, True])
def test_moments_come_back_and_are_written_the_same_again(covariance: bool, tmp_path: Path) -> None:
    moments = collected(synthetic_chains(12), seed=3, covariance=covariance)
    path = write_moments(moments, tmp_path / "deep" / "moments.safetensors")
    back = read_moments(path)
    assert_same(moments, back)
    assert write_moments(back, tmp_path / "again").read_bytes() == path.read_bytes()
    torch.testing.assert_close(contrast(back, "within"), contrast(moments, "within"))
    other = collected(synthetic_chains(13), seed=3, covariance=covariance)
    with pytest.raises(AssertionError):  # the check can fail
        assert_same(other, back)


def test_parts_that_were_written_add_up(tmp_path: Path) -> None:
    chains = synthetic_chains(20)
    whole = collected(chains, batch=5)
    first = write_moments(collected(chains[:10], batch=5), tmp_path / "first")
    total = read_moments(first) + collected(chains[10:], batch=5)
    torch.testing.assert_close(contrast(total), contrast(whole), rtol=1e-12, atol=1e-12)
    for label, halves in split_half(whole).items():
        torch.testing.assert_close(split_half(total)[label], halves)
    torch.testing.assert_close(shuffled_contrasts(total), shuffled_contrasts(whole))
    assert total.tokens == whole.tokens and total.tasks == whole.tasks


def test_window_and_seed_are_kept_so_that_unlike_parts_do_not_add_up(tmp_path: Path) -> None:
    made = Moments(["deduction"], [0], 4, window=Window(0, 3), seed=7)
    back = read_moments(write_moments(made, tmp_path / "m"))
    assert back.window == Window(0, 3) and back.seed == 7
    with pytest.raises(ExtractionError, match="different window"):
        back + Moments(["deduction"], [0], 4, seed=7)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no such moments file"):
        read_moments(tmp_path / "nowhere")
    path = write_moments(collected(synthetic_chains(4)), tmp_path / "m")
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors, good = load(content), json.loads(header["__metadata__"]["steerkit-moments"])

    def write(meta: object, parts: dict[str, torch.Tensor]) -> None:
        path.write_bytes(save(parts, metadata={"steerkit-moments": json.dumps(meta)}))

    write(good, tensors)
    read_moments(path)
    for meta, parts, said in (
        ({**good, "columns": [85, 20]}, tensors, "moments of another version"),
        ({**good, "format": 9}, tensors, "moments of another version"),
        ({}, tensors, "but not one of moments"),
        (good, {k: v for k, v in tensors.items() if k != "counts"}, "but not one of moments"),
        (good, {**tensors, "counts": tensors["counts"][:3]}, "counts has the wrong shape"),
        (good, {**tensors, "hidden.0": tensors["hidden.0"].float()}, "hidden.0 has the wrong"),
    ):
        write(meta, parts)
        with pytest.raises(ExtractionError, match=said):
            read_moments(path)
    for damaged in (b"", content[:-1], b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(ExtractionError, match="not a readable safetensors file"):
            read_moments(path)
