"""Synthetic chains with activations, and a slow numpy reference of every contrast."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from steerkit.moments import Moments
from steerkit.reading import Batch, Chain, column_weights
from steerkit.span_means import SpanMeans

LABELS = ("deduction", "example-testing", "backtracking")
PLANTED = (*LABELS, "uncertainty-estimation")


@dataclass
class Synthetic:
    """A chain and its activations, float64 [layer, position, d_model]."""

    chain: Chain
    hidden: np.ndarray = field(repr=False)


def synthetic_chains(
    n: int, *, seed: int = 0, layers: int = 2, width: int = 8, tasks: int | None = None
) -> list[Synthetic]:
    """Random chains of random lengths; some without spans, some without thinking."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(n):
        length = int(rng.integers(4, 40))
        start = int(rng.integers(1, 4))
        end = start if rng.random() < 0.1 else length
        windows, at = [], start
        while at < end - 1 and rng.random() < 0.85:
            stop = min(at + int(rng.integers(1, 9)), end)
            windows.append((max(at - 1, 0), stop, LABELS[rng.integers(len(LABELS))]))
            at = stop
        chain = Chain(f"chain-{i}", f"task-{i % (tasks or n)}", (start, end), tuple(windows))
        hidden = rng.normal(size=(layers, length, width)) * rng.uniform(0.5, 50.0)
        result.append(Synthetic(chain, hidden + rng.normal(size=(layers, 1, width))))
    return result


def padded(chains: list[Synthetic], dtype: torch.dtype = torch.float64) -> dict[int, torch.Tensor]:
    """Hidden states by layer, right-padded with numbers that must not be read."""
    longest = max(c.hidden.shape[1] for c in chains)
    layers, _, width = chains[0].hidden.shape
    hidden = torch.full((layers, len(chains), longest, width), torch.nan, dtype=dtype)
    for row, c in enumerate(chains):
        hidden[:, row, : c.hidden.shape[1]] = torch.from_numpy(c.hidden).to(dtype)
    return dict(enumerate(hidden))


def collected(
    chains: list[Synthetic],
    *,
    seed: int = 0,
    batch: int = 7,
    covariance: bool = False,
    samples: SpanMeans | None = None,
) -> Moments:
    """Moments of synthetic chains, ``batch`` chains at a time."""
    layers, _, width = chains[0].hidden.shape
    moments = Moments(LABELS, range(layers), width, seed=seed, covariance=covariance)
    for first in range(0, len(chains), batch):
        part = chains[first : first + batch]
        moments.update([c.chain for c in part], padded(part))
        if samples is not None:
            hidden = padded(part)
            batch_ = Batch([c.chain for c in part], LABELS, hidden[0].shape[1], seed)
            samples.add(batch_, {layer: batch_.read(h) for layer, h in hidden.items()})
    return moments


_weights = cache(column_weights)


def planted_moments(
    means: np.ndarray,
    rates: np.ndarray,
    *,
    tasks: int,
    layers: int,
    span_noise: float,
    chain_noise: float = 0.0,
    spectrum: np.ndarray | None = None,
    seed: int = 0,
) -> Moments:
    """Moments of chains, one a task, whose spans of a label scatter about its mean.

    ``means`` is [label, d_model]. A chain has Poisson(``rates``) spans of every label. Every
    layer draws its own noise: of each span, and with ``chain_noise`` of the chain as a whole and
    of the label in it; ``spectrum`` is its size by dimension. The sums are made directly, not
    from activations, so that hundreds of data sets take no time.
    """
    rng = np.random.default_rng(seed)
    width = means.shape[1]
    scale = np.ones(width) if spectrum is None else spectrum
    names = [f"planted-{i}" for i in range(tasks)]
    weights = torch.stack([_weights(name) for name in names], dim=1)
    counts = rng.poisson(rates, size=(tasks, len(rates)))
    moments = Moments(PLANTED[: len(rates)], range(layers), width)
    n = counts[..., None]
    others = n.sum(axis=1, keepdims=True) - n
    for layer in range(layers):
        chain = rng.normal(size=(tasks, 1, width)) + rng.normal(size=(tasks, len(rates), width))
        spans = np.sqrt(n) * rng.normal(size=(tasks, len(rates), width))
        own = n * (means + chain_noise * chain * scale) + span_noise * spans * scale
        total = own.sum(axis=1, keepdims=True)
        inside = own / np.maximum(n, 1) - (total - own) / np.maximum(others, 1)
        inside = np.where((n > 0) & (others > 0), inside, 0.0)
        features = np.concatenate([own, inside, total / np.maximum(n.sum(1, keepdims=True), 1)], 1)
        moments._sums[layer] = (weights.double() @ torch.from_numpy(features).flatten(1)).view(
            len(weights), -1, width
        )
    whole = torch.from_numpy(counts)
    moments.counts = weights @ whole
    moments.within_counts = weights @ torch.from_numpy((n > 0) & (others > 0))[..., 0].long()
    moments.chains = weights @ (whole.sum(dim=1) > 0).long()
    for label, column in zip(moments.labels, counts.T, strict=True):
        moments.tasks[label] = {name for name, k in zip(names, column, strict=True) if k}
    return moments


def span_means(chain: Synthetic) -> list[tuple[str, np.ndarray]]:
    """Label and mean activation [layer, d_model] of each window."""
    return [(label, chain.hidden[:, a:b].mean(axis=1)) for a, b, label in chain.chain.windows]


def reference_contrast(
    chains: list[Synthetic],
    name: str,
    label: str,
    weight: dict[str, int] | None = None,
    labels: dict[str, list[str]] | None = None,
) -> np.ndarray | None:
    """A direction [layer, d_model] from the words of its definition; None if undefined.

    A chain whose task weighs w is simply taken w times. ``labels`` replaces a chain's
    labels, window by window.
    """
    taken = [c for c in chains for _ in range(1 if weight is None else weight[c.chain.task])]
    spans = []  # one list of (label, mean) for every chain taken
    for c in taken:
        means = span_means(c)
        if labels is not None:
            means = [(new, m) for new, (_, m) in zip(labels[c.chain.key], means, strict=True)]
        spans.append(means)
    own = [m for chain in spans for found, m in chain if found == label]
    if not own:
        return None
    if name == "overall":
        thinking = [
            c.hidden[:, slice(*c.chain.thinking)].mean(axis=1)
            for c in taken
            if c.chain.thinking[1] > c.chain.thinking[0]
        ]
        return np.mean(own, axis=0) - np.mean(thinking, axis=0)
    if name == "rest":
        others = [m for chain in spans for found, m in chain if found != label]
        return np.mean(own, axis=0) - np.mean(others, axis=0) if others else None
    if name == "balanced":
        groups: dict[str, list[np.ndarray]] = {}
        for chain in spans:
            for found, m in chain:
                if found != label:
                    groups.setdefault(found, []).append(m)
        if not groups:
            return None
        return np.mean(own, axis=0) - np.mean([np.mean(g, axis=0) for g in groups.values()], axis=0)
    if name == "within":
        differences = []
        for chain in spans:
            mine = [m for found, m in chain if found == label]
            others = [m for found, m in chain if found != label]
            if mine and others:
                differences.append(np.mean(mine, axis=0) - np.mean(others, axis=0))
        return np.mean(differences, axis=0) if differences else None
    left, right = name.split(":")
    if label != left:
        return None
    others = [m for chain in spans for found, m in chain if found == right]
    return np.mean(own, axis=0) - np.mean(others, axis=0) if others else None


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
