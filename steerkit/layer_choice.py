"""Layer choice: at which layer a direction tells its behaviour apart before it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerkit.behaviors import behaviors
from steerkit.errors import ExtractionError
from steerkit.models import ThinkingModel
from steerkit.streaming import Item, Progress, TooLong, stream
from steerkit.traces import Trace


def area_under_roc(
    positive: Float[Tensor, " positive"], negative: Float[Tensor, " negative"]
) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs: the area under the ROC curve.

    Raises :class:`ExtractionError` when either side is empty: there is nothing to compare.
    """
    if not len(positive) or not len(negative):
        raise ExtractionError(
            "the area under a ROC curve needs both classes",
            found=f"{len(positive)} positives and {len(negative)} negatives",
        )
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive)
    upto = torch.searchsorted(ordered, positive, right=True)
    return float((below + upto).double().sum()) / (2.0 * len(positive) * len(negative))


class _Projections:
    """Reader of one batch: projections at the token before each span, nothing else."""

    def __init__(
        self,
        batch: Sequence[Item],
        width: int,
        directions: Mapping[int, Float64[Tensor, "direction d_model"]],
        rows: list[Tensor],
        labels: list[str],
        counters: Counter[str],
    ) -> None:
        spans = [
            (row * width + start - 1, label)
            for row, (_, chain) in enumerate(batch)
            for start, _, label in chain.spans
            if start > 0
        ]
        self._without = sum(len(chain.spans) for _, chain in batch) - len(spans)
        self._counters = counters
        self._at = torch.tensor([position for position, _ in spans], dtype=torch.int64)
        self._labels = [label for _, label in spans]
        self._directions, self._found = directions, list[Tensor]()
        self._rows, self._all_labels = rows, labels

    def read(self, layer: int, hidden: Tensor) -> None:
        flat = hidden.reshape(-1, hidden.shape[-1])
        states = flat[self._at.to(flat.device)]
        states = states.cpu() if states.device.type == "mps" else states
        self._found.append(states.double() @ self._directions[layer].to(states.device).T)

    def commit(self) -> None:
        device = self._found[0].device
        found = torch.stack([part.to(device) for part in self._found])  # layer, span, direction
        self._rows.append(found.cpu())
        self._all_labels.extend(self._labels)
        self._counters["spans without a token before them"] += self._without


def auroc(
    model: ThinkingModel,
    traces: Sequence[Trace],
    directions: Mapping[str, Float[Tensor, "layer d_model"]],
    layers: Sequence[int],
    *,
    batch_tokens: int | None = None,
    too_long: TooLong = "refuse",
    counters: Counter[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Float64[Tensor, " layer"]]:
    """How well each direction's projection at s - 1 foretells its label, by layer.

    A span that begins at token s is judged by the residual stream of the token before it,
    which predicts the span's first token: the area under the ROC curve of the projection,
    the label's spans against all other labels' spans. 0.5 is chance, 1 is perfect. Use
    chains of tasks that the directions were not extracted from.

    Parameters
    ----------
    model, traces:
        The model and annotated chains (*select* tasks); streamed, only scalars are kept.
    directions:
        By behaviour, one row for every layer in ``layers``; their length does not matter.
    layers:
        Model layers of the rows.
    batch_tokens, too_long, counters, progress:
        As for :func:`steerkit.extraction.collect`; a span that begins at the first token of
        all has none before it and is left out and counted.

    Returns
    -------
    By behaviour; behaviours that occur in none or in all of the spans are left out.
    """
    names, rows, labels = list(directions), list[Tensor](), list[str]()
    if not names or not any(trace.spans for trace in traces):
        return {}
    at_layer = {
        layer: torch.stack([directions[name][i].double() for name in names])
        for i, layer in enumerate(layers)
    }
    known = {b.name for b in behaviors()}
    counted = Counter[str]() if counters is None else counters

    def start(batch: list[Item], width: int) -> _Projections:
        return _Projections(batch, width, at_layer, rows, labels, counted)

    stream(
        model,
        [trace for trace in traces if any(span.label in known for span in trace.spans)],
        layers,
        start,
        batch_tokens=batch_tokens,
        too_long=too_long,
        counters=counted,
        progress=progress,
    )
    return areas(torch.cat(rows, dim=1), labels, names) if labels else {}


def areas(
    projections: Float64[Tensor, "layer span direction"],
    labels: Sequence[str],
    names: Sequence[str],
) -> dict[str, Float64[Tensor, " layer"]]:
    """:func:`area_under_roc` by layer of every direction in ``names`` for its own label."""
    result = {}
    for k, name in enumerate(names):
        own = torch.tensor([label == name for label in labels])
        if own.any() and not own.all():
            result[name] = torch.tensor(
                [area_under_roc(row[own, k], row[~own, k]) for row in projections],
                dtype=torch.float64,
            )
    return result


def suggested_layer(curve: Float64[Tensor, " layer"], layers: Sequence[int]) -> int:
    """The layer with the largest area; the lowest of equals."""
    return layers[int(curve.argmax())]
