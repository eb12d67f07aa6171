"""When a term acts: schedules over the steps of a response, and a gate on the projection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from steerkit.errors import SteeringError


@dataclass(frozen=True)
class Ramp:
    """From 1 / ``steps`` at the first step up to 1 at step ``steps``, and 1 from there on."""

    steps: int

    def __post_init__(self) -> None:
        _positive("a ramp", self.steps)

    def __call__(self, step: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """min(1, (step + 1) / steps)."""
        return ((step + 1) / self.steps).clamp(max=1.0)

    def to_json(self) -> dict[str, int]:
        """What is recorded with a chain."""
        return {"ramp": self.steps}


@dataclass(frozen=True)
class Decay:
    """1 at the first step, half of that after every ``half_life`` steps: 2^(-step / half_life)."""

    half_life: float

    def __post_init__(self) -> None:
        _positive("a half-life", self.half_life)

    def __call__(self, step: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """2^(-step / half_life)."""
        return 0.5 ** (step / self.half_life)

    def to_json(self) -> dict[str, float]:
        """What is recorded with a chain."""
        return {"decay": self.half_life}


Schedule = Ramp | Decay | Callable[[Tensor], Tensor | float] | None
"""From steps of the response, int64 ``[row, position]``, to finite factors of the same shape, or
one number for all. Positions of the prompt count as the first step."""
_SCHEDULES = "Ramp(steps), Decay(half_life), a function of the steps, or None"


@dataclass(frozen=True)
class Gate:
    """Edit only where the projection at the current token is in a range.

    The projection is h . u / n at the hooked layer, u the unit vector of the term's own direction
    (or of ``direction``) and n the length of the term's unit, as
    :meth:`~steerkit.models.ThinkingModel.read` gives it. h is the residual stream as it reaches
    the hook, before any edit at this layer.

    Attributes
    ----------
    above, below:
        Bounds, in units; at least one of them, finite, ``above`` less than ``below``.
    direction:
        Another :class:`~steerkit.direction.Direction` to be asked, e.g. that of uncertainty for
        a term of backtracking.

    Raises :class:`SteeringError` for bounds between which nothing lies.
    """

    above: float | None = None
    below: float | None = None
    direction: Any = None

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise SteeringError("a gate needs a bound", expected="above=..., below=..., or both")
        for name in ("above", "below"):
            value = getattr(self, name)
            if value is not None:
                if not _is_number(value) or not math.isfinite(value):
                    raise SteeringError(
                        f"{name!r} of a gate is no bound", expected="a finite number", found=value
                    )
                object.__setattr__(self, name, float(value))
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise SteeringError(
                "a gate that lets nothing pass",
                expected="above less than below",
                found=f"above={self.above:g}, below={self.below:g}",
            )
        from steerkit.direction import Direction

        if self.direction is not None and not isinstance(self.direction, Direction):
            raise SteeringError(
                "a gate asks a direction",
                expected='a Direction such as vectors["uncertainty"]',
                found=repr(self.direction),
            )

    def __call__(self, projection: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Whether each projection lets the edit pass, bool of the same shape."""
        passes = torch.ones_like(projection, dtype=torch.bool)
        if self.above is not None:
            passes = passes & (projection > self.above)
        return passes if self.below is None else passes & (projection < self.below)

    def to_json(self) -> dict[str, Any]:
        """What is recorded with a chain."""
        found: dict[str, Any] = {"above": self.above, "below": self.below}
        if self.direction is not None:
            found |= {"behavior": self.direction.behavior, "direction": self.direction.digest}
        return {name: value for name, value in found.items() if value is not None}


def check_schedule(schedule: object) -> None:
    """Refuse what is no schedule with :class:`SteeringError`."""
    if schedule is not None and not callable(schedule):
        raise SteeringError("this is no schedule", expected=_SCHEDULES, found=repr(schedule))


def check_gate(gate: object) -> None:
    """Refuse what is no gate with :class:`SteeringError`."""
    if gate is not None and not isinstance(gate, Gate):
        raise SteeringError(
            "this is no gate", expected="Gate(above=..., below=...), or None", found=repr(gate)
        )


def factors(
    schedule: Callable[[Tensor], Tensor | float], step: Int64[Tensor, "row position"], name: str
) -> Float[Tensor, "row position"]:
    """What a schedule gives for these steps, float32.

    Raises :class:`SteeringError`, which calls the schedule that of ``name``, for what is neither
    a number nor a tensor of the shape of ``step``, and for what is not finite.
    """
    found: object = schedule(step)
    if _is_number(found):
        made = torch.full(step.shape, float(found), dtype=torch.float32)  # type: ignore[arg-type]
    elif isinstance(found, Tensor) and not found.is_complex() and found.shape in ((), step.shape):
        made = found.detach().to(step.device, torch.float32).expand(step.shape)
    else:
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise SteeringError(
            f"the schedule of {name!r} gives no factors",
            expected=f"a number, or a tensor of the shape of the steps, {tuple(step.shape)}",
            found=type(found).__name__ + shape,
        )
    wrong = ~made.isfinite()
    if bool(wrong.any()):
        raise SteeringError(
            f"the schedule of {name!r} is not finite",
            expected="finite factors",
            found=float(made[wrong][0]),
            where=f"step {int(step[wrong][0])}",
        )
    return made


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _positive(what: str, value: object) -> None:
    if not _is_number(value) or not value > 0:  # type: ignore[operator]
        raise SteeringError(f"{what} is out of range", expected="more than 0", found=repr(value))
