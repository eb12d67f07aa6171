"""Reading: hidden states of a batch of chains, reduced to float64 means and their weights."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

REPLICATES = 64
"""Bootstrap replicates: columns 1 to 64."""
SPLITS = 20
"""Hashed halves of the tasks: the columns after the replicates."""
PARTS = 8
"""Hashed eighths of the tasks: the columns after the halves."""
COLUMNS = 1 + REPLICATES + SPLITS + PARTS
FULL, REPLICATE = slice(0, 1), slice(1, 1 + REPLICATES)
HALF = slice(1 + REPLICATES, 1 + REPLICATES + SPLITS)
PART = slice(1 + REPLICATES + SPLITS, COLUMNS)
"""Where each kind of column stands."""
OUTLIER = 10.0
"""A thinking position counts as an outlier when its norm exceeds this many times the
median norm of its chain's thinking section at that layer."""
_CPU_TOKENS, _GPU_TOKENS = 1024, 16384  # float64 rows at once: a cache's worth, or plenty


@dataclass(frozen=True)
class Chain:
    """What is read of one chain, in token positions of its own sequence.

    Attributes
    ----------
    key:
        Names the chain; its label shuffles are drawn from it.
    task:
        Hash of its task; bootstrap weights and halves are drawn from it.
    thinking:
        Positions [start, end) of the thinking section.
    windows:
        Positions [start, end) that are averaged for a span, and its label. Never empty.
    """

    key: str
    task: str
    thinking: tuple[int, int]
    windows: tuple[tuple[int, int, str], ...]


