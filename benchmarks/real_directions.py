"""Directions of a real model for `make real`: from which chains, and beside which others."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from real_measures import load_at_start, peak_memory
from reference import CHAINS, LAYER, head
from resumable import progress

import steerkit as sk

CONTRASTS = ("rest", "overall", "balanced", "within")


def own_chains() -> sk.Traces:
    """The labelled chains in plain English that come with steerkit."""
    return sk.read_traces(sk.data("traces/reasoning.jsonl"))


def reference_chains(folder: Path, model: sk.ThinkingModel, tokens: int) -> tuple[sk.Traces, int]:
    """The first ``tokens`` tokens of each reference chain; parts that could not be placed."""
    chains, unplaced = sk.read_tagged(folder / CHAINS)
    return sk.Traces(head(trace, model, tokens) for trace in chains), len(unplaced)


def published_tensors(path: Path, contrast: str) -> dict[str, Any]:
    """The published directions ``[layer, d_model]`` under a contrast that means allow."""
    return {name: d.tensor for name, d in sk.read_published(path, contrast=contrast).items()}


def cosine(a: Any, b: Any) -> float:
    """Cosine of two vectors, in float64."""
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def against_published(
    direction: Any, label: str, theirs: Mapping[str, Any], labels: list[str]
) -> dict[str, float]:
    """Cosines with published directions at ``LAYER``: the same label's, and the others' mean."""
    return {
        "cosine": cosine(direction, theirs[label][LAYER]),
        "cosine_with_other_labels": statistics.fmean(
            cosine(direction, theirs[other][LAYER]) for other in labels if other != label
        ),
    }


def extraction(
    model: sk.ThinkingModel, chains: sk.Traces, path: Path, published: Path | None
) -> dict[str, Any]:
    """Extract, save the vectors, and compare with what was published for another model of the
    same width, if that is at hand; the figures that stand in the results."""
    started, load = time.perf_counter(), load_at_start()
    # the window of the published means, which these directions are compared with
    vectors = sk.extract(
        model,
        chains,
        contrast="rest",
        window=sk.Window(1, 10),
        select=sk.Traces(),
        progress=progress("extract"),
    )
    seconds, peak = time.perf_counter() - started, peak_memory()
    vectors.save(path)

    labels = list(vectors)
    first = vectors[labels[0]]
    row = first.row(LAYER)
    mean_norm = float(first.mean_norm[row])
    bounds = [model.align(trace).thinking for trace in chains]
    rest: dict[str, dict[str, float]] = {
        label: {
            "norm": float(vectors[label].tensor[row].norm() / mean_norm),
            "split_half": float(vectors[label].split_half[row]),
            "split_half_shuffled": float(vectors[label].split_half_shuffled[row]),
        }
        for label in labels
    }
    by_layer = {}
    if published is not None:
        theirs = published_tensors(published, "rest")
        for label in labels:
            tensor = vectors[label].tensor
            rest[label] |= against_published(tensor[row], label, theirs, labels)
            by_layer[label] = [
                round(cosine(tensor[layer], theirs[label][layer]), 4)
                for layer in range(model.n_layers)
            ]
    return {
        "layer": LAYER,
        "chains": len(chains),
        "thinking_tokens": sum(end - start for start, end in bounds),
        "spans": {label: vectors[label].spans for label in labels},
        "counts": dict(vectors.provenance["counts"]),
        "mean_norm": mean_norm,
        "norm_of_mean": float(first.norm_of_mean[row]),
        "outliers": vectors.provenance["outliers"][row],
        "seconds": {"all layers": round(seconds, 1)},
        "load_average_at_start": load,
        "peak_memory_bytes": peak,
        "chance": {
            # a random direction's cosine has mean 0 and standard deviation 1 / sqrt(width)
            "standard_deviation": 1 / math.sqrt(model.d_model),
            "mean_size": math.sqrt(2 / (math.pi * model.d_model)),
        },
        "contrasts": {"rest": rest},
        "cosine_by_layer": by_layer,
    }


def between_chains(own: sk.SteeringVectors, reference: sk.SteeringVectors) -> dict[str, Any]:
    """Directions of the same model from two sets of chains: cosines by behaviour at ``LAYER``,
    the mean over other behaviours' directions beside them, and cosines at every layer."""
    table = sk.compare_directions(own, reference)
    here = table[table["layer"] == LAYER]
    directions = {}
    for label in own:
        rows = here[here["behavior_a"] == label]
        if not rows["matched"].any():
            continue
        same = rows[rows["matched"]].iloc[0]
        directions[label] = {
            **{name: float(same[name]) for name in ("cosine", "low", "high", "corrected")},
            "cosine_with_other_labels": float(rows.loc[~rows["matched"], "cosine"].mean()),
        }
    return {
        "directions": directions,
        "cosine_by_layer": {
            label: [round(float(c), 4) for c in rows.sort_values("layer")["cosine"]]
            for label, rows in table[table["matched"]].groupby("behavior_a")
        },
    }


def other_contrasts(
    model: sk.ThinkingModel, chains: sk.Traces, published: Path | None
) -> tuple[dict[str, Any], float]:
    """The same figures of the other contrasts, and seconds; layers above ``LAYER`` do not run."""
    from steerkit.directions import contrast
    from steerkit.reliability import split_half, split_half_shuffled

    started = time.perf_counter()
    moments = sk.collect(
        model,
        chains,
        layers=[LAYER],
        window=sk.Window(1, 10),
        progress=progress("other contrasts"),
    )
    seconds = time.perf_counter() - started
    labels = list(moments.labels)
    found: dict[str, Any] = {}
    for name in CONTRASTS:
        if name == "rest":
            continue
        # `within` has no published counterpart and is set against `rest`
        known = "rest" if name == "within" else name
        theirs = {} if published is None else published_tensors(published, known)
        raw = contrast(moments, name)[:, 0]
        halves, shuffled = split_half(moments, name), split_half_shuffled(moments, name)
        found[name] = {}
        for label in labels:
            direction = raw[labels.index(label)]
            found[name][label] = {
                "norm": float(direction.norm() / moments.mean_norm[0]),
                "split_half": float(halves[label][0]),
                "split_half_shuffled": float(shuffled[label][0]),
            }
            if theirs:
                found[name][label] |= against_published(direction, label, theirs, labels)
    return found, round(seconds, 1)
