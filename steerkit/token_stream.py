"""Token stream: one chain token by token, with each token's projection on directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steerkit.decoding import Batch, Decoder, Row
from steerkit.direction import Unit
from steerkit.models import ThinkingModel
from steerkit.positions import ANSWER, THINK
from steerkit.projections import Directions, projector, targets
from steerkit.steering import Steering
from steerkit.tasks import Task
from steerkit.writing import Writing

_PHASES = {THINK: "think", ANSWER: "answer"}


@dataclass(frozen=True)
class Token:
    """One token of a chain as it comes.

    Attributes
    ----------
    id, text, step:
        Its id, the text that it adds, and its number in the response.
    phase:
        ``think``, ``answer``, or ``prompt`` while the opening think string is being written: the
        phase of the position that holds the token.
    projections:
        h . u / n by behaviour at that position, after the edits of its layer; as
        :meth:`~steerkit.models.ThinkingModel.read` gives it for an unsteered chain. A behaviour
        read at several layers is named ``behavior@layer``.
    """

    id: int
    text: str
    step: int
    phase: str
    projections: Mapping[str, float] = field(default_factory=dict)


def stream(
    model: ThinkingModel,
    prompt: str | Task,
    *,
    steer: Steering = None,
    read: Directions | None = None,
    layers: Any = None,
    unit: Unit | None = None,
    **options: Any,
) -> Iterator[Token]:
    """One chain, token by token.

    Parameters
    ----------
    prompt, steer:
        As of :func:`steerkit.generation.generate`, for one chain.
    read, layers, unit:
        Directions to project every token on, where, and in which unit
        (:func:`steerkit.projections.read`). A token then comes with the forward pass that reads
        it, one later than without.
    options:
        Those of ``generate`` that say how to write: ``temperature``, ``top_p``, ``seed``,
        ``max_new_tokens``, ``until``, ``thinking_budget``, ``prefix`` ...

    What is wrong is raised at once, before the first token is asked for. Between two tokens the
    model is free for anything else, another stream included, and no hook of this one is on it.
    """
    writing = Writing(model, [prompt], steer=steer, samples=1, **options)
    asked = [] if read is None else targets(read, layers, model)
    return _tokens(model, writing, asked, unit)


def _tokens(
    model: ThinkingModel, writing: Writing, asked: list[Any], unit: Unit | None
) -> Iterator[Token]:
    (row,) = writing.rows
    reading = _Reading(asked, unit)
    decoder = Decoder(model, [row], 1, writing.choose, writing.take, readers=reading.hooks)
    shown, told = len(row.ids), writing.text(row)
    while decoder.busy:
        with decoder.at_work():
            decoder.step()
        # the pass that gave the newest token read the one before it
        ready = len(row.ids) if not asked or row.ended == "end" else len(row.ids) - 1
        for token in _between(model, row, shown, ready, told, writing, reading):
            told += token.text
            yield token
        shown = max(shown, ready)
    if shown < len(row.ids):
        reading.finish(model, row)
        yield from _between(model, row, shown, len(row.ids), told, writing, reading)


def _between(
    model: ThinkingModel,
    row: Row,
    first: int,
    last: int,
    told: str,
    writing: Writing,
    reading: _Reading,
) -> Iterator[Token]:
    for step in range(first, last):
        whole = writing.text(row, step + 1)
        phase = _PHASES.get(row.phases[step + 1], "prompt")
        yield Token(row.ids[step], whole[len(told) :], step, phase, reading.values())
        told = whole


class _Reading:
    """Projections of the newest position, by the names under which they are shown."""

    def __init__(self, asked: list[Any], unit: Unit | None) -> None:
        self._last: dict[int, Tensor] = {}
        names = [direction.behavior for direction, _ in asked]
        self._names = [
            name if names.count(name) == 1 else f"{name}@{layer}"
            for name, (_, layer) in zip(names, asked, strict=True)
        ]
        self.hooks = {layer: self._hook(asked, layer, unit) for _, layer in asked}

    def _hook(self, asked: list[Any], layer: int, unit: Unit | None) -> Any:
        numbers, matrix = projector(asked, layer, unit)

        def hook(hidden: Tensor, hook: object) -> None:
            values = hidden[0, -1].float() @ matrix.to(hidden.device)
            self._last.update(zip(numbers, values, strict=True))

        return hook

    def values(self) -> dict[str, float]:
        return {name: float(self._last[number]) for number, name in enumerate(self._names)}

    def finish(self, model: ThinkingModel, row: Row) -> None:
        """Read the last token, after which nothing more is written."""
        batch = Batch(model, [row])
        with model.own_passes(), model.inference(), ExitStack() as hooks:
            hooks.enter_context(batch.steering.attached())
            for layer, hook in self.hooks.items():
                hooks.enter_context(model.residual.hooked(layer, hook))
            batch.logits()
