"""Projections: how far every token of a chain lies along directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.direction import Direction, Unit
from steerkit.errors import SteeringError
from steerkit.layers import Layers, layer_numbers
from steerkit.models import ThinkingModel
from steerkit.streaming import Item, Progress, TooLong, stream
from steerkit.traces import Trace

if TYPE_CHECKING:
    import pandas as pd

Directions = Direction | Mapping[str, Direction] | Iterable[Direction]
_PHASES = ("prompt", "think", "answer")
_COLUMNS = {
    "trace": "str",
    "task": "str",
    "token": "int64",
    "id": "int64",
    "text": "str",
    "start": "int64",
    "end": "int64",
    "phase": "str",
    "label": "str",
    "behavior": "str",
    "layer": "int64",
    "projection": "float32",
}


def read(
    model: ThinkingModel,
    traces: Trace | Sequence[Trace],
    vectors: Directions,
    *,
    layers: Layers | None = None,
    unit: Unit | None = None,
    batch_tokens: int | None = None,
    too_long: TooLong = "refuse",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every response token's projection on every direction, in one batched forward pass.

    Parameters
    ----------
    traces:
        Chains, annotated or not.
    vectors:
        A direction, several, or :class:`SteeringVectors`.
    layers:
        Where to read; by default each direction at its suggested layer.
    unit:
        Of the projection h . u / n, n the unit's length: by default as for coefficients (each
        direction's ``default_unit``), so that a push of c raises it by c; ``one`` is the bare
        h . u.
    batch_tokens, too_long, progress:
        As of :func:`steerkit.streaming.stream`; layers above the last one read never run.

    Returns
    -------
    A tidy frame, one row a token, direction and layer, in the order of the traces: ``trace``,
    ``task``, ``token`` (its number in the response), ``id``, ``text``, ``start``, ``end``
    (characters), ``phase`` (of the position that holds the token: what it predicts), ``label``
    (of the span that holds it, or missing), ``behavior``, ``layer``, ``projection``.

    Without chains the frame has no rows. Chains that share an id keep rows of their own.

    Raises :class:`SteeringError` for a layer without a direction, :class:`VectorsError` for
    directions of another model's width or number of layers. The model is read unsteered.
    """
    import pandas as pd

    listed = [traces] if isinstance(traces, Trace) else list(traces)
    asked = targets(vectors, layers, model)
    wanted = sorted({layer for _, layer in asked})
    frames: dict[int, pd.DataFrame] = {}  # by the trace's identity: ids may be shared
    counters: Counter[str] = Counter()

    def start(items: list[Item], width: int) -> _Projector:
        return _Projector(items, asked, unit, frames)

    stream(
        model,
        listed,
        wanted,
        start,
        batch_tokens=batch_tokens,
        too_long=too_long,
        counters=counters,
        progress=progress,
    )
    found = [frames[id(trace)] for trace in listed if id(trace) in frames]
    empty = {name: pd.Series(dtype=kind) for name, kind in _COLUMNS.items()}
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(empty)
    table.attrs["counts"] = dict(counters)
    return table


def targets(
    vectors: Directions, layers: Layers | None, model: ThinkingModel
) -> list[tuple[Direction, int]]:
    """Directions and the layers at which each is read.

    Raises :class:`SteeringError` where there is none, :class:`VectorsError` for one that does
    not fit the model.
    """
    if isinstance(vectors, Direction):
        listed = [vectors]
    else:
        listed = list(vectors.values() if isinstance(vectors, Mapping) else vectors)
    if not listed:
        raise SteeringError("no direction to read")
    found = []
    for direction in listed:
        direction.check_fit(model)
        if layers is None:
            chosen = (1.0 * direction).resolved_layers()
        else:
            chosen = layer_numbers(layers, SteeringError)
        for layer in chosen:
            direction.row(layer)
            found.append((direction, layer))
    return found


def projector(
    asked: Sequence[tuple[Direction, int]], layer: int, unit: Unit | None
) -> tuple[list[int], Tensor]:
    """Numbers of those read at ``layer``, and what reads them, ``[d_model, direction]``."""
    numbers = [number for number, (_, at) in enumerate(asked) if at == layer]
    columns = [
        asked[n][0].unit_vector(layer) / asked[n][0].unit_length(layer, unit) for n in numbers
    ]
    return numbers, torch.stack(columns, dim=1).float()


class _Projector:
    """Reader of one batch: projections of all of its positions."""

    def __init__(
        self,
        items: list[Item],
        asked: Sequence[tuple[Direction, int]],
        unit: Unit | None,
        frames: dict[int, pd.DataFrame],
    ) -> None:
        self._items, self._asked, self._unit, self._frames = items, asked, unit, frames
        self._found: dict[int, Tensor] = {}

    def read(self, layer: int, hidden: Tensor) -> None:
        """Project one layer's hidden states."""
        numbers, matrix = projector(self._asked, layer, self._unit)
        values = hidden.float() @ matrix.to(hidden.device)
        for column, number in enumerate(numbers):
            self._found[number] = values[..., column].cpu()

    def commit(self) -> None:
        """Keep a frame for every chain."""
        for row, (trace, chain) in enumerate(self._items):
            self._frames[id(trace)] = self._frame(row, trace, chain)

    def _frame(self, row: int, trace: Trace, chain: Any) -> pd.DataFrame:
        import pandas as pd

        first, length = chain.prompt_length, len(chain.ids)
        labels: list[str | None] = [None] * length
        for begin, end, label in chain.spans:
            labels[begin:end] = [label] * (end - begin)
        tokens = pd.DataFrame(
            {
                "trace": trace.id,
                "task": trace.task_id,
                "token": range(length - first),
                "id": chain.ids[first:],
                "text": [trace.response[left:right] for left, right in chain.offsets],
                "start": [left for left, _ in chain.offsets],
                "end": [right for _, right in chain.offsets],
                "phase": [_PHASES[code] for code in chain.phases[first:].tolist()],
                "label": labels[first:],
            }
        )
        parts = [
            tokens.assign(
                behavior=direction.behavior,
                layer=layer,
                projection=self._found[number][row, first:length].numpy(),
            )
            for number, (direction, layer) in enumerate(self._asked)
        ]
        return pd.concat(parts, ignore_index=True)
