"""`make published`: does a model share its directions with those that others published?

Directions of Qwen2.5-Coder-1.5B-Instruct, extracted from annotated chains, against the published
mean activations of DeepSeek-R1-Distill-Qwen-1.5B (arXiv 2506.18167), a sibling of the same shape,
both under the contrast `rest`: cosines by layer and behaviour, beside two controls that could
have killed it. Labels are shuffled within chains 20 times, which the one pass over the chains
keeps sums of; and every behaviour is set against the published directions of the others. Results
go to benchmarks/results/published.{json,csv,md,png}. Moments are kept in out/published after
every few chains, so an interrupted run goes on where it stopped (--fresh starts over).

    python benchmarks/published.py --dtype float32
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import real_model
from published_report import markdown, summary
from real_measures import code_digest, machine
from reference import CHAINS, LAYER, MEANS, R1, head, reference_folder
from resumable import budget, open_state, progress

import steerkit as sk
from steerkit.behaviors import behaviors
from steerkit.comparison_plot import plot_comparison
from steerkit.directions import shuffled_contrasts
from steerkit.errors import SteerkitError
from steerkit.evidence import Evidence, described, plain
from steerkit.files import write_text_atomic
from steerkit.layer_choice.suggestion import by_areas
from steerkit.moments_file import read_moments, write_moments
from steerkit.plots import save_figure
from steerkit.provenance import model_facts

RESULTS = Path(__file__).parent / "results"
CONTRAST = "rest"


def collected(model: sk.ThinkingModel, chains: sk.Traces, state: Path, size: int) -> sk.Moments:
    """Moments of all chains, ``size`` at a time; what is in ``state`` is not read again.

    A file is named by the number of chains that are in it, and the one before is deleted once it
    is whole: nothing is ever counted twice.
    """
    labels = [b.name for b in behaviors() if b.name in chains.counts()]
    kept = sorted(state.glob("moments_*.safetensors"))
    total = read_moments(kept[-1]) if kept else None
    done = int(kept[-1].stem.removeprefix("moments_")) if kept else 0
    show = progress("chains")
    for first in range(done, len(chains), size):
        part = sk.collect(
            # the window of the published means
            model,
            chains[first : first + size],
            labels=labels,
            window=sk.Window(1, 10),
        )
        total = part if total is None else total + part
        done = min(first + size, len(chains))
        before, path = kept, state / f"moments_{done:05}.safetensors"
        write_moments(total, path)
        kept = [path]
        for old in before:
            old.unlink()
        show(done, len(chains))
    if total is None:
        raise SteerkitError("no chains to read")
    return total


def own_vectors(model: sk.ThinkingModel, moments: sk.Moments) -> sk.SteeringVectors:
    """Directions of all behaviours, with the cones that intervals come from."""
    evidence = Evidence(moments)
    raw = {n: d.float() for n, d in evidence.directions("mean-difference", CONTRAST).items()}
    found = plain(evidence, raw, model.n_layers)
    none = by_areas(list(found), {}, moments.layers)
    directions = described(evidence, "mean-difference", CONTRAST, found, {}, none)
    return sk.SteeringVectors(directions, {**model_facts(model), "contrast": CONTRAST})


def twins(vectors: sk.SteeringVectors, moments: sk.Moments) -> list[sk.SteeringVectors]:
    """The vectors of the same chains with labels shuffled, one for each shuffle."""
    found = []
    for tensors in shuffled_contrasts(moments, CONTRAST).float():
        directions = {
            name: replace(
                direction,
                tensor=tensors[moments.labels.index(name)].contiguous(),
                split_half=None,
                split_half_shuffled=None,
                cone=None,
                norm_low=None,
                norm_high=None,
                mean_projection=None,
            )
            for name, direction in vectors.items()
        }
        found.append(sk.SteeringVectors(directions, vectors.provenance))
    return found


def compared(
    moments: sk.Moments, vectors: sk.SteeringVectors, theirs: sk.SteeringVectors
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cosines with the published directions, and the same for every shuffle (``twin``)."""
    table = sk.compare_directions(vectors, theirs)
    tables = []
    for number, twin in enumerate(twins(vectors, moments)):
        found = sk.compare_directions(twin, theirs)
        found.insert(0, "twin", number)
        tables.append(found)
    shuffled = pd.concat(tables, ignore_index=True)
    shuffled.attrs = dict(table.attrs)
    return table, shuffled


def write_results(folder: Path, content: dict[str, Any], table: pd.DataFrame) -> None:
    """The page and the data beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / "published.json", json.dumps(content, indent=1) + "\n")
    write_text_atomic(folder / "published.csv", table.to_csv(index=False, float_format="%.4f"))
    page = markdown(content, table)
    write_text_atomic(folder / "published.md", page)
    print(page)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="a folder (default: the model of `make real`)")
    parser.add_argument("--reference", help="the folder (default: $STEERKIT_REFERENCE)")
    parser.add_argument("--dtype", default="float32", help="of the weights")
    parser.add_argument("--tokens", type=int, default=700, help="tokens read of each chain")
    parser.add_argument("--chains", type=int, help="read no more than so many")
    parser.add_argument("--shard", type=int, default=10, help="chains between two savings")
    parser.add_argument("--layer", type=int, default=LAYER, help="the layer of the page's table")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--speed", type=float, default=43.0, help="tokens a second, for the budget")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("--state", type=Path, default=Path("out") / "published")
    options = parser.parse_args(words)
    reference = reference_folder("make published", options.reference)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    folder = Path(options.model).expanduser() if options.model else real_model.model_folder()
    model = sk.load(folder, think=("<think>", "</think>"), dtype=options.dtype, device="cpu")
    chains, unplaced = sk.read_tagged(reference / CHAINS)
    chains = sk.Traces(head(trace, model, options.tokens) for trace in chains[: options.chains])
    tokens = sum(len(model.align(trace).ids) for trace in chains)
    print(budget([(f"{len(chains)} chains", tokens, options.speed)])[0], file=sys.stderr)
    settings = {
        "code": code_digest(),
        "model": [model.name, model.tokenizer_hash, str(model.dtype)],
        "chains": real_model.sha256_of(reference / CHAINS),
        "tokens": options.tokens,
        "count": len(chains),
    }
    state = open_state(options.state, settings, options.fresh)
    started = time.perf_counter()
    moments = collected(model, chains, state, options.shard)
    seconds = time.perf_counter() - started

    theirs = sk.read_published(reference / MEANS, contrast=CONTRAST, model=R1)
    vectors = own_vectors(model, moments)
    vectors.save(state / "vectors.safetensors")
    table, shuffled = compared(moments, vectors, theirs)
    found = summary(table, shuffled)
    content = {
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "published": R1,
        "contrast": CONTRAST,
        "layer": options.layer,
        "chains": len(chains),
        "tokens_per_chain": options.tokens,
        "thinking_tokens": moments.tokens,
        "spans": {name: vectors[name].spans for name in vectors},
        "tasks": {name: vectors[name].tasks for name in vectors},
        "spans_not_placed": len(unplaced),
        "shuffles": int(shuffled.twin.nunique()),
        "chance": float(table.chance.iloc[0]),
        # of this process alone, if the run was interrupted
        "seconds": round(seconds, 1),
        "code": code_digest()[:12],
        "machine": machine(),
    }
    figure = plot_comparison(table, shuffled=shuffled)
    write_results(options.folder, content, found)
    save_figure(figure, options.folder / "published.png")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make published: {problem}", file=sys.stderr)
        sys.exit(2)
