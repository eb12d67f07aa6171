"""Moments: streaming float64 statistics of chains, by behaviour and layer; they merge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from steerkit.errors import ExtractionError
from steerkit.positions import Window
from steerkit.reading import COLUMNS, SPLITS, Batch, Chain, Reading

_TENSORS = ("_sums", "_shuffled", "_hidden", "_norms", "_outliers", "_outer")


class Moments:
    """Sums over chains, by behaviour, layer and column: full, replicates, halves.

    Parameters
    ----------
    labels:
        Behaviours, in the order of every tensor's ``label`` axis.
    layers:
        Model layers (``blocks.N.hook_resid_post``), in the order of the ``layer`` axis.
    d_model:
        Width of the residual stream.
    window:
        Which tokens of a span were averaged; kept so that unlike moments do not merge.
    seed:
        Of replicates, halves and shuffles.
    covariance:
        Whether sums of outer products of span means are kept, ``[d_model, d_model]`` float64
        a layer, for methods that whiten (:mod:`steerkit.covariance`).

    Attributes
    ----------
    counts, within_counts:
        ``[column, label]`` spans; chains that hold spans of the label and of another.
    chains:
        ``[column]`` chains with a thinking section.
    tokens:
        Thinking positions.
    tasks:
        Hashes of the tasks with a span, by label.
    counters:
        What was read and what was left out: chains, spans, empty windows, ...

    ``a + b`` adds moments of different chains: shards, resumed runs, machines. The size of
    the tensors depends on labels, layers and width alone, never on the number of chains;
    beside them stand the hashes in ``tasks``, 16 bytes for every task and label.
    """

    def __init__(
        self,
        labels: Sequence[str],
        layers: Sequence[int],
        d_model: int,
        *,
        window: Window | None = None,
        seed: int = 0,
        covariance: bool = False,
    ) -> None:
        self.labels, self.layers = tuple(labels), tuple(layers)
        self.d_model, self.seed, self.covariance = d_model, seed, covariance
        self.window = Window() if window is None else window
        n_labels = len(self.labels)
        self.counts = torch.zeros(COLUMNS, n_labels, dtype=torch.int64)
        self.within_counts = torch.zeros(COLUMNS, n_labels, dtype=torch.int64)
        self.chains = torch.zeros(COLUMNS, dtype=torch.int64)
        self.tokens = 0
        self.tasks: dict[str, set[str]] = {label: set() for label in self.labels}
        self.counters: Counter[str] = Counter()
        self._sums = [self._zeros(COLUMNS, 2 * n_labels + 1, d_model) for _ in self.layers]
        self._shuffled = [self._zeros(SPLITS, 2, 2 * n_labels, d_model) for _ in self.layers]
        self._hidden = [self._zeros(d_model) for _ in self.layers]
        self._norms = [self._zeros() for _ in self.layers]
        self._outliers = [torch.zeros((), dtype=torch.int64) for _ in self.layers]
        width = d_model if covariance else 0
        self._outer = [self._zeros(width, width) for _ in self.layers]

    @staticmethod
    def _zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    def update(
        self, chains: Sequence[Chain], hidden: Mapping[int, Float[Tensor, "row position d_model"]]
    ) -> None:
        """Add chains, given the hidden states of every layer (right-padded rows).

        ``hidden`` maps a model layer to its states, one row for every chain.
        """
        width = next(iter(hidden.values())).shape[1]
        batch = Batch(chains, self.labels, width, self.seed)
        self.add(batch, {layer: batch.read(hidden[layer]) for layer in self.layers})

    def add(self, batch: Batch, readings: Mapping[int, Reading]) -> None:
        """Add a batch that was read at every layer."""
        n_labels = len(self.labels)
        for i, layer in enumerate(self.layers):
            reading = readings[layer]
            device = reading.span_means.device
            self._to(i, device)
            at = batch.on(device)
            chains = torch.cat(
                [
                    (at["own"] @ reading.span_means).view(-1, 2 * n_labels, self.d_model),
                    (reading.thinking_sums / at["thinks"])[:, None],
                ],
                dim=1,
            )
            self._sums[i].view(COLUMNS, -1).addmm_(at["columns"], chains.flatten(1))
            self._shuffled[i].view(-1, self.d_model).addmm_(at["shuffled"], reading.span_means)
            self._hidden[i] += reading.thinking_sums.sum(dim=0)
            self._norms[i] += reading.norm_sum
            self._outliers[i] += reading.outliers
            if self.covariance:
                self._outer[i].addmm_(reading.span_means.T, reading.span_means)
        own = batch.counts
        others = own.sum(dim=1, keepdim=True) - own
        thinks = torch.tensor([c.thinking[1] > c.thinking[0] for c in batch.chains])
        self.counts += batch.columns @ own
        self.within_counts += batch.columns @ ((own > 0) & (others > 0)).long()
        self.chains += batch.columns @ thinks.long()
        self.tokens += batch.tokens
        for chain in batch.chains:
            for _, _, label in chain.windows:
                self.tasks[label].add(chain.task)
        self.counters["chains"] += len(batch.chains)
        self.counters["spans"] += int(own.sum())

    def _to(self, i: int, device: torch.device) -> None:
        for name in _TENSORS:
            tensors = getattr(self, name)
            if tensors[i].device != device:
                tensors[i] = tensors[i].to(device)

    def cpu(self) -> Moments:
        """Bring every tensor to the CPU, in place."""
        for i in range(len(self.layers)):
            self._to(i, torch.device("cpu"))
        return self

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of chains.

        Raises :class:`ExtractionError` when labels, layers, width, window or seed differ.
        """
        for name in ("labels", "layers", "d_model", "window", "seed", "covariance"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ExtractionError(
                    f"moments of different {name} do not add up",
                    expected=mine,
                    found=theirs,
                    fix=f"collect every part with the same {name}",
                )
        total = Moments(
            self.labels,
            self.layers,
            self.d_model,
            window=self.window,
            seed=self.seed,
            covariance=self.covariance,
        )
        for part in (self.cpu(), other.cpu()):
            for name in _TENSORS:
                for mine, theirs in zip(getattr(total, name), getattr(part, name), strict=True):
                    mine += theirs
            total.counts += part.counts
            total.within_counts += part.within_counts
            total.chains += part.chains
            total.tokens += part.tokens
            total.counters += part.counters
            for label in self.labels:
                total.tasks[label] |= part.tasks[label]
        return total

    def layer_sums(self, index: int) -> Float64[Tensor, "column feature d_model"]:
        """Sums at ``layers[index]``, weighted by column.

        Features: for every label the sum of its span means; for every label the sum over
        chains of (mean of its spans - mean of the chain's other spans); the sum over
        chains of the mean thinking position.
        """
        return self._sums[index]

    def index(self, layer: int) -> int:
        """Where a model layer stands in ``layers``; :class:`ExtractionError` if it was not read."""
        if layer not in self.layers:
            raise ExtractionError(
                f"layer {layer} was not read", expected=f"one of {', '.join(map(str, self.layers))}"
            )
        return self.layers.index(layer)

    def layer_outer(self, index: int) -> Float64[Tensor, "d_model d_model"]:
        """Sum of m m^T over all span means m at ``layers[index]``.

        Raises :class:`ExtractionError` for moments that were collected without it.
        """
        if not self.covariance:
            raise ExtractionError(
                "these moments hold no covariance", fix="collect them with covariance=True"
            )
        return self._outer[index]

    def layer_shuffled(self, index: int) -> Float64[Tensor, "split half feature d_model"]:
        """The features by label (without the last), labels shuffled within chains.

        Every split has shuffles of its own; half 0 holds the tasks of the split's column,
        half 1 the others. Counts by label are those of the true labels.
        """
        return self._shuffled[index]

    @property
    def mean_norm(self) -> Float64[Tensor, " layer"]:
        """E||h|| over thinking positions; zero where there is none."""
        return torch.stack([norm.cpu() for norm in self._norms]) / max(self.tokens, 1)

    @property
    def mean(self) -> Float64[Tensor, "layer d_model"]:
        """E h over thinking positions."""
        return torch.stack([h.cpu() for h in self._hidden]) / max(self.tokens, 1)

    @property
    def norm_of_mean(self) -> Float64[Tensor, " layer"]:
        """||E h|| over thinking positions."""
        return self.mean.norm(dim=1)

    @property
    def outliers(self) -> Int64[Tensor, " layer"]:
        """Thinking positions whose norm exceeds ten times their chain's median norm."""
        return torch.stack([count.cpu() for count in self._outliers])

    def __repr__(self) -> str:
        spans = ", ".join(
            f"{label} {int(n)}" for label, n in zip(self.labels, self.counts[0], strict=True)
        )
        return f"Moments({int(self.chains[0])} chains, {len(self.layers)} layers; spans: {spans})"
