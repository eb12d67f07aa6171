"""The vectors file: directions, what is known of them and where they come from, in safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from steerkit.behaviors import Behavior, behaviors, declare
from steerkit.cosine_matrix import PARTS, Cosines
from steerkit.direction import CURVES, NORMS, Direction
from steerkit.errors import ResourceError, SteerkitError, VectorsError
from steerkit.files import read_safetensors, write_bytes_atomic
from steerkit.vectors import SteeringVectors

FORMAT = 2
"""The newest format. In format 1 every direction has its mean norms; format 2, written only
where it is needed, also holds directions that are not calibrated and have none."""


def write_vectors(vectors: SteeringVectors, path: str | Path) -> Path:
    """Write a vectors file, atomically; the same vectors give the same bytes."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    described = []
    for name, direction in vectors.items():
        tensors[f"{name}.direction"] = direction.tensor
        for part in (*NORMS, *CURVES):
            values = getattr(direction, part)
            if values is not None:
                tensors[f"{name}.{part}"] = values
        known = next((b for b in behaviors() if b.name == name), Behavior(name, ""))
        described.append(
            {
                # said only where it is not so: a file of format 1 stays as it was
                **({} if direction.calibrated else {"calibrated": False}),
                **({"weakness": why} if (why := direction.weakness) else {}),
                "behavior": name,
                "definition": known.definition,
                "color": known.color,
                "short": known.short,
                "layers": list(direction.layers),
                "layer": direction.layer,
                "spans": direction.spans,
                "tasks": direction.tasks,
                "n_layers": direction.n_layers,
                "chosen_by": direction.chosen_by,
                "fluent": direction.fluent,
                "free": direction.free,
            }
        )
    oldest = 1 if all(direction.calibrated for direction in vectors.values()) else 2
    header: dict[str, Any] = {
        "format": oldest,
        "directions": described,
        "provenance": vectors.provenance,
    }
    if vectors.geometry is not None:
        found = vectors.geometry
        header["cosines"] = {"behaviors": list(found.behaviors), "layers": list(found.layers)}
        tensors |= {f"cosines.{part}": getattr(found, part).float() for part in PARTS}
    metadata = {"steerkit": json.dumps(header, sort_keys=True, separators=(",", ":"))}
    # copies: directions may share norms, which safetensors refuses
    whole = {key: tensor.cpu().contiguous().clone() for key, tensor in tensors.items()}
    return write_bytes_atomic(path, save(whole, metadata=metadata))


def read_vectors(path: str | Path) -> SteeringVectors:
    """Read a vectors file.

    Behaviours that it brings and that are not known yet are declared. Raises
    :class:`ResourceError` for a missing file, :class:`VectorsError` for one that is
    damaged, no vectors file, or of a newer format.
    """
    if not Path(path).is_file():
        raise ResourceError(
            "no such vectors file", where=path, fix="make it with: steerkit extract"
        )
    metadata, tensors = read_safetensors(
        path,
        VectorsError,
        fix="published mean activations become vectors with: steerkit import FILE",
    )
    try:
        header = json.loads(metadata["steerkit"])
        if header["format"] > FORMAT:
            raise VectorsError(
                "written by a newer steerkit",
                expected=f"format {FORMAT} or older",
                found=header["format"],
                where=path,
                fix="update steerkit",
            )
        provenance = dict(header["provenance"])
        directions = {}
        for entry in header["directions"]:
            name = entry["behavior"]
            _check_shapes(name, len(entry["layers"]), tensors, path)
            if all(name != known.name for known in behaviors()):
                declare(Behavior(name, entry["definition"], entry["color"], _free(entry)))
            parts = {p: tensors.get(f"{name}.{p}") for p in CURVES}
            directions[name] = Direction(
                behavior=name,
                tensor=tensors[f"{name}.direction"],
                layers=tuple(entry["layers"]),
                mean_norm=tensors[f"{name}.mean_norm"] if entry.get("calibrated", True) else None,
                norm_of_mean=tensors[f"{name}.norm_of_mean"],
                layer=entry["layer"],
                spans=entry["spans"],
                tasks=entry["tasks"],
                n_layers=entry["n_layers"],
                chosen_by=entry.get("chosen_by", ""),
                fluent=_pair(entry.get("fluent")),
                free=_pair(entry.get("free")),
                **parts,
            )
        geometry = _geometry(header.get("cosines"), tensors, path)
    except (KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, SteerkitError):
            raise
        raise VectorsError(
            "a safetensors file, but not one of steering vectors",
            expected="metadata under the key 'steerkit' as steerkit extract writes it",
            found=f"{type(problem).__name__}: {problem}",
            where=path,
        ) from None
    return SteeringVectors(directions, provenance, geometry)


def _geometry(
    described: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], path: str | Path
) -> Cosines | None:
    """What the file knows of cosines; ``None`` for one made without them."""
    if described is None:
        return None
    behaviors, layers = tuple(described["behaviors"]), tuple(described["layers"])
    shape = (len(layers), len(behaviors), len(behaviors))
    parts = {part: tensors[f"cosines.{part}"] for part in PARTS}
    for part, values in parts.items():
        if values.shape != shape:
            raise VectorsError(
                f"{part} of the cosines has the wrong shape",
                expected="layers by behaviours by behaviours, " + " x ".join(map(str, shape)),
                found=tuple(values.shape),
                where=path,
            )
    return Cosines(behaviors, layers, **parts)


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def _free(entry: Mapping[str, Any]) -> str | None:
    """The short name that a file brings, unless another behaviour has it by now."""
    short: str | None = entry.get("short")
    return None if any(short in (b.name, b.short) for b in behaviors()) else short


def _check_shapes(name: str, layers: int, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    for part, dimensions in (("direction", 2), *((curve, 1) for curve in (*NORMS, *CURVES))):
        found = tensors.get(f"{name}.{part}")
        if found is not None and (found.ndim != dimensions or found.shape[0] != layers):
            raise VectorsError(
                f"{part} of {name!r} has the wrong shape",
                expected=f"{layers} layers" + (" by width" if dimensions == 2 else ""),
                found=tuple(found.shape),
                where=path,
            )
