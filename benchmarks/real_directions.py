"""Directions of a real model for `make real`: from which chains, and beside which others."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from real_measures import load_at_start, peak_memory
from real_report import LABELS

import steerkit as sk

LAYER = 17
"""The layer arXiv 2506.18167 uses for backtracking in the distilled model of the same shape."""

CONTRASTS = ("rest", "overall", "balanced", "within")
ANNOTATED = "r1_distill_qwen_1.5b_annotated.json"
MEANS = "r1_distill_qwen_1.5b_mean_vectors.pt"


def reference_folder() -> Path | None:
    """The folder that STEERKIT_REFERENCE names; ``None`` where it is not set.

    Leaves with code 2 where it is set and a file is missing.
    """
    named = os.environ.get("STEERKIT_REFERENCE")
    if not named:
        print(
            "make real: STEERKIT_REFERENCE is not set, so nothing is compared with the reference "
            f"chains and the published means. It would name a folder with\n  {ANNOTATED}: "
            "annotated chains of DeepSeek-R1-Distill-Qwen-1.5B, a JSON list of\n"
            '    {"response", "annotated_response"} with ["label"] text ["end-section"] tags;\n'
            f"  {MEANS}: the published means, {{label: {{mean, count}}}}.",
            file=sys.stderr,
        )
        return None
    missing = [name for name in (ANNOTATED, MEANS) if not (Path(named) / name).is_file()]
    if missing:
        print(f"make real: STEERKIT_REFERENCE holds no {' and no '.join(missing)}", file=sys.stderr)
        raise SystemExit(2)
    return Path(named)


def own_chains() -> sk.Traces:
    """The labelled chains in plain English that come with steerkit."""
    return sk.read_traces(sk.data("traces/reasoning.jsonl"))


def reference_chains(folder: Path, tokenizer: Any, tokens: int) -> tuple[sk.Traces, int]:
    """The first ``tokens`` tokens of each reference chain; parts that could not be placed."""
    chains, unplaced = sk.read_tagged(folder / ANNOTATED)
    return sk.Traces(head(trace, tokenizer, tokens) for trace in chains), len(unplaced)


def head(trace: sk.Trace, tokenizer: Any, tokens: int) -> sk.Trace:
    """The chain's first ``tokens`` tokens, with the spans that lie wholly inside."""
    offsets = tokenizer(trace.response, add_special_tokens=False, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    if len(offsets) <= tokens:
        return trace
    cut = offsets[tokens][0]
    return replace(
        trace,
        response=trace.response[:cut],
        spans=tuple(span for span in trace.spans if span.end <= cut),
        metadata={**trace.metadata, "truncated": True},
    )


def published_directions(path: Path) -> dict[str, dict[str, Any]]:
    """Directions of the published means by contrast and label, each ``[layer, d_model]``.

    ``overall`` is mean(label) - mean(overall). The means of the labels allow ``rest`` (minus
    the mean over the other labels' spans, spans equally) and ``balanced`` (labels equally) as
    well; ``within`` would need the chains.
    """
    import torch

    means = torch.load(path, weights_only=True)
    labels = [name for name in means if name in {"initializing", *LABELS}]
    mean = {name: means[name]["mean"].double() for name in labels}
    count = {name: means[name]["count"] for name in labels}
    directions: dict[str, dict[str, Any]] = {"rest": {}, "overall": {}, "balanced": {}}
    for name in labels:
        others = [other for other in labels if other != name]
        total = sum(count[other] for other in others)
        rest = sum(count[other] / total * mean[other] for other in others)
        directions["rest"][name] = mean[name] - rest
        directions["overall"][name] = mean[name] - means["overall"]["mean"].double()
        directions["balanced"][name] = mean[name] - sum(mean[o] for o in others) / len(others)
    return directions


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
    vectors = sk.extract(model, chains, select=sk.Traces(), progress=progress("extract"))
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
        theirs = published_directions(published)["rest"]
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
    moments = sk.collect(model, chains, layers=[LAYER], progress=progress("other contrasts"))
    seconds = time.perf_counter() - started
    theirs = {} if published is None else published_directions(published)
    labels = list(moments.labels)
    found: dict[str, Any] = {}
    for name in CONTRASTS:
        if name == "rest":
            continue
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
            if theirs:  # `within` has no published counterpart and is set against `rest`
                means = theirs.get(name, theirs["rest"])
                found[name][label] |= against_published(direction, label, means, labels)
    return found, round(seconds, 1)


def progress(what: str) -> Any:
    """A progress callback that prints one line, over and over."""
    started = time.perf_counter()

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        seconds = time.perf_counter() - started
        print(f"\r{what}: {done}/{total}, {seconds:.0f} s", end=end, file=sys.stderr, flush=True)

    return show
