"""When a term acts: schedules over the steps of a response, and a gate on the projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


Schedule = Ramp | Decay | Callable[[Tensor], Tensor] | None
"""From steps of the response, int64 ``[row, position]``, to factors of the same shape. Positions
of the prompt count as the first step."""


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
        Bounds, in units; at least one of them.
    direction:
        Another direction to be asked, e.g. uncertainty for a term of backtracking.
    """

    above: float | None = None
    below: float | None = None
    direction: Any = None

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise SteeringError("a gate needs a bound", expected="above=..., below=..., or both")

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
        raise SteeringError(
            "this is no schedule",
            expected="Ramp(steps), Decay(half_life), a function of the steps, or None",
            found=repr(schedule),
        )


def _positive(what: str, value: float) -> None:
    if not value > 0:
        raise SteeringError(f"{what} is out of range", expected="more than 0", found=value)
