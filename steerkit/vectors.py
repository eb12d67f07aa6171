"""Direction and SteeringVectors: what is extracted, and the file that keeps it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.behaviors import behaviors
from steerkit.errors import (
    BehaviorError,
    SteeringError,
    VectorsError,
)
from steerkit.layers import Layer, Layers, layer_numbers
from steerkit.terms import Term, Terms, as_terms, layer_ranges, number

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.cosine_matrix import Cosines
    from steerkit.models import ThinkingModel
    from steerkit.streaming import Progress, TooLong
    from steerkit.traces import Trace

_T = TypeVar("_T")
Unit = Literal["norm", "paper", "raw", "one"]
UNITS: tuple[Unit, ...] = get_args(Unit)
NORMS = ("mean_norm", "norm_of_mean")
CURVES = (
    "split_half",
    "split_half_shuffled",
    "auroc",
    "cone",
    "norm_low",
    "norm_high",
    "mean_projection",
)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Direction:
    """One behaviour's direction at every layer that was read.

    Attributes
    ----------
    behavior:
        Its name.
    tensor:
        Raw difference, float32; row i belongs to model layer ``layers[i]``.
    mean_norm, norm_of_mean:
        E||h|| and ||E h|| of each layer over thinking positions. The first is ``None`` for a
        direction that is not calibrated (:func:`steerkit.published.read_published`).
    layer:
        The suggested layer, or ``None``.
    spans, tasks:
        What the direction was extracted from; ``tasks`` is ``None`` where nobody wrote it down.
    split_half, split_half_shuffled:
        Mean cosine between directions of two halves of the tasks, and the same for labels
        shuffled within chains.
    auroc:
        Area under the ROC curve of the projection at the token before a span.
    cone:
        Angle in degrees that holds 95 % of bootstrap replicates.
    norm_low, norm_high:
        95 % interval of the length of the difference of means
        (:func:`steerkit.reliability.norm_interval`).
    mean_projection:
        E h . u over thinking positions, u the unit vector: where ``center`` sets h . u.
    n_layers:
        Decoder layers of the model.
    chosen_by:
        The score by which ``layer`` was chosen (:mod:`steerkit.layer_choice`).
    fluent, free:
        Coefficients at ``layer`` between which text stays whole, and accuracy as well
        (:func:`steerkit.ranges.find_ranges`), where they were measured.
    """

    behavior: str
    tensor: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    mean_norm: Float[Tensor, " layer"] | None
    norm_of_mean: Float[Tensor, " layer"]
    layer: int | None
    spans: int
    tasks: int | None
    n_layers: int
    split_half: Float[Tensor, " layer"] | None = None
    split_half_shuffled: Float[Tensor, " layer"] | None = None
    auroc: Float[Tensor, " layer"] | None = None
    cone: Float[Tensor, " layer"] | None = None
    norm_low: Float[Tensor, " layer"] | None = None
    norm_high: Float[Tensor, " layer"] | None = None
    mean_projection: Float[Tensor, " layer"] | None = None
    chosen_by: str = ""
    fluent: tuple[float, float] | None = None
    free: tuple[float, float] | None = None

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.tensor.shape[1]

    @property
    def weakness(self) -> str:
        """Why not to trust it yet (:func:`steerkit.reliability.weakness`); empty if it can be."""
        from steerkit.reliability import weakness

        return weakness(self)

    @property
    def calibrated(self) -> bool:
        """Whether the mean norm E||h|| is known, and with it the unit ``norm``."""
        return self.mean_norm is not None

    @property
    def default_unit(self) -> Unit:
        """The unit of a coefficient that names none: ``norm``, or ``paper`` until calibrated."""
        return "norm" if self.calibrated else "paper"

    @cached_property
    def digest(self) -> str:
        """First 12 digits of the SHA-256 of layers and tensor: which direction this is."""
        content = self.tensor.contiguous().cpu().float().numpy().tobytes()
        return hashlib.sha256(repr(self.layers).encode() + content).hexdigest()[:12]

    def row(self, layer: Layer) -> int:
        """Row of a model layer; :class:`SteeringError` names those there are."""
        (number,) = layer_numbers([layer], SteeringError)
        if number not in self.layers:
            raise SteeringError(
                f"no direction of {self.behavior!r} at layer {number}",
                expected="one of layers " + layer_ranges(self.layers),
            )
        return self.layers.index(number)

    def vector(self, layer: Layer, unit: Unit | None = None) -> Float[Tensor, " d_model"]:
        """What a coefficient of 1 adds at ``layer``.

        With u the unit vector of the raw difference d: ``norm`` is E||h|| u, ``paper`` is
        ||E h|| u (Venhoff et al. 2025, arXiv 2506.18167), ``raw`` is d, ``one`` is u; ``None``
        is :attr:`default_unit`. Raises :class:`SteeringError` for a direction whose length is
        zero or not finite, and for ``norm`` where the direction is not calibrated.
        """
        raw = self.tensor[self.row(layer)]
        if unit == "raw":
            return raw
        return self.unit_vector(layer) * self.unit_length(layer, unit)

    def unit_vector(self, layer: Layer) -> Float[Tensor, " d_model"]:
        """u: the raw difference at length 1; :class:`SteeringError` where it has none."""
        raw = self.tensor[self.row(layer)]
        length = raw.norm()
        if not math.isfinite(float(length)):
            raise SteeringError(
                f"the direction of {self.behavior!r} is not finite at layer {layer}"
            )
        if float(length) == 0.0:
            raise SteeringError(f"the direction of {self.behavior!r} is zero at layer {layer}")
        return raw / length

    def unit_length(self, layer: Layer, unit: Unit | None = None) -> Float[Tensor, ""]:
        """n: how long a coefficient of 1 is at ``layer``, in units of the residual stream."""
        i, unit = self.row(layer), self.check_unit(unit)
        if unit == "raw":
            return self.tensor[i].norm()
        if unit == "one":
            return torch.ones(())
        length = self.norm_of_mean[i]
        if unit == "norm" and self.mean_norm is not None:  # check_unit saw to the second
            length = self.mean_norm[i]
        if not math.isfinite(float(length)):
            raise SteeringError(
                f"the unit {unit!r} of {self.behavior!r} is not finite at layer {layer}"
            )
        return length

    def check_unit(self, unit: Unit | None) -> Unit:
        """The unit, ``None`` being :attr:`default_unit`; :class:`SteeringError` where this
        direction does not have it."""
        if unit is None:
            return self.default_unit
        if unit not in UNITS:
            raise SteeringError(f"unknown unit {unit!r}", expected="one of " + ", ".join(UNITS))
        if unit == "norm" and not self.calibrated:
            raise SteeringError(
                f"the mean norm of the layers of {self.behavior!r} is not known",
                expected="a unit other than 'norm', or calibrated vectors",
                fix='measure it: vectors.calibrate(model, traces); or use unit="paper"',
            )
        return unit

    def random(self, seed: int) -> Direction:
        """A control: a random direction of the same raw norm at every layer.

        Independent Gaussian vectors (one a layer) scaled to this direction's norms, so that
        the same coefficient pushes as far in every unit. Seed and layer alone say which
        vector it is, whatever other layers are there.
        """
        noise = torch.stack([_noise(seed, layer, self.d_model) for layer in self.layers])
        scaled = noise / noise.norm(dim=1, keepdim=True) * self.tensor.norm(dim=1, keepdim=True)
        return replace(
            self,
            behavior=f"random-{seed}",
            tensor=scaled,
            spans=0,
            tasks=0,
            split_half=None,
            split_half_shuffled=None,
            auroc=None,
            cone=None,
            norm_low=None,
            norm_high=None,
            mean_projection=None,
            chosen_by="",
            fluent=None,
            free=None,
        )

    def at(self, layer: Layers | None = None, **placed: Any) -> Term:
        """A term of coefficient 1 at these layers, places, times: see :meth:`Term.at`."""
        return (1.0 * self).at(layer=layer, **placed)

    def ablate(self, strength: float = 1.0) -> Term:
        """h - strength (h . u) u: at 1 nothing of the direction is left (Arditi et al. 2024,
        arXiv 2406.11717)."""
        return Term(strength, self, operator="ablate")

    def center(self, strength: float = 1.0) -> Term:
        """h + strength (m - h . u) u with m = E h . u over thinking positions: the direction
        says no more than it does on average."""
        return Term(strength, self, operator="center")

    def clamp(self, target: float, strength: float = 1.0) -> Term:
        """h + strength (target n - h . u) u, n the unit's length: the projection is ``target``."""
        return Term(strength, self, operator="clamp", target=target)

    def rotate(self, degrees: float) -> Term:
        """h turned by ``degrees`` toward u (away from it if negative) in the plane of both, its
        length kept, never past u or -u (Vu and Nguyen 2025, arXiv 2510.26243)."""
        return Term(degrees, self, operator="rotate")

    def __mul__(self, coefficient: float) -> Term:
        return Term(number(coefficient), self)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Term:
        return Term(1.0 / number(divisor), self)

    def __neg__(self) -> Term:
        return Term(-1.0, self)

    def __add__(self, other: Direction | Term | Terms) -> Terms:
        return as_terms(self) + other

    def __radd__(self, other: object) -> Terms:  # sum() begins with 0
        return as_terms(other) + as_terms(self)

    def __sub__(self, other: Direction | Term | Terms) -> Terms:
        return as_terms(self) - other

    def __repr__(self) -> str:
        layer = "no layer suggested" if self.layer is None else f"layer {self.layer} suggested"
        of_tasks = "" if self.tasks is None else f" of {self.tasks} tasks"
        return (
            f"Direction({self.behavior!r}, {len(self.layers)} layers of width {self.d_model}, "
            f"{self.spans} spans{of_tasks}, {layer}"
            + ("" if self.calibrated else ", not calibrated")
            + ")"
        )


