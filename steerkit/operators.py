"""Operators: what a term does to hidden states, and the edit of one layer made of many."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.places import Positions, Where, where_mask
from steerkit.schedules import factors
from steerkit.terms import Term


def set_projection(
    hidden: Float[Tensor, "*shape d_model"],
    unit: Float[Tensor, " d_model"],
    target: Float[Tensor, "*shape"] | float,
    strength: Float[Tensor, "*shape"] | float,
) -> Float[Tensor, "*shape d_model"]:
    """h + strength (target - h . u) u: at strength 1 the projection on ``unit`` is ``target``."""
    missing = strength * (target - hidden @ unit)
    return hidden + missing[..., None] * unit


def rotate(
    hidden: Float[Tensor, "*shape d_model"],
    unit: Float[Tensor, " d_model"],
    degrees: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape d_model"]:
    """h turned by ``degrees`` toward ``unit`` in the plane of both, its length kept.

    With a the angle between h and u and w the unit vector of what of h is at right angles to
    u: |h| (cos a' u + sin a' w), a' = a - degrees within 0 and 180. Where h lies along u there is
    no plane, and it stays. Vu and Nguyen 2025 (arXiv 2510.26243).
    """
    along = hidden @ unit
    across = hidden - along[..., None] * unit
    rest = across.norm(dim=-1)
    length = hidden.norm(dim=-1)
    angle = torch.atan2(rest, along)
    turned = (angle - degrees * (torch.pi / 180)).clamp(0.0, torch.pi)
    w = across / rest.clamp_min(1e-30)[..., None]
    result = (length * turned.cos())[..., None] * unit + (length * turned.sin())[..., None] * w
    # along u up to rounding: the direction of what is left is noise
    plane = rest > 1e-6 * length
    return torch.where(plane[..., None], result, hidden)


@dataclass
class _Entry:
    """One way of acting that rows share: a vector, a place and time, and a strength per row."""

    term: Term
    unit: Float[Tensor, " d_model"]
    length: float
    gate: Float[Tensor, " d_model"] | None
    target: float
    strengths: dict[int, float] = field(default_factory=dict)


@dataclass
class LayerEdit:
    """The edit of one layer: what every row's terms do there. Call it as a hook function.

    Attributes
    ----------
    layer:
        The layer whose output it edits.
    rows:
        Rows of the batch.
    """

    layer: int
    rows: int
    _adds: dict[Hashable, _Entry] = field(default_factory=dict)
    _others: list[tuple[Hashable, _Entry]] = field(default_factory=list)
    _after: dict[int, int] = field(default_factory=dict)
    _weights: Tensor | None = None
    _strengths: list[Tensor] = field(default_factory=list)
    _vectors: Tensor | None = None
    _push: Tensor | None = None

    @property
    def terms(self) -> list[Term]:
        """One of every way of acting that rows share."""
        return [entry.term for entry in (*self._adds.values(), *(e for _, e in self._others))]

    def include(self, row: int, term: Term) -> None:
        """Let ``term`` act on ``row``."""
        key = _key(term)
        if term.operator == "add":
            entry = self._adds.setdefault(key, _entry(term, self.layer))
            entry.strengths[row] = entry.strengths.get(row, 0.0) + term.coefficient
            return
        # later than what the row's earlier terms do: their order is the row's own
        first = self._after.get(row, 0)
        for place in range(first, len(self._others)):
            known, entry = self._others[place]
            if known == key:
                break
        else:
            place, entry = len(self._others), _entry(term, self.layer)
            self._others.append((key, entry))
        entry.strengths[row] = term.coefficient
        self._after[row] = place + 1

    def place(self, positions: Positions, masks: dict[Where, Tensor]) -> None:
        """Say what the coming positions are; ``masks`` are those of places met already."""
        entries = list(self._adds.values())
        weights = [self._strength(entry, positions, masks) for entry in entries]
        self._weights = torch.stack(weights, dim=-1) if weights else None
        self._strengths = [self._strength(e, positions, masks) for _, e in self._others]
        if self._vectors is None and entries:
            self._vectors = torch.stack([entry.unit * entry.length for entry in entries])
        self._push = self._sum(entries)

    def _sum(self, entries: list[_Entry]) -> Tensor | None:
        """What is added, where that is known beforehand and no row or position keeps its bits.

        A decoding step is then one addition, whatever there is in a row.
        """
        if self._weights is None or self._others or self._weights.shape[1] != 1:
            return None
        if any(entry.term.gate is not None for entry in entries):
            return None
        if not bool((self._weights != 0).any(dim=-1).all()):
            return None
        assert self._vectors is not None
        return self._weights.to(self._vectors.device) @ self._vectors

    def _strength(
        self, entry: _Entry, positions: Positions, masks: dict[Where, Tensor]
    ) -> Float[Tensor, "row position"]:
        where, schedule = entry.term.where, entry.term.schedule
        if where not in masks:
            masks[where] = where_mask(where, positions)
        column = torch.zeros(self.rows, 1)
        for row, strength in entry.strengths.items():
            column[row, 0] = strength
        found = column * masks[where]
        if schedule is not None:
            name = entry.term.direction.behavior
            found = found * factors(schedule, positions.step.clamp(min=0), name)
        return found

    def __call__(self, hidden: Tensor, hook: Any) -> Tensor | None:
        """The edited hidden states, ``[row, position, d_model]``."""
        placed = self._strengths if self._weights is None else [self._weights, *self._strengths]
        if not placed or placed[0].shape[:2] != hidden.shape[:2]:
            raise SteeringError(
                "the model ran without word of its rows and positions",
                expected=tuple(placed[0].shape[:2]) if placed else "no word",
                found=tuple(hidden.shape[:2]),
                where=f"layer {self.layer}",
                fix="generate with model.generate",
            )
        if self._push is not None:
            if self._push.device != hidden.device:
                self._push = self._push.to(hidden.device)
            return (hidden.float() + self._push).to(hidden.dtype)
        self._move(hidden.device)
        # a user's autocast must not turn the product into half precision
        with torch.autocast(hidden.device.type, enabled=False):
            before = hidden.float()
            now, touched = before, torch.zeros(hidden.shape[:2], dtype=torch.bool)
            touched = touched.to(hidden.device)
            if self._weights is not None:
                weights = self._weights
                for column, entry in enumerate(self._adds.values()):
                    if entry.term.gate is not None:
                        weights = weights.clone()
                        weights[..., column] *= self._passes(entry, before)
                assert self._vectors is not None
                now = before + weights @ self._vectors
                touched = touched | (weights != 0).any(dim=-1)
            for (_, entry), strength in zip(self._others, self._strengths, strict=True):
                if entry.term.gate is not None:
                    strength = strength * self._passes(entry, before)
                acts = strength != 0
                now = torch.where(acts[..., None], _applied(entry, now, strength), now)
                touched = touched | acts
        return torch.where(touched[..., None], now.to(hidden.dtype), hidden)

    def _passes(self, entry: _Entry, before: Tensor) -> Tensor:
        assert entry.term.gate is not None and entry.gate is not None
        return entry.term.gate(before @ entry.gate / entry.length)

    def _move(self, device: torch.device) -> None:
        """Bring what was placed to the device; it stays there until it is placed anew."""
        if self._weights is not None and self._weights.device != device:
            self._weights = self._weights.to(device)
        if self._vectors is not None and self._vectors.device != device:
            self._vectors = self._vectors.to(device)
        if self._strengths and self._strengths[0].device != device:
            self._strengths = [strength.to(device) for strength in self._strengths]
        for entry in (*self._adds.values(), *(entry for _, entry in self._others)):
            if entry.unit.device != device:
                entry.unit = entry.unit.to(device)
            if entry.gate is not None and entry.gate.device != device:
                entry.gate = entry.gate.to(device)


def _entry(term: Term, layer: int) -> _Entry:
    direction, gate = term.direction, None
    if term.gate is not None:
        gate = (term.gate.direction or direction).unit_vector(layer).float()
    length = float(direction.unit_length(layer, term.unit))
    target = 0.0 if term.target is None else term.target * length
    if term.operator == "center":
        if direction.mean_projection is None:
            raise SteeringError(
                f"the mean projection on {direction.behavior!r} is not known",
                expected="vectors that this version of steerkit extracted",
                fix="extract them again, or clamp to a target of your own",
            )
        target = float(direction.mean_projection[direction.row(layer)])
    return _Entry(term, direction.unit_vector(layer).float(), length, gate, target)


def _key(term: Term) -> Hashable:
    """Terms of equal keys act alike but for their strength."""
    return (
        id(term.direction),
        term.operator,
        term.unit,
        term.where,
        term.schedule,
        term.gate,
        term.target,
    )


def _applied(entry: _Entry, hidden: Tensor, strength: Tensor) -> Tensor:
    if entry.term.operator == "rotate":
        return rotate(hidden, entry.unit, strength)
    return set_projection(hidden, entry.unit, entry.target, strength)
