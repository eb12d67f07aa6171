"""The file of published means: read without running anything, checked entry by entry."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from steerkit.behaviors import behavior, behaviors
from steerkit.errors import BehaviorError, ResourceError, VectorsError
from steerkit.files import read_safetensors

OVERALL = "overall"
"""The label of the mean over whole thinking sections, each response equally."""
_SHAPE = '{label: {"mean": tensor [layer, d_model], "count": spans}}, "overall" among the labels'
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mean:
    """Mean activation of a label at every layer, and of how many spans (responses) it is."""

    mean: Float64[Tensor, "layer d_model"]
    count: int


def read_means(path: str | Path) -> tuple[dict[str, Mean], dict[str, dict[str, Any]]]:
    """Means by behaviour, ``overall`` among them, and what was left out.

    The file is one of ``torch.save``, ``{label: {"mean": tensor, "count": int}}``, or a
    safetensors file with ``LABEL.mean`` and ``LABEL.count``. It is unpickled, if at all, by
    PyTorch's reader of tensors and plain containers, which runs no code of the file's.

    Returns
    -------
    Means in float64, by the full names of behaviours, and by label the ``count`` and the
    ``reason`` of what gives no direction: ``no known behaviour``, ``no spans``, ``not finite``.
    These are logged as warnings as well.

    Raises :class:`ResourceError` for a missing file, :class:`VectorsError` for one that cannot be
    read safely, has another form, lacks ``overall`` or names no behaviour.
    """
    return _by_behavior(_read(path), path)


def _read(path: str | Path) -> object:
    """What the file holds, made of nothing but tensors, numbers, strings and containers."""
    file = Path(path)
    if not file.is_file():
        raise ResourceError("no such file of published means", where=path)
    with file.open("rb") as opened:
        head = opened.read(9)
    if head[8:] == b"{":  # safetensors: the length of its header, then the header as JSON
        return _tensors_by_label(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # a damaged pickle can raise nearly anything
        strange = re.search(r"GLOBAL (\S+)", str(problem))
        if strange is not None:
            raise VectorsError(
                "the file holds more than tensors and was not opened: to load it would run code",
                expected=_SHAPE,
                found=strange[1],
                where=path,
                fix="save the means alone, with torch.save or as safetensors",
            ) from None
        raise VectorsError(
            "neither a file of torch.save nor a safetensors file",
            expected=_SHAPE,
            found=type(problem).__name__,
            where=path,
        ) from None


def _tensors_by_label(path: Path) -> object:
    metadata, tensors = read_safetensors(path, VectorsError)
    if "steerkit" in metadata:
        raise VectorsError(
            "this is a vectors file already",
            where=path,
            fix="use it as it is; in Python: sk.read_vectors(path)",
        )
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        label, _, part = key.rpartition(".")
        found.setdefault(label, {})[part] = tensor
    return found


def _by_behavior(
    content: object, path: str | Path
) -> tuple[dict[str, Mean], dict[str, dict[str, Any]]]:
    """Means by behaviour, ``overall`` among them, and what was left out and why."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise VectorsError(
            "not a file of means by label",
            expected=_SHAPE,
            found=type(content).__name__,
            where=path,
        )
    means = {str(label): _mean(label, entry, path) for label, entry in content.items()}
    if OVERALL not in means:
        raise VectorsError(
            "the mean over thinking sections is missing",
            expected=_SHAPE,
            found=", ".join(means) or "nothing",
            where=path,
        )
    overall = means[OVERALL]
    if overall.count < 1 or not bool(overall.mean.isfinite().all()):
        raise VectorsError(
            "the mean over thinking sections is not finite or of no response",
            found=f"count {overall.count}",
            where=path,
        )
    named, left_out = {OVERALL: overall}, {}
    for label, entry in means.items():
        if label == OVERALL:
            continue
        if entry.mean.shape != overall.mean.shape:
            raise VectorsError(
                f"the mean of {label!r} has another shape than that of 'overall'",
                expected=tuple(overall.mean.shape),
                found=tuple(entry.mean.shape),
                where=path,
            )
        reason = _useless(label, entry)
        if reason is not None:
            left_out[label] = {"count": entry.count, "reason": reason}
            continue
        name = behavior(label).name
        if name in named:
            raise VectorsError(f"two means of {name!r}", found=label, where=path)
        named[name] = entry
    for label, facts in left_out.items():
        _log.warning("%s: %r (count %d) left out: %s", path, label, *facts.values())
    if len(named) == 1:
        raise VectorsError(
            "no mean of a known behaviour",
            expected="one of " + ", ".join(b.name for b in behaviors()),
            found=", ".join(left_out) or "none",
            where=path,
            fix="declare your own: sk.declare(...), or --declare NAME on the command line",
        )
    return named, left_out


def _useless(label: str, entry: Mean) -> str | None:
    """Why a label gives no direction; ``None`` where it does."""
    try:
        behavior(label)
    except BehaviorError:
        return "no known behaviour"
    if entry.count < 1:
        return "no spans"
    return None if bool(entry.mean.isfinite().all()) else "not finite"


def _mean(label: object, entry: object, path: str | Path) -> Mean:
    mean = entry.get("mean") if isinstance(entry, Mapping) else None
    count: Any = entry.get("count") if isinstance(entry, Mapping) else None
    if isinstance(count, Tensor) and count.numel() == 1:
        count = count.item()
    whole = isinstance(count, int | float) and not isinstance(count, bool) and count % 1 == 0
    if not (isinstance(mean, Tensor) and mean.ndim == 2 and mean.is_floating_point() and whole):
        raise VectorsError(
            f"the entry of {label!r} is no mean with a count",
            expected=_SHAPE,
            found=f"mean {_kind(mean)}, count {_kind(count)}",
            where=path,
        )
    return Mean(mean.detach().double(), int(count))


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "missing" if value is None else repr(value)[:40]
