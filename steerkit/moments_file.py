"""The moments file: what a pass over chains left, in safetensors, to add to and to go on from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from steerkit.errors import ExtractionError, ResourceError, SteerkitError
from steerkit.files import read_safetensors, write_bytes_atomic
from steerkit.moments import Moments
from steerkit.positions import Window
from steerkit.reading import COLUMNS, SPLITS

FORMAT = 1
_BY_LAYER = ("_sums", "_shuffled", "_hidden", "_norms", "_outliers", "_outer")
_WHOLE = ("counts", "within_counts", "chains")


def write_moments(moments: Moments, path: str | Path) -> Path:
    """Write moments, atomically; the same moments give the same bytes.

    Large: 113 rows of float64 for every layer and width, times twice the number of behaviours,
    whatever the number of chains (0.6 GB for six behaviours of a 1.5B model at all layers).
    """
    from safetensors.torch import save

    moments.cpu()
    tensors = {name: getattr(moments, name) for name in _WHOLE}
    for name in _BY_LAYER:
        for layer, values in zip(moments.layers, getattr(moments, name), strict=True):
            tensors[f"{name[1:]}.{layer}"] = values
    header = {
        "format": FORMAT,
        "labels": moments.labels,
        "layers": moments.layers,
        "d_model": moments.d_model,
        "window": [moments.window.before, moments.window.length],
        "seed": moments.seed,
        "covariance": moments.covariance,
        "columns": [COLUMNS, SPLITS],
        "tokens": moments.tokens,
        "tasks": {label: sorted(tasks) for label, tasks in moments.tasks.items()},
        "counters": dict(moments.counters),
    }
    metadata = {"steerkit-moments": json.dumps(header, sort_keys=True, separators=(",", ":"))}
    whole = {key: values.contiguous() for key, values in tensors.items()}
    return write_bytes_atomic(path, save(whole, metadata=metadata))


def read_moments(path: str | Path) -> Moments:
    """Read a moments file.

    Raises :class:`ResourceError` for a missing file, :class:`ExtractionError` for one that is
    damaged, holds no moments, or was written by a version that kept other columns.
    """
    if not Path(path).is_file():
        raise ResourceError("no such moments file", where=path)
    metadata, tensors = read_safetensors(path, ExtractionError)
    try:
        header = json.loads(metadata["steerkit-moments"])
        if (header["format"], header["columns"]) != (FORMAT, [COLUMNS, SPLITS]):
            raise ExtractionError(
                "moments of another version",
                expected=f"format {FORMAT} with {COLUMNS} columns and {SPLITS} shuffles",
                found=f"format {header['format']} with {header['columns']}",
                where=path,
                fix="collect them again",
            )
        return _filled(header, tensors, path)
    except (KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, SteerkitError):
            raise
        raise ExtractionError(
            "a safetensors file, but not one of moments",
            found=f"{type(problem).__name__}: {problem}",
            where=path,
        ) from None


def _filled(header: dict[str, Any], tensors: dict[str, torch.Tensor], path: str | Path) -> Moments:
    moments = Moments(
        header["labels"],
        header["layers"],
        header["d_model"],
        window=Window(*header["window"]),
        seed=header["seed"],
        covariance=header["covariance"],
    )
    for name in _WHOLE:
        setattr(moments, name, _checked(tensors[name], getattr(moments, name), name, path))
    for name in _BY_LAYER:
        kept = getattr(moments, name)
        for i, layer in enumerate(moments.layers):
            key = f"{name[1:]}.{layer}"
            kept[i] = _checked(tensors[key], kept[i], key, path)
    moments.tokens = header["tokens"]
    moments.tasks = {label: set(header["tasks"][label]) for label in moments.labels}
    moments.counters = Counter(header["counters"])
    return moments


def _checked(
    found: torch.Tensor, expected: torch.Tensor, name: str, path: str | Path
) -> torch.Tensor:
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise ExtractionError(
            f"{name} has the wrong shape",
            expected=f"{expected.dtype} of {tuple(expected.shape)}",
            found=f"{found.dtype} of {tuple(found.shape)}",
            where=path,
        )
    return found
