"""Term and Terms: a number times a direction, where and when it is applied, and sums of such."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

from steerkit.errors import SteeringError
from steerkit.layers import Layers, layer_numbers
from steerkit.places import Where, check_where, where_json
from steerkit.schedules import Gate, Schedule, check_gate, check_schedule

if TYPE_CHECKING:
    from steerkit.direction import Direction, Unit

Operator = Literal["add", "ablate", "center", "clamp", "rotate"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)


@dataclass(frozen=True, eq=False)
class Term:
    """A number times a Direction: what is done to the residual stream, where and when.

    With u the unit vector of the direction at a layer and n the length of the term's unit:

    ========  ==================================================================
    add       h + c n u
    ablate    h + c (0 - h . u) u
    center    h + c (m - h . u) u, m the direction's mean projection
    clamp     h + c (target n - h . u) u
    rotate    h turned by c degrees toward u, its length kept, never past u or -u
    ========  ==================================================================

    The edit is computed in float32 and cast back. Of several terms at one layer the adds are
    summed, then the others follow in the order in which they stand.

    Attributes
    ----------
    coefficient:
        c; for ``add`` in units of each layer, for ``rotate`` in degrees, else a strength of
        which 1 is all. 0 does nothing at all.
    layers:
        Model layers whose output is edited; ``None`` is the direction's suggested layer.
    operator:
        One of the five; :class:`~steerkit.vectors.Direction` has a method for each.
    where:
        ``all``, ``prompt``, ``generated``, ``think``, ``answer``, ``sentences``, a window of
        :class:`~steerkit.places.Steps` or a :class:`~steerkit.places.Mask`.
    unit:
        ``norm``, ``paper``, ``raw`` or ``one`` (:meth:`Direction.vector`); by default ``norm``,
        and ``paper`` for a direction that is not calibrated.
    schedule:
        A factor of the coefficient over the steps of the response: ``None`` for 1,
        :class:`~steerkit.schedules.Ramp`, :class:`~steerkit.schedules.Decay`, or a function from
        steps, ``[row, position]``, to factors of that shape or to one number.
    gate:
        Edit only where the projection at the current token is in a range.
    target:
        Of ``clamp``, in units.
    """

    coefficient: float
    direction: Direction
    layers: tuple[int, ...] | None = None
    operator: Operator = "add"
    where: Where = "all"
    unit: Unit | None = None
    schedule: Schedule = None
    gate: Gate | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        for what, value in (("coefficient", self.coefficient), ("target", self.target or 0.0)):
            if not math.isfinite(number(value)):
                raise SteeringError(
                    f"the {what} of {self.direction.behavior!r} is not finite", found=value
                )
        object.__setattr__(self, "unit", self.direction.check_unit(self.unit))
        if self.operator not in OPERATORS:
            raise SteeringError(
                f"unknown operator {self.operator!r}", expected="one of " + ", ".join(OPERATORS)
            )
        if (self.target is None) == (self.operator == "clamp"):
            raise SteeringError(
                "only a clamp has a target", found=f"{self.operator}, target {self.target}"
            )
        check_where(self.where)
        check_schedule(self.schedule)
        check_gate(self.gate)
        if self.layers is not None:
            # a layer named twice is one layer
            object.__setattr__(self, "layers", layer_numbers(self.layers, SteeringError))
            for layer in self.layers:
                self.direction.row(layer)

    def resolved_layers(self) -> tuple[int, ...]:
        """The layers that are edited; :class:`SteeringError` when none was chosen."""
        if self.layers is not None:
            return self.layers
        if self.direction.layer is None:
            raise SteeringError(
                f"no layer was chosen for {self.direction.behavior!r}",
                expected="one of layers " + layer_ranges(self.direction.layers),
                fix="name one: direction.at(layer=...), or name=coefficient@layer",
            )
        return (self.direction.layer,)

    def at(
        self,
        layer: Layers | None = None,
        where: Where | None = None,
        unit: Unit | None = None,
        schedule: Schedule = None,
        gate: Gate | None = None,
    ) -> Term:
        """The same term at other layers, places or times; what is ``None`` stays."""
        return replace(
            self,
            layers=self.layers if layer is None else layer_numbers(layer, SteeringError),
            where=self.where if where is None else where,
            unit=unit or self.unit,
            schedule=self.schedule if schedule is None else schedule,
            gate=gate or self.gate,
        )

    def to_json(self) -> dict[str, Any]:
        """What is recorded with a steered chain; what is as usual is left out."""
        found: dict[str, Any] = {
            "behavior": self.direction.behavior,
            "direction": self.direction.digest,
            "coefficient": self.coefficient,
            "layers": list(self.resolved_layers()),
            "operator": self.operator,
            "where": where_json(self.where),
            "unit": self.unit,
        }
        if self.target is not None:
            found["target"] = self.target
        if self.gate is not None:
            found["gate"] = self.gate.to_json()
        if self.schedule is not None:
            known = getattr(self.schedule, "to_json", None)
            name = getattr(self.schedule, "__qualname__", type(self.schedule).__name__)
            found["schedule"] = known() if known is not None else f"function {name}"
        return found

    def __mul__(self, factor: float) -> Term:
        return replace(self, coefficient=self.coefficient * number(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Term:
        return replace(self, coefficient=self.coefficient / number(divisor))

    def __neg__(self) -> Term:
        return replace(self, coefficient=-self.coefficient)

    def __add__(self, other: Direction | Term | Terms) -> Terms:
        return as_terms(self) + other

    def __radd__(self, other: object) -> Terms:  # sum() begins with 0
        return as_terms(other) + as_terms(self)

    def __sub__(self, other: Direction | Term | Terms) -> Terms:
        return as_terms(self) - other

    def __repr__(self) -> str:
        layers = "" if self.layers is None else "@" + layer_ranges(self.layers)
        name = f"{self.coefficient:g} * {self.direction.behavior}{layers}"
        return name if self.operator == "add" else f"{self.operator}({name})"


class Terms(tuple[Term, ...]):
    """A sum of terms. Every term keeps its own scale; sums are never renormalised."""

    __slots__ = ()
    __array_ufunc__ = None  # numpy.float64(0.3) * terms is ours to answer, not an array

    def orthogonal(self) -> Terms:
        """The same terms with directions at right angles to each other, at every layer.

        Each loses what it shares with those before it (Gram and Schmidt, in the order in which
        the terms stand: put first what must not change). It keeps its coefficient, its unit and
        the length of its tensor, so that it pushes as far in every unit. Its mean projection is
        worked out anew, for ``center``; what else was measured of the old direction, such as its
        AUROC and its fluent range, is left out. Directions that several terms share count once.

        Raises :class:`SteeringError` where nothing is left, and for a ``center`` beside a
        direction whose mean projection is not known.
        """
        made: dict[int, Direction] = {}
        for term in self:
            if id(term.direction) not in made:
                made[id(term.direction)] = _apart(term.direction, list(made.values()))
            new = made[id(term.direction)]
            known = term.direction.mean_projection is not None
            if term.operator == "center" and known and new.mean_projection is None:
                before = (d for d in made.values() if d is not new and d.mean_projection is None)
                raise SteeringError(
                    f"the mean projection on what is left of {new.behavior!r} is not known",
                    found="none of " + ", ".join(repr(d.behavior) for d in before),
                    fix="put the centered term first, or clamp to a target of your own",
                )
        return Terms(replace(term, direction=made[id(term.direction)]) for term in self)

    def __add__(self, other: object) -> Terms:  # type: ignore[override]
        return Terms((*self, *as_terms(other)))

    def __radd__(self, other: object) -> Terms:
        return as_terms(other) + self

    def __sub__(self, other: object) -> Terms:
        return self + -as_terms(other)

    def __mul__(self, factor: float) -> Terms:  # type: ignore[override]
        return Terms(term * factor for term in self)

    __rmul__ = __mul__  # type: ignore[assignment]

    def __truediv__(self, divisor: float) -> Terms:
        return Terms(term / divisor for term in self)

    def __neg__(self) -> Terms:
        return Terms(-term for term in self)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self)) or "no terms"


def _apart(direction: Direction, others: Iterable[Direction]) -> Direction:
    """The direction without what it shares with ``others``, which share nothing; as long as it
    was."""
    shared = [other for other in others if set(other.layers) & set(direction.layers)]
    if not shared:
        return direction
    lengths = direction.tensor.double().norm(dim=1)
    tensor = direction.tensor.double()
    # E h . d is linear in d: it loses what the vector loses
    mean = None if direction.mean_projection is None else direction.mean_projection * lengths
    for other in shared:
        means = other.mean_projection
        for layer in set(other.layers) & set(direction.layers):
            row, u = direction.row(layer), other.unit_vector(layer).double()
            along = tensor[row] @ u
            tensor[row] -= along * u
            if mean is not None and means is not None:
                mean[row] -= along * means[other.row(layer)]
        mean = None if means is None else mean
    left = tensor.norm(dim=1).clamp_min(1e-300)
    if bool((left < 1e-4 * lengths).any()):
        raise SteeringError(
            f"nothing of {direction.behavior!r} is left beside the directions before it",
            fix="leave the term out, or put it first",
        )
    scale = (lengths / left)[:, None]
    return direction.with_tensor(
        (tensor * scale).float(), mean_projection=None if mean is None else (mean / left).float()
    )


def as_terms(steering: object) -> Terms:
    """Terms from a Direction, a Term, several, or nothing (``None`` or 0)."""
    if isinstance(steering, Terms):
        return steering
    if isinstance(steering, Term):
        return Terms((steering,))
    if steering is None or (isinstance(steering, int | float) and steering == 0):
        return Terms()
    from steerkit.direction import Direction

    if isinstance(steering, Direction):
        return Terms((1.0 * steering,))
    raise SteeringError(
        "this cannot steer",
        expected='a term such as 0.3 * vectors["backtracking"], a sum of them, or None',
        found=type(steering).__name__,
    )


def number(value: object) -> float:
    """A coefficient; :class:`SteeringError` for what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SteeringError("a coefficient is a number", found=type(value).__name__)
    return float(value)


def layer_ranges(layers: Iterable[int]) -> str:
    """Layers as one reads them: ``0 to 27``, or ``3, 5``."""
    ordered = sorted(layers)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))