class SteeringVectors(Mapping[str, Direction]):
    """Directions by behaviour, with where they come from.

    ``vectors["backtracking"]`` is a :class:`Direction`; short names work. In a notebook it
    shows as a table. Made by :func:`steerkit.extract`,
    read by :func:`steerkit.vectors_file.read_vectors`.

    Attributes
    ----------
    provenance:
        Model, tokenizer hash, hashes of chains and tasks, window, contrast, counts of what
        was left out, versions. Holds no paths and no times, so that the same run writes
        the same bytes.
    geometry:
        What extraction knew of the cosines between the directions, or ``None``: see
        :meth:`cosines`.
    """

    def __init__(
        self,
        directions: Mapping[str, Direction],
        provenance: Mapping[str, Any],
        geometry: Cosines | None = None,
    ) -> None:
        self._directions = dict(directions)
        self.provenance = dict(provenance)
        self.geometry = geometry

    def __getitem__(self, name: str) -> Direction:
        for known in behaviors():
            if name == known.short:
                name = known.name
        if name not in self._directions:
            raise BehaviorError(
                f"no direction of {name!r} here",
                expected="one of " + ", ".join(self._directions),
                fix="extract it first, or choose one of these",
            )
        return self._directions[name]

    @overload
    def get(self, name: str, /) -> Direction | None: ...
    @overload
    def get(self, name: str, /, default: Direction | _T) -> Direction | _T: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        """The direction of that name, or ``default`` where there is none."""
        return self[name] if name in self else default  # noqa: SIM401 - this is get

    def __contains__(self, name: object) -> bool:
        return name in self._directions or any(
            name == known.short and known.name in self._directions for known in behaviors()
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._directions)

    def __len__(self) -> int:
        return len(self._directions)

    def __repr__(self) -> str:
        return f"SteeringVectors({', '.join(self)}; model {self.provenance.get('model')})"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + (self.table().style.format(precision=3).to_html() or "")

    def table(self) -> pd.DataFrame:
        """One row a behaviour, its numbers at the suggested layer.

        ``norm`` is the raw difference's length as a share of the layer's mean norm;
        ``split_half`` stands beside the same figure for shuffled labels; ``note`` says why a
        direction should not be trusted yet. Without a suggested layer the numbers are missing,
        and so is ``norm`` where the direction is not calibrated.
        """
        import pandas as pd

        rows = []
        for name, direction in self.items():
            curves = dict.fromkeys(("norm", *CURVES[:3]), float("nan"))
            if direction.layer is not None:
                i = direction.row(direction.layer)
                if direction.mean_norm is not None:
                    curves["norm"] = float(direction.tensor[i].norm() / direction.mean_norm[i])
                for curve in CURVES[:3]:
                    values = getattr(direction, curve)
                    curves[curve] = float("nan") if values is None else float(values[i])
            rows.append(
                {
                    "behavior": name,
                    "spans": direction.spans,
                    "tasks": direction.tasks,
                    **curves,
                    "layer": direction.layer,
                    "note": direction.weakness,
                }
            )
        return pd.DataFrame(rows).astype({"layer": "Int64", "tasks": "Int64"})

    def layers_table(self) -> pd.DataFrame:
        """One row a behaviour and layer: norms and reliability, tidy."""
        import pandas as pd

        rows = []
        for name, direction in self.items():
            for i, layer in enumerate(direction.layers):
                curves = {}
                for curve in CURVES:
                    values = getattr(direction, curve)
                    curves[curve] = float("nan") if values is None else float(values[i])
                rows.append(
                    {
                        "behavior": name,
                        "layer": layer,
                        "norm": float(direction.tensor[i].norm()),
                        "mean_norm": float("nan")
                        if direction.mean_norm is None
                        else float(direction.mean_norm[i]),
                        "norm_of_mean": float(direction.norm_of_mean[i]),
                        **curves,
                    }
                )
        return pd.DataFrame(rows)

    def cosines(self, layers: Layers | None = None) -> pd.DataFrame:
        """Cosines between the directions, one row for every layer and ordered pair, tidy.

        Columns ``behavior_a``, ``behavior_b``, ``layer``; ``cosine`` of the directions as they
        are; ``corrected``, the estimate freed of sampling noise, and ``low``, ``high``, its
        95 % interval: see :func:`steerkit.geometry.cosines`. The last three are missing in
        vectors made without them. A matrix is
        ``table.pivot(index="behavior_a", columns="behavior_b", values="cosine")``.

        ``layers`` is one layer or several, by default all that every direction has. Raises
        :class:`VectorsError` for one that is not there.
        """
        from steerkit.cosine_matrix import between

        found = between(self)
        if self.geometry is not None:
            found = found.with_intervals_of(self.geometry)
        return found.table(layers)

    def subset(self, names: Iterable[str]) -> SteeringVectors:
        """The vectors of these behaviours, in this order; all else stays as it is."""
        chosen = {self[name].behavior: self[name] for name in names}
        geometry = None if self.geometry is None else self.geometry.subset(chosen)
        return SteeringVectors(chosen, self.provenance, geometry)

    def check(self, model: ThinkingModel) -> None:
        """Refuse a model that these vectors do not fit; warn about one they were not made from.

        Directions of a base are used on it with an adapter without a warning: what they move
        there is what the two share. Chains name the model with its adapter, and the direction.

        Raises :class:`VectorsError` for another width or number of layers.
        """
        for direction in self.values():
            found = (direction.d_model, direction.n_layers)
            if found != (model.d_model, model.n_layers):
                raise VectorsError(
                    f"these vectors do not fit the model {model.name}",
                    expected=f"width {model.d_model} and {model.n_layers} layers",
                    found=f"width {found[0]} and {found[1]} layers, "
                    f"of {self.provenance.get('model')}",
                    fix="extract vectors from this model, or load the one they were made from",
                )
        made_from = self.provenance.get("model")
        if made_from not in (None, model.name):
            known = model.adapter is not None and made_from == model.base_name
            level = logging.INFO if known else logging.WARNING
            _logger.log(level, "vectors of %s are used on %s", made_from, model.name)
        elif made_from is not None and model.adapter is not None:
            digest = (self.provenance.get("adapter") or {}).get("digest")
            if digest != model.adapter.digest:
                _logger.warning("vectors of another state of %s are used on it", model.name)

    def calibrate(
        self,
        model: ThinkingModel,
        traces: Iterable[Trace],
        *,
        batch_tokens: int | None = None,
        too_long: TooLong = "refuse",
        progress: Progress | None = None,
    ) -> SteeringVectors:
        """The same directions with the norms of ``model``: see
        :func:`steerkit.calibration.calibrate`."""
        from steerkit.calibration import calibrate

        return calibrate(
            self,
            model,
            traces,
            batch_tokens=batch_tokens,
            too_long=too_long,
            progress=progress,
        )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, atomically; the same vectors give the same bytes."""
        from steerkit.vectors_file import write_vectors

        return write_vectors(self, path)


def _noise(seed: int, layer: int, d_model: int) -> Float[Tensor, " d_model"]:
    """Standard normal numbers that depend on nothing but these three."""
    digest = hashlib.blake2b(f"{seed} {layer}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.randn(d_model, generator=generator)
