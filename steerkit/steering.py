"""Steering: edits of the residual stream, row by row and position by position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from steerkit.errors import SteeringError, VectorsError
from steerkit.positions import Where, where_mask
from steerkit.vectors import Direction, Term, Terms, as_terms

if TYPE_CHECKING:
    from steerkit.models import ThinkingModel

Steering = Term | Terms | Direction | Sequence[Term | Terms | Direction | None] | None
"""What ``generate`` takes: one for all rows, or one per prompt."""


@dataclass
class _LayerEdit:
    """U [vector, d_model] and C [row, vector] of one layer, and the place of every vector."""

    vectors: Float[Tensor, "vector d_model"]
    coefficients: Float[Tensor, "row vector"]
    wheres: tuple[Where, ...]
    weights: Float[Tensor, "row position vector"] | None = None


class RowSteering:
    """Terms per row of one batch, compiled to edits per layer.

    At every hooked layer h += (C * mask) U with U [vector, d_model], C [row, vector] and a
    mask over [row, position, vector]; computed in float32 and cast back. A row or position
    whose weights are all zero keeps its bits. Terms of coefficient 0 are dropped, and a
    layer without terms has no hook.

    Parameters
    ----------
    model:
        The model to be steered.
    rows:
        Terms of every row.

    Raises :class:`SteeringError` for a layer that does not exist or was never chosen,
    :class:`VectorsError` for directions of another width or number of layers.
    """

    def __init__(self, model: ThinkingModel, rows: Sequence[Terms]) -> None:
        self._model = model
        self._edits: dict[int, _LayerEdit] = {}
        entries: dict[int, dict[tuple[int, str, Where], dict[int, float]]] = {}
        vectors: dict[tuple[int, int, str, Where], Tensor] = {}
        for row, terms in enumerate(rows):
            for term in terms:
                _check_fit(model, term.direction)
                for layer in term.resolved_layers():
                    if term.coefficient == 0.0:
                        continue
                    key = (id(term.direction), term.unit, term.where)
                    row_coefficients = entries.setdefault(layer, {}).setdefault(key, {})
                    before = row_coefficients.get(row, 0.0)
                    row_coefficients[row] = before + term.coefficient
                    if (layer, *key) not in vectors:
                        vectors[(layer, *key)] = term.direction.vector(layer, term.unit)
        for layer, keyed in sorted(entries.items()):
            coefficients = torch.zeros(len(rows), len(keyed))
            for column, row_coefficients in enumerate(keyed.values()):
                for row, coefficient in row_coefficients.items():
                    coefficients[row, column] = coefficient
            self._edits[layer] = _LayerEdit(
                vectors=torch.stack([vectors[(layer, *key)].float() for key in keyed]),
                coefficients=coefficients,
                wheres=tuple(where for _, _, where in keyed),
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that are hooked."""
        return tuple(self._edits)

    def place(
        self, phase: Int8[Tensor, "row position"], generated: Bool[Tensor, "row position"]
    ) -> None:
        """Say what the positions of the coming forward pass are.

        Parameters
        ----------
        phase:
            Phase codes (:mod:`steerkit.positions`), ``PAD`` for padding.
        generated:
            Whether a position predicts a generated token.
        """
        masks: dict[Where, Tensor] = {}
        for edit in self._edits.values():
            for where in edit.wheres:
                if where not in masks:
                    masks[where] = where_mask(where, phase, generated)
            mask = torch.stack([masks[where] for where in edit.wheres], dim=-1)
            coefficients = edit.coefficients.to(mask.device)
            edit.weights = coefficients[:, None, :] * mask

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows only, in this order."""
        for edit in self._edits.values():
            edit.coefficients = edit.coefficients[rows.cpu()]
            edit.weights = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within it the model's layers are edited; afterwards nothing is left behind."""
        with ExitStack() as stack:
            for layer, edit in self._edits.items():
                stack.enter_context(self._model.residual.hooked(layer, _editor(layer, edit)))
            yield


def _editor(layer: int, edit: _LayerEdit) -> Callable[..., Tensor | None]:
    def apply(hidden: Tensor, hook: Any) -> Tensor | None:
        weights = edit.weights
        if weights is None or weights.shape[:2] != hidden.shape[:2]:
            raise SteeringError(
                "the model ran without word of its rows and positions",
                expected="no word" if weights is None else tuple(weights.shape[:2]),
                found=tuple(hidden.shape[:2]),
                where=f"layer {layer}",
                fix="generate with model.generate",
            )
        if weights.device != hidden.device:
            weights = weights.to(hidden.device)
        if edit.vectors.device != hidden.device:
            edit.vectors = edit.vectors.to(hidden.device)
        touched = (weights != 0).any(dim=-1, keepdim=True)
        # a user's autocast must not turn the product into half precision
        with torch.autocast(hidden.device.type, enabled=False):
            edited = (hidden.float() + weights @ edit.vectors).to(hidden.dtype)
        return torch.where(touched, edited, hidden)

    return apply


def _check_fit(model: ThinkingModel, direction: Direction) -> None:
    if (direction.d_model, direction.n_layers) != (model.d_model, model.n_layers):
        raise VectorsError(
            f"the direction of {direction.behavior!r} does not fit the model {model.name}",
            expected=f"width {model.d_model} and {model.n_layers} layers",
            found=f"width {direction.d_model} and {direction.n_layers} layers",
            fix="extract vectors from this model, or load the one they were made from",
        )


def rows_of(steer: Steering, prompts: int) -> list[Terms]:
    """Terms of every prompt from one for all or a list; :class:`SteeringError` on a misfit."""
    if isinstance(steer, Sequence) and not isinstance(steer, Terms):
        if len(steer) != prompts:
            raise SteeringError(
                "the list of terms does not match the prompts",
                expected=f"{prompts} entries, one per prompt",
                found=len(steer),
                fix="repeat the prompt for every entry, or pass one set of terms",
            )
        return [as_terms(entry) for entry in steer]
    return [as_terms(steer)] * prompts


@contextmanager
def steer(model: ThinkingModel, *terms: Term | Terms | Direction) -> Iterator[None]:
    """Within it ``model.generate`` is steered by ``terms`` unless it is told otherwise.

    The inner of nested contexts takes the place of the outer. Running ``model.hf`` by
    other ways raises :class:`SteeringError` here, since it would ignore the terms.
    """
    total = Terms()
    for term in terms:
        total = total + as_terms(term)
    RowSteering(model, [total])  # refuses what cannot be applied before anything runs

    def guard(*_: Any) -> None:
        if not model.generating:
            raise SteeringError(
                "the model ran inside model.steer(...) by another way than model.generate",
                fix="use model.generate here, or leave the context",
            )

    before = model.steering
    model.steering = total
    handle = model.hf.register_forward_pre_hook(guard)
    try:
        yield
    finally:
        handle.remove()
        model.steering = before
