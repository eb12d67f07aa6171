"""`make real`: a real 1.5B model by the same calls as the bundled one.

Reads the 100 annotated chains of $STEERKIT_REFERENCE, extracts the behaviours' directions from
Qwen2.5-Coder-1.5B-Instruct in bfloat16 (see real_model.py), compares them with the directions
that the authors of arXiv 2506.18167 published for DeepSeek-R1-Distill-Qwen-1.5B, and steers
eight prompts along backtracking, uncertainty and a random direction. Results go to
benchmarks/results/real.{json,csv,md}. A run that was interrupted goes on where it stopped
(its state is in out/real; --fresh starts over).

    python benchmarks/real.py
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import real_model
import torch
from real_measures import code_digest, load_at_start, machine, measure, peak_memory, summarise
from real_report import excerpts, markdown, write_results
from reference import CHAINS, LAYER, MEANS, head, reference_folder
from resumable import open_state, progress

import steerkit as sk
from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic

CONTRASTS = ("rest", "overall", "balanced", "within")
STEERED = ("backtracking", "uncertainty-estimation", "random")
COEFFICIENTS = (-0.4, 0.25, 0.5)
"""In mean norms of the residual stream; 0 is one row more, shared by the three directions."""

PROMPTS = {
    "bread": "A baker fills 7 trays with 12 rolls each and then finds that 9 rolls are burnt. "
    "She packs the good ones in bags of 5. How many full bags does she get, and how many rolls "
    "are left over?",
    "height": "Tom is taller than Ana, and Ana is taller than Ravi. Mei is shorter than Tom but "
    "taller than Ana. Who is the second tallest of the four?",
    "socks": "A drawer holds 6 red and 4 blue socks. How many socks must you take out in the dark "
    "to be sure that you have two blue ones?",
    "bus": "A bus leaves at 14:35. The trip takes 2 hours and 50 minutes, but today there is a "
    "delay of 25 minutes on the way. When does the bus arrive?",
    "odd": "Add two odd numbers and multiply the sum by an even number. Can the result always be "
    "divided by 4? Say how you know.",
    "gardeners": "Every gardener on Hill Street owns a rake. Some people who own a rake also own "
    "a barrow. Does it follow that some gardener on Hill Street owns a barrow?",
    "grass": "If it rained in the night, the grass is wet. This morning the grass is wet. Did it "
    "rain? What else could explain it, and how would you find out?",
    "pages": "Lena reads 14 pages on Monday, and each day after that 3 pages more than the day "
    "before. On which day has she read at least 100 pages in all?",
}


# ----------------------------------------------------------------------- extraction


def published_tensors(path: Path, contrast: str) -> dict[str, torch.Tensor]:
    """The published directions ``[layer, d_model]`` under a contrast that means allow."""
    return {name: d.tensor for name, d in sk.read_published(path, contrast=contrast).items()}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of two vectors, in float64."""
    return float(torch.cosine_similarity(a.double(), b.double(), dim=0))


def against_published(
    direction: Any, label: str, theirs: Mapping[str, Any], labels: list[str], mean_norm: float
) -> dict[str, float]:
    """Length in mean norms, and cosines with published directions, at ``LAYER``."""
    return {
        "norm": float(direction.norm() / mean_norm),
        "cosine": cosine(direction, theirs[label][LAYER]),
        "cosine_with_other_labels": statistics.fmean(
            cosine(direction, theirs[other][LAYER]) for other in labels if other != label
        ),
    }


