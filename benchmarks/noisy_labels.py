"""Wrong labels, and the directions that come of them, for `make noise`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bare_vectors import bare_vectors

import steerkit as sk
from steerkit.annotation.agreement_measures import kappa
from steerkit.behaviors import UNPARSED
from steerkit.collection import collect, trace_digest
from steerkit.directions import Sums, differences
from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic
from steerkit.span_means import Span, SpanMeans

NONE = -1
"""Stands for a span that an annotator did not label."""


@dataclass(frozen=True)
class Read:
    """Span means of some chains, float64 ``[layer, span, d_model]``, and what the spans are."""

    means: torch.Tensor
    spans: list[Span]
    names: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        """The true label of every span, as its place in ``names``."""
        return np.array([self.names.index(span.label) for span in self.spans])


@dataclass(frozen=True)
class Labelling:
    """Labels of the spans of all chains: ``kind``, ``share`` that is wrong, ``seed``."""

    kind: str
    share: float
    seed: int
    labels: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.kind}-{100 * self.share:g}-{self.seed}"


# -- labels


def random_flow(labels: np.ndarray, size: int) -> np.ndarray:
    """How a wrong label is drawn ``[true, wrong]``, rows summing to 1: by frequency."""
    shares = np.bincount(labels, minlength=size) / len(labels)
    flow = np.tile(shares, (size, 1))
    np.fill_diagonal(flow, 0)
    return flow / flow.sum(axis=1, keepdims=True)


def confused_flow(confusion: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """How often every label is mistaken for which other ``[true, wrong]``, as an annotator does.

    ``confusion`` counts units by true (row) and given label; unparsed ones are left out.
    """
    table = confusion.loc[list(names), list(names)].to_numpy(dtype=float)
    flow = table / table.sum(axis=1, keepdims=True)
    np.fill_diagonal(flow, 0)
    return flow


def corrupted(labels: np.ndarray, share: float, flow: np.ndarray, seed: int) -> np.ndarray:
    """Labels of which a share is wrong.

    A label's share of errors is proportional to its row's sum in ``flow`` (1 at most), and which
    label stands instead is drawn by the row. The number of errors of every label is exact up to
    rounding.
    """
    counts, weights = np.bincount(labels, minlength=len(flow)), flow.sum(axis=1)
    rates = np.minimum(_factor(counts, weights, share) * weights, 1.0)
    rng, found = np.random.default_rng(seed), labels.copy()
    for label, count in enumerate(counts):
        places = rng.permutation(np.flatnonzero(labels == label))[: round(rates[label] * count)]
        if len(places):
            chances = flow[label] / weights[label]
            found[places] = rng.choice(len(flow), size=len(places), p=chances)
    return found


def _factor(counts: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The number that all rates of error are multiplied by, so that ``share`` is wrong."""
    low, high = 0.0, 1 / weights[weights > 0].min()
    for _ in range(100):
        middle = (low + high) / 2
        wrong = (counts * np.minimum(middle * weights, 1)).sum() / counts.sum()
        low, high = (middle, high) if wrong < share else (low, middle)
    return high


def agreement(labels: np.ndarray, other: np.ndarray, size: int) -> float:
    """Cohen's kappa; a span without a label counts as one more label."""
    table = np.zeros((size + 1, size + 1))
    np.add.at(table, (labels, np.where(other == NONE, size, other)), 1)
    return float(kappa(table))


def aligned(spans: Sequence[Span], chains: sk.Traces, other: sk.Traces) -> list[str]:
    """Labels of another annotation of the same spans, in the order of the span means."""
    waiting: dict[str, Iterator[tuple[str, str]]] = {}
    for trace, twin in zip(chains, other, strict=True):
        pairs = [(s.label, t.label) for s, t in zip(trace.spans, twin.spans, strict=True)]
        waiting[trace_digest(trace)] = iter([pair for pair in pairs if pair[0] != UNPARSED])
    found = []
    for span in spans:
        true, said = next(waiting[span.chain], ("no span", ""))
        if true != span.label:
            raise SteerkitError("spans do not match", expected=span.label, found=true)
        found.append(said)
    if any(next(rest, None) for rest in waiting.values()):
        raise SteerkitError("spans without a mean", fix="read a window that is never empty")
    return found


# -- directions