def _uniform(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def _poisson(uniform: float) -> int:
    """Poisson(1) by inverting its distribution function."""
    count, term, total = 0, math.exp(-1.0), math.exp(-1.0)
    while uniform >= total and count < 20:
        count += 1
        term /= count
        total += term
    return count


def column_weights(task: str, seed: int = 0) -> Int64[Tensor, " column"]:
    """How often a task counts in every column; the same for every label and layer.

    Column 0 is the full set (weight 1), columns 1 to 64 are bootstrap replicates
    (Poisson(1) counts from BLAKE2b of task and replicate), the next 20 are halves of the
    tasks (0 or 1); the other half of each is column 0 minus it. The last 8 are eighths of
    the tasks: each task is in one of them.
    """
    bootstrap = (_poisson(_uniform(f"bootstrap {seed} {r} {task}")) for r in range(REPLICATES))
    halves = (int(_uniform(f"half {seed} {s} {task}") < 0.5) for s in range(SPLITS))
    part = int(_uniform(f"part {seed} {task}") * PARTS)
    parts = (int(part == p) for p in range(PARTS))
    return torch.tensor([1, *bootstrap, *halves, *parts], dtype=torch.int64)


def shuffled_orders(key: str, length: int, seed: int = 0) -> NDArray[np.intp]:
    """Permutations of a chain's ``length`` labels in the shuffled twins of all splits.

    ``[split, label]``: each draws the labels in the order of a row.
    """
    drawn = [
        hashlib.shake_128(f"shuffle {seed} {split} {key}".encode()).digest(8 * length)
        for split in range(SPLITS)
    ]
    numbers = np.frombuffer(b"".join(drawn), dtype=">u8").reshape(SPLITS, length)
    return numbers.argsort(axis=1, kind="stable")


@dataclass(frozen=True)
class Reading:
    """What one layer gives for a batch, in float64: enough to forget the hidden states."""

    span_means: Float64[Tensor, "span d_model"]
    thinking_sums: Float64[Tensor, "chain d_model"]
    norm_sum: Float64[Tensor, ""]
    outliers: Int64[Tensor, ""]


class Batch:
    """Where to read, and with which weights to add, for chains that run side by side.

    Parameters
    ----------
    chains:
        One for every row of the hidden states, at positions counted from their left edge
        (padding stands to the right).
    labels:
        Behaviours that are summed; windows of other labels must not occur.
    width:
        Positions of a row, padding included.
    seed:
        Of the columns and shuffles.
    """

    def __init__(
        self, chains: Sequence[Chain], labels: Sequence[str], width: int, seed: int = 0
    ) -> None:
        self.chains, self.width, self.seed = tuple(chains), width, seed
        self.labels = tuple(labels)
        windows = [
            (row * width + start, end - start, row, i)
            for row, chain in enumerate(chains)
            for i, (start, end, _) in enumerate(chain.windows)
        ]
        # longest first, so that the j-th token of all windows that have one is a prefix
        windows.sort(key=lambda w: -w[1])
        self._rows = [row for _, _, row, _ in windows]
        self._places = {(row, i): span for span, (_, _, row, i) in enumerate(windows)}
        lengths = [length for _, length, _, _ in windows]
        self._reach = [
            sum(length > offset for length in lengths)
            for offset in range(lengths[0] if lengths else 0)
        ]
        self._cpu = {
            "start": torch.tensor([w[0] for w in windows], dtype=torch.int64),
            "length": torch.tensor(lengths, dtype=torch.float64)[:, None],
        }
        self._on: dict[torch.device, dict[str, Tensor]] = {}
        self._thinking = [
            (row * width + c.thinking[0], max(c.thinking[1] - c.thinking[0], 0))
            for row, c in enumerate(chains)
        ]
        self.tokens = sum(length for _, length in self._thinking)
        self._cpu["thinking"] = torch.cat(
            [torch.arange(start, start + length) for start, length in self._thinking]
            or [torch.zeros(0, dtype=torch.int64)]
        )
        lengths_ = torch.tensor([length for _, length in self._thinking], dtype=torch.int64)
        self._cpu["chain"] = torch.repeat_interleave(torch.arange(len(chains)), lengths_)
        first = torch.cumsum(lengths_, 0) - lengths_
        self._cpu["step"] = torch.arange(self.tokens) - first[self._cpu["chain"]]
        self._cpu["median"] = ((lengths_ - 1).clamp(min=0) // 2)[:, None]
        self._longest = max((length for _, length in self._thinking), default=0)

    @property
    def spans(self) -> list[tuple[str, str, str, int]]:
        """Label, chain, task and first position of every span, in the order of span means."""
        found: list[tuple[str, str, str, int]] = [("", "", "", 0)] * len(self._rows)
        for (row, i), place in self._places.items():
            chain = self.chains[row]
            start, _, label = chain.windows[i]
            found[place] = (label, chain.key, chain.task, start)
        return found

    @property
    def places(self) -> dict[tuple[int, int], int]:
        """Where the span mean of a chain's i-th window stands, by (chain, i)."""
        return self._places

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """Index and weight tensors on a device; moved once."""
        if device not in self._on:
            self._on[device] = {
                name: tensor.to(device) for name, tensor in {**self._cpu, **self._weights}.items()
            }
        return self._on[device]

    @cached_property
    def counts(self) -> Int64[Tensor, "chain label"]:
        """Windows by chain and label."""
        found = [Counter(label for _, _, label in chain.windows) for chain in self.chains]
        counts = torch.tensor([[c[label] for label in self.labels] for c in found])
        return counts.view(len(self.chains), len(self.labels)).long()

    @cached_property
    def columns(self) -> Int64[Tensor, "column chain"]:
        """Weight of every chain in every column."""
        return torch.stack([column_weights(c.task, self.seed) for c in self.chains], dim=1)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        """Weights of span means, as matrices over the batch's spans."""
        n_chains, n_labels, n_spans = len(self.chains), len(self.labels), len(self._rows)
        own = np.zeros((n_chains, 2, n_labels, n_spans))
        shuffled = np.zeros((SPLITS, 2, 2, n_labels, n_spans))
        split, every = np.arange(SPLITS)[:, None], np.arange(n_labels)[:, None]
        halves = self.columns[HALF].numpy()
        index = {label: i for i, label in enumerate(self.labels)}
        for row, chain in enumerate(self.chains):
            if not chain.windows:
                continue
            count = self.counts[row].numpy()
            others = len(chain.windows) - count
            differs = (count > 0) & (others > 0)
            plus, minus = differs / count.clip(min=1), differs / others.clip(min=1)
            labels = np.array([index[label] for _, _, label in chain.windows])
            places = np.array([self._places[row, i] for i in range(len(labels))])
            own[row, 0, labels, places] = 1.0
            own[row, 1, every, places] = -minus[:, None]
            own[row, 1, labels, places] = plus[labels]
            drawn = labels[shuffled_orders(chain.key, len(labels), self.seed)]
            # half 0 holds the tasks of the split's column, half 1 the others
            half = 1 - halves[:, row, None]
            shuffled[split, half, 0, drawn, places] = 1.0
            shuffled[split[..., None], half[..., None], 1, every, places] = -minus[:, None]
            shuffled[split, half, 1, drawn, places] = plus[drawn]
        thinks = torch.tensor([max(n, 1) for _, n in self._thinking], dtype=torch.float64)
        return {
            "own": torch.from_numpy(own.reshape(n_chains * 2 * n_labels, n_spans)),
            "shuffled": torch.from_numpy(shuffled.reshape(SPLITS * 4 * n_labels, n_spans)),
            "columns": self.columns.double(),
            "thinks": thinks[:, None],
        }

    def read(self, hidden: Float[Tensor, "row position d_model"]) -> Reading:
        """Read one layer's hidden states; nothing per token is kept, nothing synchronises.

        Every value is widened to float64 before it is added: means equal a plain float64
        computation over the same activations.
        """
        if hidden.device.type == "mps":  # no float64 there
            hidden = hidden.cpu()
        at, flat = self.on(hidden.device), hidden.reshape(-1, hidden.shape[-1])
        device, d_model = flat.device, flat.shape[1]
        means = torch.zeros(len(self._rows), d_model, dtype=torch.float64, device=device)
        for offset, reach in enumerate(self._reach):
            means[:reach] += flat[at["start"][:reach] + offset]
        means /= at["length"]

        sums = torch.zeros(len(self.chains), d_model, dtype=torch.float64, device=device)
        norms = torch.zeros(self.tokens, dtype=torch.float64, device=device)
        budget = _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS
        for first in range(0, self.tokens, budget):
            rows = slice(first, min(first + budget, self.tokens))
            states = flat[at["thinking"][rows]].double()
            chain = at["chain"][rows]
            low, high = int(self._cpu["chain"][first]), int(self._cpu["chain"][rows.stop - 1]) + 1
            # a matrix product rather than index_add: its order of addition is fixed on GPUs
            member = torch.arange(low, high, device=device)[:, None] == chain
            sums[low:high].addmm_(member.double(), states)
            norms[rows] = torch.linalg.vector_norm(states, dim=1)
        padded = torch.full(
            (len(self.chains), max(self._longest, 1)), torch.inf, dtype=norms.dtype, device=device
        )
        padded[at["chain"], at["step"]] = norms
        median = padded.sort(dim=1).values.gather(1, at["median"])[at["chain"], 0]
        return Reading(means, sums, norms.sum(), (norms > OUTLIER * median).sum())