def extraction(
    model: sk.ThinkingModel, chains: sk.Traces, published: Path, state: Path
) -> dict[str, Any]:
    """Extract, save the vectors, and compare; the figures that stand in the results."""
    started, load = time.perf_counter(), load_at_start()
    vectors = sk.extract(model, chains, select=sk.Traces(), progress=progress("extract"))
    seconds, peak = time.perf_counter() - started, peak_memory()
    vectors.save(state / "vectors.safetensors")

    theirs = published_tensors(published, "rest")
    labels = list(vectors)
    first = vectors[labels[0]]
    row = first.row(LAYER)
    mean_norm = float(first.mean_norm[row])
    bounds = [model.align(trace).thinking for trace in chains]
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
        "contrasts": {
            "rest": {
                label: {
                    "split_half": float(vectors[label].split_half[row]),
                    "split_half_shuffled": float(vectors[label].split_half_shuffled[row]),
                    **against_published(
                        vectors[label].tensor[row], label, theirs, labels, mean_norm
                    ),
                }
                for label in labels
            }
        },
        "cosine_by_layer": {
            label: [
                round(cosine(vectors[label].tensor[layer], theirs[label][layer]), 4)
                for layer in range(model.n_layers)
            ]
            for label in labels
        },
    }


def other_contrasts(
    model: sk.ThinkingModel, chains: sk.Traces, published: Path
) -> tuple[dict[str, Any], float]:
    """The same figures of the other contrasts, and seconds; layers above ``LAYER`` do not run."""
    from steerkit.directions import contrast
    from steerkit.reliability import split_half, split_half_shuffled

    started = time.perf_counter()
    moments = sk.collect(model, chains, layers=[LAYER], progress=progress("other contrasts"))
    seconds = time.perf_counter() - started
    labels = list(moments.labels)
    found = {}
    for name in CONTRASTS:
        if name == "rest":
            continue
        # `within` has no published counterpart and is set against `rest`
        theirs = published_tensors(published, "rest" if name == "within" else name)
        raw = contrast(moments, name)[:, 0]
        halves, shuffled = split_half(moments, name), split_half_shuffled(moments, name)
        found[name] = {
            label: {
                "split_half": float(halves[label][0]),
                "split_half_shuffled": float(shuffled[label][0]),
                **against_published(
                    raw[labels.index(label)],
                    label,
                    theirs,
                    labels,
                    float(moments.mean_norm[0]),
                ),
            }
            for label in labels
        }
    return found, round(seconds, 1)


# ------------------------------------------------------------------------- steering


def conditions(vectors: sk.SteeringVectors) -> list[sk.Term | None]:
    """One row each: unsteered, then every direction at every coefficient, at one layer."""
    backtracking = vectors["backtracking"]
    directions = (backtracking, vectors["uncertainty-estimation"], backtracking.random(0))
    terms = [c * direction.at(layer=LAYER) for direction in directions for c in COEFFICIENTS]
    return [None, *terms]


def condition_of(trace: sk.Trace) -> tuple[str, float]:
    """Direction and coefficient that a chain was written under; ("none", 0) if unsteered."""
    for term in trace.metadata.get("steering") or ():
        name = term["behavior"]
        return "random" if name.startswith("random") else name, term["coefficient"]
    return "none", 0.0


def steering(
    model: sk.ThinkingModel, vectors: sk.SteeringVectors, state: Path, tokens: int
) -> tuple[sk.Traces, dict[str, Any]]:
    """Every prompt under every condition, greedily; two prompts a batch, kept batch by batch."""
    rows, path, log = conditions(vectors), state / "texts.jsonl", state / "generation.json"
    done = sk.read_traces(path) if path.is_file() else sk.Traces()
    spent = json.loads(log.read_text()) if log.is_file() else {"seconds": 0.0, "tokens": 0}
    finished = {trace.task_id for trace in done}
    left = [name for name in PROMPTS if name not in finished]
    for first in range(0, len(left), 2):
        tasks = [sk.Task(id=name, prompt=PROMPTS[name]) for name in left[first : first + 2]]
        started = time.perf_counter()
        written = model.generate(
            [task for task in tasks for _ in rows],
            steer=[row for _ in tasks for row in rows],
            max_new_tokens=tokens,
            temperature=0.0,
            on_interrupt="raise",
        )
        spent["seconds"] += time.perf_counter() - started
        spent["tokens"] += sum(len(trace.token_ids or ()) for trace in written)
        done = done + written
        sk.write_traces(done, path)
        write_text_atomic(log, json.dumps(spent))
        print(f"steered {len(done) // len(rows)} of {len(PROMPTS)} prompts", file=sys.stderr)
    return done, {**spent, "rows": 2 * len(rows), "peak_memory_bytes": peak_memory()}


