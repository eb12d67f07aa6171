"""The cache of keys and values: it grows by blocks, so a step does not copy what is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_SMALL = 1 << 16
"""Numbers in a layer's keys up to which copying them costs less than looking after room."""
_BLOCK = 64
"""Positions, at least, that a growing layer is given at a time."""


class GrowingLayer(DynamicLayer):
    """A cache layer of transformers that keeps room for what comes.

    The library's own layer concatenates: every step copies all keys and values of every row.
    Here a step writes its own and hands out a view; only every ``max(64, length / 4)`` positions
    is the whole moved. The values are the same. A small layer is concatenated as ever.
    """

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append ``[row, head, position, width]`` states; all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._buffers is None and self.keys.numel() < _SMALL:
            return super().update(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self._has_room(key_states, after):
            self._buffers = tuple(  # type: ignore[assignment]
                _moved(old, new, before, after)
                for old, new in ((self.keys, key_states), (self.values, value_states))
            )
        assert self._buffers is not None
        keys, values = self._buffers
        keys[..., before:after, :] = key_states
        values[..., before:after, :] = value_states
        self.keys, self.values = keys[..., :after, :], values[..., :after, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only keep these rows; the room goes with the others."""
        super().batch_select_indices(indices)
        self._buffers = None

    def _has_room(self, states: Tensor, length: int) -> bool:
        """Whether the buffers are those of the present rows and long enough."""
        if self._buffers is None or self.keys is None:
            return False
        keys, _ = self._buffers
        # rows that left, or a crop by the library, replaced the view
        same = keys.shape[0] == states.shape[0] and keys.data_ptr() == self.keys.data_ptr()
        return same and length <= keys.shape[-2]


def _moved(old: Tensor, new: Tensor, before: int, after: int) -> Tensor:
    """A buffer with what ``old`` holds, and room for ``after`` positions and a block more."""
    rows, heads, _, width = new.shape
    capacity = after + max(_BLOCK, after // 4)
    buffer = torch.empty(rows, heads, capacity, width, dtype=new.dtype, device=new.device)
    if before:
        buffer[..., :before, :] = old
    return buffer


def growing_cache(config: Any) -> DynamicCache:
    """The cache that a model of this configuration needs, its full-attention layers growing.

    Layers of another kind, such as sliding windows, are left to transformers.
    """
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(it) is DynamicLayer else it for it in cache.layers]
    return cache


def joinable(cache: DynamicCache) -> bool:
    """Whether rows of two such caches can be put side by side."""
    return all(type(layer) in (GrowingLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def join_caches(
    parts: Sequence[tuple[DynamicCache, Int64[Tensor, " _"]]], lengths: Sequence[int], config: Any
) -> DynamicCache:
    """One cache of the chosen rows of several, aligned at their ends.

    Parameters
    ----------
    parts:
        Caches and the rows of each that are kept.
    lengths:
        Positions of each that are kept, counted from its end: earlier ones hold padding of
        these rows alone. What is missing to the longest is filled with zeros, for the
        attention mask to hide.
    """
    if len(parts) == 1:
        cache, rows = parts[0]
        for layer in cache.layers:
            layer.batch_select_indices(rows.to(layer.keys.device))
            _keep_last(layer, lengths[0])
        return cache
    joined = growing_cache(config)
    longest = max(lengths)
    for number, layer in enumerate(joined.layers):
        olds = [cache.layers[number] for cache, _ in parts]
        shown = longest if type(layer) is GrowingLayer else min(longest, layer.sliding_window - 1)
        layer.lazy_initialization(olds[0].keys, olds[0].values)
        for name in ("keys", "values"):
            states = [
                _padded(getattr(old, name), rows, min(length, shown), shown)
                for old, (_, rows), length in zip(olds, parts, lengths, strict=True)
            ]
            setattr(layer, name, torch.cat(states))
        if type(layer) is not GrowingLayer:
            layer.cumulative_length = longest
    return joined


def _padded(states: Tensor, rows: Tensor, length: int, width: int) -> Tensor:
    """The last ``length`` positions of some rows, zeros before them up to ``width``."""
    kept = states[rows.to(states.device), :, states.shape[-2] - length :]
    return torch.nn.functional.pad(kept, (0, 0, width - length, 0))


def _keep_last(layer: DynamicLayer, length: int) -> None:
    """Forget the positions before the last ``length``."""
    if type(layer) is GrowingLayer:
        layer.keys, layer.values = layer.keys[..., -length:, :], layer.values[..., -length:, :]
    elif type(layer) is DynamicSlidingWindowLayer:
        shown = min(length, layer.sliding_window - 1)
        layer.keys, layer.values = layer.keys[..., -shown:, :], layer.values[..., -shown:, :]
        layer.cumulative_length = length
