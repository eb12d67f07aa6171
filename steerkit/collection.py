"""Collection: chains to moments, in one pass that streams."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from steerkit.alignment import AlignedTrace
from steerkit.behaviors import behavior, behaviors
from steerkit.errors import ExtractionError
from steerkit.layers import Layers, layer_numbers
from steerkit.models import ThinkingModel
from steerkit.moments import Moments
from steerkit.positions import Window
from steerkit.reading import Batch, Chain, Reading
from steerkit.span_means import SpanMeans
from steerkit.streaming import Item, Progress, TooLong, stream
from steerkit.traces import Trace, Traces

_log = logging.getLogger(__name__)


def trace_digest(trace: Trace) -> str:
    """SHA-256 of a trace's content as canonical JSON: what names it in provenance."""
    content = json.dumps(trace.to_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


class _Collector:
    """Reader of one batch: adds its moments once every layer has been read."""

    def __init__(
        self, moments: Moments, samples: SpanMeans | None, items: Sequence[Item], width: int
    ) -> None:
        self._samples = samples
        chains = [_chain(trace, chain, moments.window, moments.labels) for trace, chain in items]
        self._items, self._moments = items, moments
        self._batch = Batch(chains, moments.labels, width, moments.seed)
        self._readings: dict[int, Reading] = {}

    def read(self, layer: int, hidden: Tensor) -> None:
        self._readings[layer] = self._batch.read(hidden)

    def commit(self) -> None:
        self._moments.add(self._batch, self._readings)
        if self._samples is not None:
            self._samples.add(self._batch, self._readings)
        counters = self._moments.counters
        for (_, aligned), chain in zip(self._items, self._batch.chains, strict=True):
            labelled = sum(label in self._moments.labels for _, _, label in aligned.spans)
            counters["empty windows"] += labelled - len(chain.windows)
            counters["chains without spans"] += not labelled
            counters["chains without thinking"] += chain.thinking[0] >= chain.thinking[1]


def _chain(trace: Trace, chain: AlignedTrace, window: Window, labels: Sequence[str]) -> Chain:
    ranges = [(window.tokens(start, end), label) for start, end, label in chain.spans]
    return Chain(
        key=trace_digest(trace),
        task=chain.task_key,
        thinking=chain.thinking,
        windows=tuple((r.start, r.stop, label) for r, label in ranges if r and label in labels),
    )


def collect(
    model: ThinkingModel,
    traces: Iterable[Trace],
    *,
    layers: Layers | None = None,
    labels: Iterable[str] | None = None,
    window: Window | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
    too_long: TooLong = "refuse",
    covariance: bool = False,
    samples: Callable[[Sequence[int], int], SpanMeans] | None = None,
    progress: Progress | None = None,
) -> Moments:
    """Stream chains through the model and sum what its residual stream holds.

    Parameters
    ----------
    model:
        A thinking model; layers above the last one asked for, and the LM head, never run.
    traces:
        Annotated chains. Chains without spans still count in the mean over thinking
        sections and in the norms.
    layers:
        Model layers to read at ``hook_resid_post``, one or several; all of them by default.
    labels:
        Behaviours to sum; by default every known one that has a span. Shards that are to
        be added up must name the same labels.
    window:
        Tokens of a span that are averaged; by default ``Window(before=1, length=0)``.
    batch_tokens:
        Positions in a batch, padding included; by default 2,048 on a CPU, 8,192 elsewhere.
    seed:
        Of bootstrap replicates, halves and shuffles.
    too_long:
        What becomes of a chain longer than the context: ``refuse`` raises, ``cut`` drops
        its end, ``skip`` leaves it out; the last two are counted.
    covariance:
        Whether the covariance of span means is summed too: ``8 * d_model ** 2`` bytes a layer.
    samples:
        Given the layers and the most spans there can be, makes a file that every span's mean is
        written to in the same pass (:class:`steerkit.span_means.SpanMeans`).
    progress:
        Called with chains done and chains in all.

    Returns
    -------
    :class:`Moments` on the CPU; ``moments.counters`` says what was left out. Memory is that
    of one batch and of the moments, whatever the number of chains.

    Raises :class:`ExtractionError` (no annotated spans, a layer that does not exist, a chain
    that is too long), :class:`BehaviorError` for unknown labels, :class:`TraceError` for a
    chain that does not align. Running out of memory halves the batch and goes on.
    """
    chosen, traces = model_layers(model, layers), Traces(traces)
    window = Window() if window is None else window
    found = {span.label for trace in traces for span in trace.spans}
    if labels is None:
        names = [b.name for b in behaviors() if b.name in found]
    else:
        names = list(dict.fromkeys(behavior(label).name for label in labels))
    if not names:
        raise ExtractionError(
            "no annotated spans",
            expected="spans labelled with behaviours",
            found=f"{len(traces)} chains, labels {sorted(found) or 'none'}",
            fix="annotate the chains first: sk.annotate(traces), or steerkit annotate FILE",
        )
    if covariance:
        size = 8 * len(chosen) * model.d_model**2
        _log.info("covariances of %d layers: %.0f MiB", len(chosen), size / 2**20)
    moments = Moments(names, chosen, model.d_model, window=window, seed=seed, covariance=covariance)
    kept = None
    if samples is not None:
        kept = samples(chosen, sum(s.label in names for trace in traces for s in trace.spans))

    def start(items: list[Item], width: int) -> _Collector:
        return _Collector(moments, kept, items, width)

    stream(
        model,
        traces,
        chosen,
        start,
        batch_tokens=batch_tokens,
        too_long=too_long,
        counters=moments.counters,
        progress=progress,
    )
    return moments.cpu()


def model_layers(model: ThinkingModel, layers: Layers | None) -> list[int]:
    """Layers to read, ascending; :class:`ExtractionError` for one that does not exist."""
    if layers is None:
        return list(range(model.n_layers))
    chosen = sorted(layer_numbers(layers, ExtractionError))
    for layer in chosen:
        if not 0 <= layer < model.n_layers:
            raise ExtractionError(
                f"layer {layer} does not exist",
                expected=f"layers 0 to {model.n_layers - 1} of {model.name}",
            )
    return chosen
