"""`make real`: a real 1.5B model by the same calls as the bundled one.

Extracts the behaviours' directions from Qwen2.5-Coder-1.5B-Instruct (see real_model.py) with the
labelled chains that come with steerkit, and steers eight prompts along backtracking, uncertainty
and a random direction. With an adapter that makes it think (bundled, or --adapter) the same
directions steer the model with it as well, and both answer tasks that nobody trained on. Where
$STEERKIT_REFERENCE names the chains and means of arXiv 2506.18167, the directions are compared
with those of the reference chains, which then steer both models too, and with those published for
DeepSeek-R1-Distill-Qwen-1.5B.

Results go to benchmarks/results/real.{json,csv,md}; those of a smaller run than the default stay
in out/real/results. A run that was interrupted goes on where it stopped (its state is in
out/real*; --fresh starts over).

    python benchmarks/real.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import real_model
from real_directions import (
    between_chains,
    extraction,
    other_contrasts,
    own_chains,
    reference_chains,
)
from real_measures import code_digest, machine, share_of_chains, summarise
from real_report import excerpts, write_results
from real_steering import (
    COEFFICIENTS,
    PROMPTS,
    STEERED,
    held_out_tasks,
    labelled_shares,
    steering,
    tabulate,
    thinking,
)
from reference import CHAINS, LAYER, MEANS, reference_folder_if_named
from resumable import open_state

import steerkit as sk
from steerkit.adapters import Adapter
from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic
from steerkit.resources import bundled_adapters

RESULTS = Path(__file__).parent / "results"
REFERENCE_VECTORS = "reference.safetensors"
"""Directions from the reference chains, in the state folder."""
THINK = ("<think>", "</think>")


def kept(path: Path, make: Any) -> dict[str, Any]:
    """What a file holds as JSON, made and written if it is not there yet."""
    if not path.is_file():
        write_text_atomic(path, json.dumps(make()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def directions(
    arguments: argparse.Namespace, model: sk.ThinkingModel, state: Path, reference: Path | None
) -> tuple[dict[str, Any], dict[str, Any] | None, sk.SteeringVectors]:
    """Figures of the own chains' directions, of the comparison with the reference chains, and
    the vectors."""
    chains = own_chains()
    chains = chains if arguments.chains is None else chains[: arguments.chains]
    # the published means are of the 1.5B shape; another model has other axes
    means = None if reference is None or arguments.model else reference / MEANS
    own = state / "vectors.safetensors"
    figures = kept(state / "extraction.json", lambda: extraction(model, chains, own, means))
    vectors = sk.read_vectors(own)
    if arguments.contrasts:
        others, seconds = other_contrasts(model, chains, means)
        figures["contrasts"] |= others
        figures["seconds"]["one layer"] = seconds
    if reference is None:
        return figures, None, vectors
    theirs, unplaced = reference_chains(reference, model, arguments.tokens)
    theirs = theirs if arguments.chains is None else theirs[: arguments.chains]
    print(f"{theirs!r}; {unplaced} parts could not be placed", file=sys.stderr)
    path = state / REFERENCE_VECTORS
    found = kept(state / "reference.json", lambda: extraction(model, theirs, path, means))
    compared = between_chains(vectors, sk.read_vectors(path))
    return figures, {**found, **compared, "spans_not_placed": unplaced}, vectors


def written(
    model: sk.ThinkingModel,
    vectors: sk.SteeringVectors,
    state: Path,
    coefficients: Sequence[float],
    tasks: Sequence[sk.Task],
    arguments: argparse.Namespace,
    reference: sk.SteeringVectors | None,
) -> dict[str, Any]:
    """What a model writes: steered prompts by condition, telling texts, and held-out tasks; at
    last the prompts once more, steered by directions from the reference chains."""
    prompts = dict(list(PROMPTS.items())[: arguments.prompts])

    def steered(by: sk.SteeringVectors, folder: Path) -> dict[str, Any]:
        texts, generation = steering(
            model, by, folder, coefficients, arguments.max_new_tokens, prompts
        )
        rows = tabulate(texts, prompts)
        summary = summarise(rows, STEERED, coefficients)
        return {"conditions": summary, "generation": generation, "texts": rows}

    found = steered(vectors, state)
    found["excerpts"] = excerpts(found["texts"], prompts)
    if tasks:
        asked = thinking(model, tasks, state, arguments.thinking_tokens)
        found["thinking"] = {
            "chains": asked,
            "shares": share_of_chains(asked),
            "labelled": labelled_shares(sk.read_traces(state / "thinking.jsonl")),
        }
    if reference is not None:
        found["reference_steering"] = steered(reference, state / "reference-steering")
    return found


def adapter_of(arguments: argparse.Namespace) -> Adapter | None:
    """The adapter that --adapter names, else the first bundled one, else none."""
    named = arguments.adapter or next(iter(bundled_adapters()), None)
    if named is None or named == "none":
        print(
            "make real: no adapter here, so only the plain model is shown; steerkit train adapter "
            "makes one, and --adapter names it",
            file=sys.stderr,
        )
        return None
    return Adapter.find(named)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--adapter", help="folder or bundled name; none leaves it out")
    parser.add_argument("--dtype", default="auto", help="number format (default: auto)")
    parser.add_argument(
        "--tokens", type=int, default=700, help="tokens read of each reference chain"
    )
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=24, help="held-out tasks (default: 24)")
    parser.add_argument("--thinking-tokens", type=int, default=600)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--contrasts", action="store_true", help="compare the other contrasts too")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument("--model", help="another model's folder, to try the script")
    parser.add_argument("--chains", type=int, help="only so many chains, to try the script")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="only so many prompts")
    parser.add_argument(
        "--report", action="store_true", help="only write the pages of the last results again"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    if arguments.report:
        write_results(json.loads((RESULTS / "real.json").read_text()), RESULTS)
        return
    reference = reference_folder_if_named("make real")
    added = adapter_of(arguments)

    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    manifest: dict[str, Any] = {"files": None, "conversion": None}
    if arguments.model is None:
        folder = real_model.model_folder()
        manifest = json.loads((folder / real_model.MANIFEST).read_text())
    else:
        folder = Path(arguments.model)

    def load(adapter: Path | None = None) -> sk.ThinkingModel:
        options: dict[str, Any] = {"dtype": arguments.dtype, "device": "cpu"}
        # an adapter says with which think strings it was trained
        think = THINK if adapter is None else None
        return sk.load(str(folder), think=think, adapter=adapter, **options)

    model = load()
    whole = arguments.model is None and arguments.chains is None
    whole = whole and arguments.prompts >= len(PROMPTS)
    settings = {
        "code": code_digest(),
        "model": manifest["files"] or str(folder),
        "dtype": str(model.dtype),
        "own": real_model.sha256_of(sk.data("traces/reasoning.jsonl")),
        "reference": None
        if reference is None
        else [real_model.sha256_of(reference / name) for name in (CHAINS, MEANS)],
        **{name: getattr(arguments, name) for name in ("tokens", "chains", "max_new_tokens")},
        **{name: getattr(arguments, name) for name in ("prompts", "tasks", "thinking_tokens")},
        "layer": LAYER,
        "texts": [PROMPTS, COEFFICIENTS],
    }
    state = open_state(Path("out") / "real", settings, arguments.fresh)
    figures, compared, vectors = directions(arguments, model, state, reference)
    theirs = None if reference is None else sk.read_vectors(state / REFERENCE_VECTORS)
    tasks = [] if added is None else held_out_tasks(arguments.tasks)
    results: dict[str, Any] = {
        "model": folder.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "chains": "own",
        "tokens_per_chain": arguments.tokens,
        "max_new_tokens": arguments.max_new_tokens,
        "extraction": figures,
        "reference": compared,
        **written(model, vectors, state, COEFFICIENTS["plain"], tasks, arguments, theirs),
        "conversion": manifest["conversion"],
        "machine": {**machine(), "steerkit": sk.__version__},
    }
    if added is not None:
        del model
        thinker = load(added.folder)
        settings |= {"adapter": added.digest}
        beside = open_state(Path("out") / "real-adapter", settings, arguments.fresh)
        results["adapter"] = {
            **added.facts,
            "thinking_tokens": arguments.thinking_tokens,
            **written(thinker, vectors, beside, COEFFICIENTS["adapter"], tasks, arguments, theirs),
        }
    print(write_results(results, RESULTS if whole else state / "results"))


if __name__ == "__main__":
    try:
        main()
    except SteerkitError as problem:
        print(f"make real: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
