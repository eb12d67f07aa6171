"""Direction: one behaviour's direction at every layer that was read, in its units."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import SteeringError, VectorsError
from steerkit.layers import Layer, Layers, layer_numbers
from steerkit.terms import Term, Terms, as_terms, layer_ranges, number

if TYPE_CHECKING:
    from steerkit.models import ThinkingModel

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
        (:func:`steerkit.lengths.norm_interval`).
    mean_projection:
        E h . u over thinking positions, u the unit vector: where ``center`` sets h . u.
    n_layers:
        Decoder layers of the model.
    chosen_by:
        The score by which ``layer`` was chosen (:mod:`steerkit.layer_choice`).
    fluent, free:
        Coefficients at ``layer``, in :attr:`default_unit`, between which text stays whole, and
        accuracy as well (:func:`steerkit.ranges.find_ranges`), where they were measured.
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

    def check_fit(self, model: ThinkingModel) -> None:
        """Refuse a model of another width or number of layers with :class:`VectorsError`."""
        if (self.d_model, self.n_layers) != (model.d_model, model.n_layers):
            raise VectorsError(
                f"the direction of {self.behavior!r} does not fit the model {model.name}",
                expected=f"width {model.d_model} and {model.n_layers} layers",
                found=f"width {self.d_model} and {self.n_layers} layers",
                fix="extract vectors from this model, or load the one they were made from",
            )

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
        return replace(self.with_tensor(scaled), behavior=f"random-{seed}", spans=0, tasks=0)

    def with_tensor(
        self,
        tensor: Float[Tensor, "layer d_model"],
        mean_projection: Float[Tensor, " layer"] | None = None,
    ) -> Direction:
        """The same behaviour and units with another tensor; what was measured of this one's
        tensor is left out."""
        measured: dict[str, Any] = dict.fromkeys((*CURVES, "fluent", "free"))
        return replace(
            self,
            tensor=tensor,
            chosen_by="",
            **{**measured, "mean_projection": mean_projection},
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


def _noise(seed: int, layer: int, d_model: int) -> Float[Tensor, " d_model"]:
    """Standard normal numbers that depend on nothing but these three."""
    digest = hashlib.blake2b(f"{seed} {layer}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.randn(d_model, generator=generator)
