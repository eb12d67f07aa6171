"""Cosines between directions as a matrix by layer: a value, what is known of it, a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerkit.errors import VectorsError
from steerkit.layers import Layers, layer_numbers

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.direction import Direction

PARTS = ("cosine", "corrected", "low", "high")
"""The tensors of :class:`Cosines`; all but the first need the chains."""


@dataclass(frozen=True, eq=False)
class Cosines:
    """Cosines between the directions of behaviours, by layer.

    Attributes
    ----------
    behaviors, layers:
        Names and model layers, in the order of the tensors' axes.
    cosine:
        Of the directions as they are.
    corrected:
        Estimate of the cosine that directions from endless data would have: freed of the
        sampling noise in both. NaN where the directions are too noisy for one.
    low, high:
        Ends of its interval; -1 and 1 where the data say nothing, NaN where no interval is
        known.
    """

    behaviors: tuple[str, ...]
    layers: tuple[int, ...]
    cosine: Float[Tensor, "layer behavior behavior"]
    corrected: Float[Tensor, "layer behavior behavior"]
    low: Float[Tensor, "layer behavior behavior"]
    high: Float[Tensor, "layer behavior behavior"]

    def table(self, layers: Layers | None = None) -> pd.DataFrame:
        """One row for every layer and ordered pair of behaviours, each with itself included.

        Columns ``behavior_a``, ``behavior_b``, ``layer``, ``cosine``, ``corrected``, ``low``,
        ``high``. ``layers`` is one layer or several, all by default; :class:`VectorsError` for
        one that is not there.
        """
        import pandas as pd

        asked = self.layers if layers is None else layer_numbers(layers, VectorsError)
        for layer in asked:
            if layer not in self.layers:
                raise VectorsError(
                    f"no cosines at layer {layer}",
                    expected="one of layers " + ", ".join(map(str, self.layers)),
                )
        parts = [getattr(self, part).tolist() for part in PARTS]
        rows = []
        for layer in asked:
            k = self.layers.index(layer)
            for i, left in enumerate(self.behaviors):
                for j, right in enumerate(self.behaviors):
                    rows.append((left, right, layer, *(part[k][i][j] for part in parts)))
        return pd.DataFrame(rows, columns=["behavior_a", "behavior_b", "layer", *PARTS])

    def subset(self, behaviors: Iterable[str]) -> Cosines:
        """Those of these behaviours, in this order; names that are not here are left out."""
        names = tuple(name for name in behaviors if name in self.behaviors)
        at = torch.tensor([self.behaviors.index(name) for name in names], dtype=torch.int64)
        parts = {part: getattr(self, part)[:, at][:, :, at] for part in PARTS}
        return replace(self, behaviors=names, **parts)

    def with_intervals_of(self, measured: Cosines) -> Cosines:
        """These cosines, with what ``measured`` knows of the same pairs and layers beside them."""
        theirs = measured.subset(self.behaviors)
        at = torch.tensor([i for i, n in enumerate(self.behaviors) if n in theirs.behaviors])
        parts = {part: getattr(self, part).clone() for part in PARTS[1:]}
        for i, layer in enumerate(self.layers):
            if layer in theirs.layers and theirs.behaviors:
                row = theirs.layers.index(layer)
                for part, values in parts.items():
                    values[i, at[:, None], at] = getattr(theirs, part)[row].to(values.dtype)
        return replace(self, **parts)


def between(directions: Mapping[str, Direction]) -> Cosines:
    """Cosines of directions as they are, at the layers that all of them have; no intervals.

    A direction of length zero has the cosine NaN with every other.
    """
    names = tuple(directions)
    layers = shared_layers(directions)
    stacked = torch.stack(
        [torch.stack([directions[n].tensor[directions[n].row(k)] for n in names]) for k in layers]
    ).double()
    cosine = normalised(stacked @ stacked.transpose(-1, -2))
    unknown = torch.full_like(cosine, torch.nan)
    return Cosines(names, layers, cosine, *(unknown.clone() for _ in PARTS[1:]))


def normalised(
    gram: Float64[Tensor, "layer behavior behavior"],
) -> Float64[Tensor, "layer behavior behavior"]:
    """Cosines from products; those of a vector of length zero are NaN."""
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    cosine = gram / (lengths[..., :, None] * lengths[..., None, :])
    same = torch.eye(gram.shape[-1], dtype=torch.bool) & cosine.isfinite()
    return torch.where(same, 1.0, cosine.clamp(-1.0, 1.0))


def shared_layers(directions: Mapping[str, Direction]) -> tuple[int, ...]:
    """Layers that all directions have, ascending; :class:`VectorsError` where there is none."""
    listed = [set(direction.layers) for direction in directions.values()]
    shared = sorted(set.intersection(*listed)) if listed else []
    if not shared:
        raise VectorsError("no layer that all directions have", found=f"{len(listed)} directions")
    return tuple(shared)


def middle_layer(directions: Mapping[str, Direction]) -> int:
    """A layer to look at all directions at: the middle one of those suggested for them.

    The lower of two; where none is suggested, or the directions do not share it, the middle
    of the layers that all of them have.
    """
    shared = shared_layers(directions)
    suggested = sorted(d.layer for d in directions.values() if d.layer is not None)
    if suggested and suggested[(len(suggested) - 1) // 2] in shared:
        return suggested[(len(suggested) - 1) // 2]
    return shared[len(shared) // 2]