def read_means(
    model: sk.ThinkingModel, traces: sk.Traces, contrast: str, folder: Path
) -> tuple[Read, sk.SteeringVectors]:
    """Chains of *extract* tasks, read once at every layer, and the vectors of their true labels.

    Both are kept in ``folder``, and read from there the next time.
    """
    means, listed = folder / "span_means.npy", folder / "spans.json"
    stored = folder / "vectors.safetensors"
    if not stored.is_file():
        kept: list[SpanMeans] = []

        def make(layers: Sequence[int], spans: int) -> SpanMeans:
            kept.append(SpanMeans(means, tuple(layers), spans, model.d_model))
            return kept[0]

        moments = collect(model, traces.split("extract"), samples=make)
        layers = [kept[0].layer(i) for i in range(len(moments.layers))]
        np.save(means, np.stack(layers))
        write_text_atomic(listed, json.dumps([kept[0].spans, moments.labels]))
        bare_vectors(model, moments, traces, contrast).save(stored)
    spans, names = json.loads(listed.read_text())
    found = Read(
        torch.from_numpy(np.load(means)).double(), [Span(*row) for row in spans], tuple(names)
    )
    return found, sk.read_vectors(stored)


def mean_directions(
    read: Read,
    labels: np.ndarray,
    contrast: str,
    rows: np.ndarray | None = None,
    layers: Sequence[int] | None = None,
) -> torch.Tensor:
    """Differences of means of some spans under these labels, ``[label, layer, d_model]``.

    Zero for a label that no span has. Contrasts that need span means alone: ``rest``,
    ``balanced``, ``A:B``. ``layers`` are rows of the means, by default all.
    """
    if contrast in ("overall", "within"):
        raise SteerkitError(f"span means do not give the contrast {contrast!r}")
    size = len(read.names)
    every = np.arange(len(labels)) if rows is None else rows
    chosen = every[labels[every] != NONE]
    own = torch.zeros(size, len(labels), dtype=torch.float64)
    own[torch.from_numpy(labels[chosen]), torch.from_numpy(chosen)] = 1
    counts = own.sum(dim=1)[None].long()
    found = []
    for layer in range(len(read.means)) if layers is None else layers:
        means = read.means[layer]
        features = torch.zeros(1, 2 * size + 1, means.shape[1], dtype=torch.float64)
        features[0, :size] = own @ means
        sums = Sums(features, counts, torch.zeros_like(counts), torch.zeros(1).long())
        found.append(differences(sums, contrast, read.names)[0][0])
    return torch.stack(found, dim=1)


def cosines(
    read: Read,
    labellings: Sequence[Labelling],
    layers: Mapping[str, int],
    contrast: str,
    few: int,
) -> pd.DataFrame:
    """One row a labelling, set of chains and behaviour.

    ``cosine`` with the direction of the true labels of the same chains; for the chains of
    ``few`` tasks, other ones for every seed, also ``others``: that with the direction of the
    true labels of all other chains. NaN for a behaviour that no span was labelled with.
    """
    truth, rows = read.labels, []
    tasks = np.array([span.task for span in read.spans])
    needed = sorted(set(layers.values()))

    def directions(labels: np.ndarray, chosen: np.ndarray | None = None) -> torch.Tensor:
        return mean_directions(read, labels, contrast, chosen, needed)

    clean = directions(truth)
    known: dict[int, tuple[np.ndarray, torch.Tensor, torch.Tensor]] = {}
    for labelling in labellings:
        seed = labelling.seed
        if seed not in known:
            order = np.random.default_rng([seed, 1]).permutation(np.unique(tasks))
            inside = np.isin(tasks, order[:few])
            mine, rest = np.flatnonzero(inside), np.flatnonzero(~inside)
            sides = [directions(truth, side) for side in (mine, rest)]
            known[seed] = (mine, sides[0], sides[1])
        mine, own, others = known[seed]
        agreed = agreement(truth, labelling.labels, len(read.names))
        found, small = directions(labelling.labels), directions(labelling.labels, mine)
        for name, layer in layers.items():
            at = (read.names.index(name), needed.index(layer))
            row = {"kind": labelling.kind, "share": labelling.share, "seed": seed}
            row |= {"kappa": agreed, "behavior": name, "layer": layer}
            rows.append({**row, "chains": "all", "cosine": _cosine(found[at], clean[at])})
            row |= {"cosine": _cosine(small[at], own[at])}
            rows.append({**row, "chains": str(few), "others": _cosine(small[at], others[at])})
    return pd.DataFrame(rows)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    if float(a.norm()) == 0 or float(b.norm()) == 0:
        return float("nan")
    return float(torch.cosine_similarity(a, b, dim=0))
