"""Span means: every span's mean at every layer, on disk, for methods that need samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from steerkit.errors import ExtractionError
from steerkit.reading import Batch, Reading

MOST_BYTES = 8 << 30
"""Largest file that is written unless a larger one is allowed."""
_log = logging.getLogger(__name__)


class Span(NamedTuple):
    """A span that was read: its label, its chain and task, and the token where it begins."""

    label: str
    chain: str
    task: str
    start: int


def bytes_of_means(layers: int, spans: int, d_model: int) -> int:
    """Bytes of the file of means: one float32 a span, layer and dimension."""
    return 4 * layers * spans * d_model


class SpanMeans:
    """Means of spans, ``[layer, span, d_model]`` float32, in a memory-mapped ``.npy`` file.

    Parameters
    ----------
    path:
        The file; one that is there is written over.
    layers:
        Model layers that are read.
    spans:
        Spans at most.
    d_model:
        Width of the residual stream.
    most:
        Bytes at most.

    Attributes
    ----------
    size:
        Bytes of the file.

    Raises :class:`ExtractionError`, before anything is written, for a file that would be
    larger than ``most``.
    """

    def __init__(
        self,
        path: Path,
        layers: tuple[int, ...],
        spans: int,
        d_model: int,
        *,
        most: int = MOST_BYTES,
    ) -> None:
        self.layers, self.size = layers, bytes_of_means(len(layers), spans, d_model)
        if self.size > most:
            raise ExtractionError(
                f"the means of {spans:,} spans need {self.size / 2**30:.1f} GiB on disk",
                expected=f"at most {most / 2**30:.1f} GiB",
                fix="read fewer layers (layers=...), take fewer chains, or allow more "
                "(sample_bytes=..., --sample-gib)",
            )
        shape = (len(layers), spans, d_model)
        _log.info("span means: %s, %.1f MiB on disk", shape, self.size / 2**20)
        self._file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        self._spans: list[Span] = []

    def add(self, batch: Batch, readings: Mapping[int, Reading]) -> None:
        """Keep the span means of a batch that was read at every layer."""
        first = len(self._spans)
        self._spans += [Span(*found) for found in batch.spans]
        for i, layer in enumerate(self.layers):
            means = readings[layer].span_means
            self._file[i, first : first + len(means)] = means.float().cpu().numpy()

    @property
    def spans(self) -> list[Span]:
        """The spans that were read, by chain and place: the order of the rows of :meth:`layer`."""
        return [self._spans[i] for i in self._order]

    @property
    def _order(self) -> Int64[NDArray[np.int64], " span"]:
        """No batch composition changes the order of the rows."""
        keys = [(span.chain, span.start) for span in self._spans]
        return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)

    def layer(self, index: int) -> Float32[NDArray[np.float32], "span d_model"]:
        """Span means at ``layers[index]``, in memory."""
        return np.asarray(self._file[index][self._order])
