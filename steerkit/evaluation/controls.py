"""Controls: directions of shuffled labels in one pass, and prompts that ask for a behaviour."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerkit.annotation.shuffled import shuffle_labels
from steerkit.behaviors import UNPARSED, behavior, behaviors
from steerkit.collection import trace_digest
from steerkit.directions import Sums, differences
from steerkit.errors import EvaluationError, ExtractionError
from steerkit.models import ThinkingModel, unknown_words
from steerkit.positions import Window
from steerkit.reading import Batch, Chain
from steerkit.streaming import Item, Progress, stream
from steerkit.traces import Trace, Traces
from steerkit.vectors import Direction, SteeringVectors

if TYPE_CHECKING:
    from steerkit.reading import Reading

_STREAMED = "difference of means"  # steerkit.methods.METHODS["mean-difference"].title
_log = logging.getLogger(__name__)


def shuffled_directions(
    model: ThinkingModel,
    traces: Iterable[Trace],
    vectors: SteeringVectors,
    *,
    seeds: Sequence[int],
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Direction]]:
    """Directions from the same chains with labels shuffled within each, for many shuffles.

    One pass reads every span once and adds its mean to the sum of the label that each shuffle
    gives it: the directions are those of ``extract(model, shuffle_labels(traces, seed))``, with
    the contrast and the window of the vectors, without extracting once for every seed.
    Vectors by another method than the difference of means are extracted once for every seed.

    Parameters
    ----------
    model:
        Of which the vectors are.
    traces:
        The annotated chains that the vectors were extracted from; others are left aside.
    vectors:
        What the directions are controls of, each at its suggested layer.
    seeds:
        Of :func:`steerkit.shuffle_labels`; one direction a behaviour and seed.

    Returns
    -------
    By behaviour, one :class:`Direction` a seed, at the suggested layer alone, as long as the
    behaviour's own direction and named ``shuffled-BEHAVIOR-SEED``.

    How often a chain shows a behaviour survives the shuffle, and under ``overall`` the start
    of any span as well (:func:`steerkit.shuffle_labels`): these controls ask what the labels
    of single sentences add, and only under ``within`` they know nothing at all.

    Raises :class:`EvaluationError` where chains that the vectors were extracted from are
    missing.
    """
    used = extracted_from(traces, vectors)
    layers = sorted({d.layer for d in vectors.values() if d.layer is not None})
    facts = vectors.provenance
    if facts.get("method") != _STREAMED:
        return _extracted(model, used, vectors, seeds, batch_tokens, progress)
    found = {span.label for trace in used for span in trace.spans}
    labels = [b.name for b in behaviors() if b.name in found]
    sums = _ShuffledSums(labels, layers, model.d_model, seeds, _window(vectors))
    stream(
        model,
        used,
        layers,
        sums.reader,
        batch_tokens=batch_tokens,
        too_long=facts.get("too_long", "refuse"),
        progress=progress,
    )
    made: dict[str, list[Direction]] = {name: [] for name in vectors}
    by_layer = {layer: sums.directions(layer, facts["contrast"], vectors) for layer in layers}
    for name, direction in vectors.items():
        if direction.layer is None:
            continue
        for number, seed in enumerate(seeds):
            raw = by_layer[direction.layer][number, labels.index(name)]
            made[name].append(_control(direction, direction.layer, raw, seed))
    return made


def extracted_from(traces: Iterable[Trace], vectors: SteeringVectors) -> Traces:
    """The chains among ``traces`` that the vectors were extracted from, in their order.

    Raises :class:`EvaluationError` where some are missing: a control made of fewer chains would
    be a weaker control.
    """
    wanted = set(vectors.provenance.get("traces", ()))
    used = [trace for trace in traces if trace_digest(trace) in wanted]
    if not wanted or len({trace_digest(trace) for trace in used}) < len(wanted):
        raise EvaluationError(
            "directions of shuffled labels need the chains that the vectors were extracted from",
            expected=f"{len(wanted)} chains" if wanted else "vectors that name their chains",
            found=f"{len(used)} of them",
            fix="pass these chains (traces=..., or --traces FILE), or do without: shuffled=0",
        )
    return Traces(used)


class _ShuffledSums:
    """Sums of span means by shuffle and label, and the counts that make means of them."""

    def __init__(
        self,
        labels: Sequence[str],
        layers: Sequence[int],
        d_model: int,
        seeds: Sequence[int],
        window: Window,
    ) -> None:
        self.labels, self.seeds, self.window = tuple(labels), tuple(seeds), window
        n, k = len(self.seeds), len(self.labels)
        # features as of steerkit.moments: label sums, differences within chains, thinking means
        self.sums = {
            layer: torch.zeros(n, 2 * k + 1, d_model, dtype=torch.float64) for layer in layers
        }
        self.counts = torch.zeros(n, k, dtype=torch.int64)
        self.within_counts = torch.zeros(n, k, dtype=torch.int64)
        self.chains = torch.zeros(n, dtype=torch.int64)

    def reader(self, items: list[Item], width: int) -> _Reader:
        """Of one batch of aligned chains."""
        return _Reader(self, items, width)

    def directions(
        self, layer: int, contrast: str, names: Iterable[str]
    ) -> Float64[Tensor, "seed label d_model"]:
        """Raw directions at a layer; :class:`ExtractionError` where one of ``names`` has none."""
        sums = Sums(self.sums[layer], self.counts, self.within_counts, self.chains)
        found, defined = differences(sums, contrast, self.labels)
        there = dict(zip(self.labels, defined.all(dim=0).tolist(), strict=True))
        lacking = [name for name in names if not there.get(name)]
        if lacking:
            raise ExtractionError(
                f"shuffled labels leave no direction of {', '.join(lacking)}",
                expected="spans enough for the contrast under every shuffle",
                fix="annotate more chains, or leave these behaviours out",
            )
        return found


class _Reader:
    """Reads one batch and adds it once every layer has been read."""

    def __init__(self, sums: _ShuffledSums, items: Sequence[Item], width: int) -> None:
        self._sums = sums
        chains, self._labels = [], []
        for trace, aligned in items:
            ranges = [sums.window.tokens(start, end) for start, end, _ in aligned.spans]
            kept = [place for place, r in enumerate(ranges) if r]
            windows = [(ranges[p].start, ranges[p].stop, aligned.spans[p][2]) for p in kept]
            key = (trace.id, aligned.task_key, aligned.thinking)
            chains.append(Chain(*key, windows=tuple(windows)))
            self._labels.append(_shuffled_labels(trace, sums, kept))
        self._batch = Batch(chains, sums.labels, width)
        self._readings: dict[int, Reading] = {}

    def read(self, layer: int, hidden: Tensor) -> None:
        self._readings[layer] = self._batch.read(hidden)

    def commit(self) -> None:
        sums, k = self._sums, len(self._sums.labels)
        own, within = self._weights()
        thinks = torch.tensor(
            [max(chain.thinking[1] - chain.thinking[0], 1) for chain in self._batch.chains]
        ).double()
        for layer, reading in self._readings.items():
            means = reading.span_means.cpu()
            sums.sums[layer][:, :k] += own @ means
            sums.sums[layer][:, k : 2 * k] += within @ means
            thinking = (reading.thinking_sums.cpu() / thinks[:, None]).sum(dim=0)
            sums.sums[layer][:, 2 * k] += thinking
        sums.chains += sum(c.thinking[1] > c.thinking[0] for c in self._batch.chains)

    def _weights(self) -> tuple[Float64[Tensor, "seed label span"], ...]:
        """What every span mean counts in the sums of every shuffle, and within its chain."""
        sums, places = self._sums, self._batch.places
        n, k = len(sums.seeds), len(sums.labels)
        own = torch.zeros(n, k, len(places), dtype=torch.float64)
        within = torch.zeros_like(own)
        every = torch.arange(n)[:, None]
        for row, drawn in enumerate(self._labels):
            if not drawn.numel():
                continue
            columns = torch.tensor([places[row, i] for i in range(drawn.shape[1])])
            own[every, drawn, columns] = 1.0
            mine = own[:, :, columns]
            count = mine.sum(dim=2)
            others = len(columns) - count
            differs = (count > 0) & (others > 0)
            plus, minus = differs / count.clamp(min=1), differs / others.clamp(min=1)
            within[:, :, columns] = mine * plus[..., None] - (1 - mine) * minus[..., None]
            sums.counts += count.long()
            sums.within_counts += differs.long()
        return own, within


def _shuffled_labels(trace: Trace, sums: _ShuffledSums, kept: Sequence[int]) -> Tensor:
    """Numbers of the labels that each shuffle gives the spans at ``kept``, ``[seed, span]``."""
    index = {label: number for number, label in enumerate(sums.labels)}
    drawn = []
    for seed in sums.seeds:
        (twin,) = shuffle_labels(trace, seed)
        labels = [span.label for span in twin.spans if span.label != UNPARSED]
        drawn.append([index[labels[place]] for place in kept])
    return torch.tensor(drawn, dtype=torch.int64).view(len(sums.seeds), len(kept))


def _extracted(
    model: ThinkingModel,
    used: Traces,
    vectors: SteeringVectors,
    seeds: Sequence[int],
    batch_tokens: int | None,
    progress: Progress | None,
) -> dict[str, list[Direction]]:
    """The same for other methods, one extraction a seed."""
    from steerkit.extraction import extract
    from steerkit.methods import METHODS

    facts = vectors.provenance
    method = next(name for name, known in METHODS.items() if known.title == facts["method"])
    made: dict[str, list[Direction]] = {name: [] for name in vectors}
    placed = {name: d.layer for name, d in vectors.items() if d.layer is not None}
    for number, seed in enumerate(seeds):
        found = extract(
            model,
            shuffle_labels(used, seed),
            behaviors=list(placed),
            contrast=facts["contrast"],
            method=method,
            layers=sorted(set(placed.values())),
            window=_window(vectors),
            select=Traces(),
            batch_tokens=batch_tokens,
            too_long=facts.get("too_long", "refuse"),
        )
        for name, layer in placed.items():
            raw = found[name].tensor[found[name].row(layer)].double()
            made[name].append(_control(vectors[name], layer, raw, seed))
        if progress is not None:
            progress(number + 1, len(seeds))
    return made


def _control(
    direction: Direction, layer: int, raw: Float[Tensor, " d_model"], seed: int
) -> Direction:
    """A direction of shuffled labels, as long as the true one."""
    row = direction.row(layer)
    length = direction.tensor[row].norm()
    norm = None if direction.mean_norm is None else direction.mean_norm[row : row + 1]
    return replace(
        direction.random(seed),
        behavior=f"shuffled-{direction.behavior}-{seed}",
        tensor=(raw / raw.norm()).float()[None] * length,
        layers=(layer,),
        mean_norm=norm,
        norm_of_mean=direction.norm_of_mean[row : row + 1],
    )


def _window(vectors: SteeringVectors) -> Window:
    facts: Mapping[str, int] = vectors.provenance["window"]
    return Window(facts["before"], facts["length"])


def request(name: str) -> str:
    """The sentence that asks for a behaviour, made of its definition."""
    return f"While you think, often write a sentence that {behavior(name).definition}."


def requests(model: ThinkingModel, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """By behaviour the sentence that asks for it; and words of it that the model cannot read.

    A model whose vocabulary lacks words of it, as that of the bundled ones does, takes no
    instructions: there is nothing to compare steering with, and the first is empty.
    """
    wanted = {name: request(name) for name in names}
    unknown = [word for text in wanted.values() for word in unknown_words(model, text)]
    return ({} if unknown else wanted), list(dict.fromkeys(unknown))
