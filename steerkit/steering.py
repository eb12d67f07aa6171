"""Steering: edits of the residual stream, row by row and position by position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steerkit.direction import Direction
from steerkit.errors import SteeringError
from steerkit.operators import LayerEdit
from steerkit.places import Mask, Positions, Steps, Where
from steerkit.terms import Term, Terms, as_terms

if TYPE_CHECKING:
    from steerkit.models import ThinkingModel

Steering = Term | Terms | Direction | Sequence[Term | Terms | Direction | None] | None
"""What ``generate`` takes: one for all rows, or one per prompt."""


class RowSteering:
    """Terms per row of one batch, compiled to edits per layer.

    At every hooked layer first h += (C * mask) U with U [vector, d_model], C [row, vector] and a
    mask over [row, position, vector], for all terms that add; then the other operators, one
    after another in the order of the rows' terms. Computed in float32 and cast back. A row or
    position whose weights are all zero keeps its bits. Terms of coefficient 0 are dropped, and
    a layer without terms has no hook.

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
        self._edits: dict[int, LayerEdit] = {}
        self._last: Positions | None = None
        for row, terms in enumerate(rows):
            for term in terms:
                term.direction.check_fit(model)
                if term.gate is not None and term.gate.direction is not None:
                    term.gate.direction.check_fit(model)
                for layer in term.resolved_layers():
                    if term.coefficient != 0.0:
                        edit = self._edits.setdefault(layer, LayerEdit(layer, len(rows)))
                        edit.include(row, term)
        self._edits = dict(sorted(self._edits.items()))
        edited = [term for edit in self._edits.values() for term in edit.terms]
        self._by_sentence = any(term.where == "sentences" for term in edited)
        self._by_step = any(
            term.schedule is not None or isinstance(term.where, Steps | Mask) for term in edited
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that are hooked."""
        return tuple(self._edits)

    def place(self, positions: Positions) -> None:
        """Say what the positions of the coming forward pass are."""
        if not self._edits or self._unchanged(positions):
            return
        masks: dict[Where, Tensor] = {}
        for edit in self._edits.values():
            edit.place(positions, masks)
        self._last = positions

    def _unchanged(self, positions: Positions) -> bool:
        """Whether the places of all terms are as at the last step, for all that they depend on."""
        last = self._last
        if self._by_step or last is None or positions.phase.shape[1] > 1:
            return False
        if last.phase.shape != positions.phase.shape:
            return False
        if self._by_sentence and not torch.equal(last.starts, positions.starts):
            return False
        return torch.equal(last.phase, positions.phase)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within it the model's layers are edited; afterwards nothing is left behind."""
        with ExitStack() as stack:
            for layer, edit in self._edits.items():
                stack.enter_context(self._model.residual.hooked(layer, edit))
            yield


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
    """Within it ``model.generate`` and every other forward pass of ``model.hf`` are steered.

    ``model.generate`` can be told otherwise; Hugging Face's ``model.hf.generate`` and plain
    calls of ``model.hf`` follow these terms (:class:`steerkit.hf_steering.ForwardSteering`).
    The inner of nested contexts takes the place of the outer. Reading the model (``model.read``,
    ``collect``, ``extract``) is unsteered within it too.
    """
    from steerkit.hf_steering import ForwardSteering

    total = Terms()
    for term in terms:
        total = total + as_terms(term)
    RowSteering(model, [total])  # refuses what cannot be applied before anything runs
    before = model.steering
    model.steering = total
    try:
        with ForwardSteering(model, total).attached():
            yield
    finally:
        model.steering = before