def tabulate(texts: Iterable[sk.Trace]) -> list[dict[str, Any]]:
    """One row a text: prompt, direction, coefficient, measures."""
    rows = []
    for trace in texts:
        direction, coefficient = condition_of(trace)
        rows.append(
            {
                "prompt": trace.task_id,
                "direction": direction,
                "coefficient": coefficient,
                "tokens": len(trace.token_ids or ()),
                "truncated": trace.truncated,
                **measure(trace.response),
                "text": trace.response,
            }
        )
    order = ["none", *STEERED]
    prompts = list(PROMPTS)
    rows.sort(
        key=lambda r: (order.index(r["direction"]), r["coefficient"], prompts.index(r["prompt"]))
    )
    return rows


# ------------------------------------------------------------------------------- run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=700, help="tokens read of each chain")
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--contrasts", action="store_true", help="compare the other contrasts too")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument(
        "--report", action="store_true", help="only write the pages of the last results again"
    )
    arguments = parser.parse_args()
    if arguments.report:
        results = json.loads((Path(__file__).parent / "results" / "real.json").read_text())
        rows = results.pop("texts")
        write_results({**results, "excerpts": excerpts(rows, PROMPTS)}, rows)
        return
    reference = reference_folder("make real")

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = real_model.model_folder()
    manifest = json.loads((folder / real_model.MANIFEST).read_text())
    annotated = reference / CHAINS
    means = reference / MEANS
    settings = {
        "code": code_digest(),
        "model": manifest["files"],
        "chains": real_model.sha256_of(annotated),
        "means": real_model.sha256_of(means),
        "tokens": arguments.tokens,
        "max_new_tokens": arguments.max_new_tokens,
        "layer": LAYER,
        "prompts": PROMPTS,
        "coefficients": COEFFICIENTS,
    }
    state = open_state(Path("out") / "real", settings, arguments.fresh)

    model = sk.load(str(folder), think=("<think>", "</think>"), dtype="bf16", device="cpu")
    chains, unplaced = sk.read_tagged(annotated)
    print(f"{chains!r}; {len(unplaced)} spans could not be placed", file=sys.stderr)
    chains = sk.Traces(head(trace, model, arguments.tokens) for trace in chains)

    figures_file = state / "extraction.json"
    if not figures_file.is_file():
        figures = extraction(model, chains, means, state)
        write_text_atomic(figures_file, json.dumps(figures))
    figures = json.loads(figures_file.read_text())
    vectors = sk.read_vectors(state / "vectors.safetensors")

    texts, generation = steering(model, vectors, state, arguments.max_new_tokens)
    if arguments.contrasts:
        others, seconds = other_contrasts(model, chains, means)
        figures["contrasts"] |= others
        figures["seconds"]["one layer"] = seconds
    rows = tabulate(texts)
    results = {
        "model": folder.name,
        "tokens_per_chain": arguments.tokens,
        "max_new_tokens": arguments.max_new_tokens,
        "spans_not_placed": len(unplaced),
        "extraction": figures,
        "conditions": summarise(rows, STEERED, COEFFICIENTS),
        "excerpts": excerpts(rows, PROMPTS),
        "generation": generation,
        "conversion": manifest["conversion"],
        "machine": {**machine(), "steerkit": sk.__version__},
    }
    write_results(results, rows)
    print(markdown(results))


if __name__ == "__main__":
    try:
        main()
    except SteerkitError as problem:
        print(f"make real: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
