"""``steerkit extract``: annotated chains to a vectors file, a figure and a table."""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.behaviors import behavior
from steerkit.cli.direction_rows import direction_rows, direction_table, layer_note
from steerkit.cli.parser import (
    DEFAULT_MODEL,
    DEFAULT_VECTORS,
    add_declare_option,
    add_model_options,
    add_sample_option,
    add_verbosity,
    layers,
    positive,
)
from steerkit.cli.screen import progress, status, stdout
from steerkit.cli.sources import (
    announce_samples,
    chain_names,
    chains_note,
    check_output,
    declare_all,
    load_model,
    read_chains,
)
from steerkit.cli.tables import count
from steerkit.errors import ResourceError
from steerkit.tasks import SPLITS

if TYPE_CHECKING:
    from steerkit.annotation import Unplaced
    from steerkit.traces import Traces
    from steerkit.vectors import SteeringVectors

CONTRAST = "balanced"  # steerkit.directions.DEFAULT_CONTRAST, without importing torch for it
METHODS = ("mean-difference", "mass-mean", "lda", "probe", "pca")  # steerkit.methods.METHODS
CHOICES = ("gradient", "auroc", "gain", "effect", "published")  # steerkit.layer_choice.suggestion

_PURPOSES = {
    "extract": "for the directions",
    "select": "for the layers",
    "evaluate": "kept back for evaluation",
}

_DESCRIPTION = """\
Find a direction in the residual stream for every annotated behaviour, at every layer.

The chains run through the model; a direction is the mean activation at a behaviour's
spans (where: --window) minus what --contrast sets against it. Half of the tasks serve
for this, a quarter for choosing a layer, and a quarter is never read, so that effects
can be tested on it."""

_EPILOG = """\
the table, all numbers at the suggested layer:
  norm         length of the raw difference, as a share of the layer's mean norm
  split-half   mean cosine between directions from two halves of the tasks
  shuffled     the same after shuffling labels within each chain: what is left without them
  AUROC        how well the projection on the token before a span foretells its label,
               on the tasks kept for choosing: 0.5 is chance, 1 is perfect
  layer        the suggested layer, where the score named below is largest (--choose-by)

examples:
  steerkit extract
  steerkit extract --behavior backtracking --contrast backtracking:deduction --layers 2-4
  steerkit extract --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --dtype bfloat16
  steerkit extract --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --dtype bfloat16 \\
      --traces chains.jsonl --out out/r1.safetensors"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``extract`` to the commands."""
    parser = commands.add_parser(
        "extract",
        prog="steerkit extract",
        help="Find the directions of behaviours from annotated chains.",
        usage="steerkit extract [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    add_model_options(parser)
    chains = parser.add_argument_group("chains")
    chains.add_argument(
        "--traces",
        nargs="+",
        metavar="FILE",
        help="Annotated chains: traces files (JSON lines), or tagged text, which is a JSON list or "
        'lines whose records have an annotated_response such as ["deduction"] ... '
        '["end-section"]; or bundled ones by name: reasoning, in plain English, for any model; '
        "countdown, for the bundled models. Default: the one of the two that fits --model.",
    )
    add_declare_option(chains)
    chains.add_argument(
        "--too-long",
        choices=("refuse", "cut", "skip"),
        default="refuse",
        help="What becomes of a chain longer than the model's context: refuse stops with an error, "
        "cut drops its end, skip leaves it out; the last two are counted. Default: %(default)s.",
    )
    method = parser.add_argument_group("method")
    method.add_argument(
        "--behavior",
        action="append",
        metavar="NAME",
        help="Keep only this behaviour; can be given several times. The spans of the others still "
        "serve as contrast. Default: every behaviour that has spans.",
    )
    method.add_argument(
        "--contrast",
        metavar="CONTRAST",
        help="What the mean over a behaviour's spans is compared with. overall: the mean over "
        "whole thinking sections; rest: the spans of all other behaviours; balanced: the same, "
        "every other behaviour counting equally; within: other spans of the same chain; A:B: "
        f"behaviour A against behaviour B. Default: {CONTRAST}, or rest for lda, probe and pca.",
    )
    method.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="How a direction comes out of the spans. mean-difference: mean minus mean; "
        "mass-mean: the same, whitened; lda, probe, pca: fitted to the means of single spans, "
        "which are written to a temporary file. Default: %(default)s.",
    )
    method.add_argument(
        "--choose-by",
        choices=CHOICES,
        default=CHOICES[0],
        help="The score that the suggested layer is chosen by, on tasks kept for that. gradient: "
        "how steeply a direction raises the log-probability of its behaviour's first tokens, from "
        "a backward pass; auroc: how well it foretells them, which needs no backward pass; gain, "
        "effect: what a real step does, a forward pass a behaviour and layer; published: the score "
        "of arXiv 2506.18167. See docs/directions.md. Default: %(default)s.",
    )
    method.add_argument(
        "--layers",
        type=layers,
        metavar="LAYERS",
        help="Layers to read, counted from 0, such as 3,5-9. Layers above the last one run for "
        "--choose-by alone, and with auroc never. "
        "Default: all.",
    )
    method.add_argument(
        "--window",
        default="1,0",
        metavar="BEFORE,LENGTH",
        help="Tokens of a span that are averaged: so many before it, and at most so many of its "
        "own, never its last; 1,10 is that of the paper. Default: %(default)s, the token before "
        "it alone.",
    )
    method.add_argument(
        "--shuffle-labels",
        type=int,
        metavar="SEED",
        help="Make a control: shuffle the labels among the spans of each chain before anything "
        "is read. What the vectors then show is not due to single sentences.",
    )
    add_sample_option(method)
    method.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="Tokens that run through the model at once. Less needs less memory. "
        "Default: 2048 on a CPU, 8192 elsewhere.",
    )
    method.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="Seed of the halves, replicates and shuffles behind the reliability figures. "
        "Default: %(default)s.",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        default=DEFAULT_VECTORS,
        metavar="FILE",
        help="The vectors file to write, in safetensors format. A figure of the layers is written "
        "beside it under the same name, ending in .png. Default: %(default)s.",
    )
    output.add_argument("--no-figure", action="store_true", help="Write no figure.")
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of the table: vectors, figure, model, traces, "
        "contrast, method, counts, left_out and a list of behaviors, with the cone in degrees and "
        "the interval of the length too.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Extract, write the files, print the table or the JSON object."""
    out = Path(arguments.out)
    check_output(out)
    figure = None if arguments.no_figure else out.with_suffix(".png")
    if figure == out:
        raise ResourceError(
            "the vectors file would be overwritten by its figure",
            expected="--out with a name such as vectors.safetensors",
            found=arguments.out,
        )
    if figure is not None:
        check_output(figure)
    declare_all(arguments.declare)
    names = None if arguments.behavior is None else [behavior(n).name for n in arguments.behavior]
    with status("reading chains"):
        from steerkit.extraction import extract
        from steerkit.positions import Window

        window = Window.parse(arguments.window)
        traces, unplaced = read_chains(chain_names(arguments))
        if arguments.shuffle_labels is not None:
            from steerkit.annotation import shuffle_labels

            traces = shuffle_labels(traces, arguments.shuffle_labels)
    model = load_model(arguments)
    if not arguments.quiet:
        announce_samples(model, traces, [arguments.method], arguments.layers)
    with progress("reading activations", "chains") as report:
        vectors = extract(
            model,
            traces,
            behaviors=names,
            contrast=arguments.contrast,
            method=arguments.method,
            choose_by=arguments.choose_by,
            layers=arguments.layers,
            window=window,
            batch_tokens=arguments.batch_tokens,
            sample_bytes=int(arguments.sample_gib * 2**30),
            seed=arguments.seed,
            too_long=arguments.too_long,
            progress=report,
        )
    vectors.save(out)
    if figure is not None:
        with status("drawing"):
            from steerkit.plots import plot_layers, save_figure

            save_figure(plot_layers(vectors), figure)
    counts = _counts(traces, unplaced, vectors)
    if arguments.json:
        named = chain_names(arguments)
        print(json.dumps(_summary(vectors, out, figure, named, counts), allow_nan=False))
        return
    console = stdout()
    console.print(direction_table(vectors, vectors.provenance["left_out"]))
    console.print()
    chains = chains_note(arguments)
    for line in filter(None, (layer_note(vectors), chains, *_notes(counts))):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"Vectors: {out}", markup=False, soft_wrap=True)
    if figure is not None:
        console.print(f"Figure:  {figure}", markup=False, soft_wrap=True)
    console.print(
        f"\nNext: {_next_command(arguments, vectors, traces)}", markup=False, soft_wrap=True
    )


def _counts(traces: Traces, unplaced: list[Unplaced], vectors: SteeringVectors) -> dict[str, Any]:
    """What was read, kept back, left out or strange, for people and as JSON."""
    facts = vectors.provenance
    splits = {name: traces.split(name) for name in SPLITS}
    return {
        "chains": {name: len(chains) for name, chains in splits.items()},
        "tasks": {
            name: len({trace.task_key for trace in chains}) for name, chains in splits.items()
        },
        "unplaced": dict(Counter(part.reason for part in unplaced)),
        "extract": facts["counts"],
        "select": facts["select_counts"],
        "outliers": facts["outliers"],
    }


def _summary(
    vectors: SteeringVectors,
    out: Path,
    figure: Path | None,
    traces: list[str],
    counts: dict[str, Any],
) -> dict[str, Any]:
    return {
        "vectors": str(out),
        "figure": None if figure is None else str(figure),
        "model": vectors.provenance["model"],
        "traces": traces,
        "contrast": vectors.provenance["contrast"],
        "method": vectors.provenance["method"],
        "counts": counts,
        "left_out": vectors.provenance["left_out"],
        "behaviors": direction_rows(vectors),
    }


def _notes(counts: dict[str, Any]) -> list[str]:
    chains, tasks = counts["chains"], counts["tasks"]
    lines = [
        "Read:    "
        + "; ".join(
            f"{count(chains[name], 'chain')} of {count(tasks[name], 'task')} {purpose}"
            for name, purpose in _PURPOSES.items()
        )
        + "."
    ]
    if counts["unplaced"]:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in counts["unplaced"].items())
        total = sum(counts["unplaced"].values())
        lines.append(f"Tagged:  {count(total, 'part')} could not be placed ({reasons}).")
    for part in ("extract", "select"):
        found = ", ".join(
            f"{name} {n:,}"
            for name, n in counts[part].items()
            if n and name not in ("chains", "spans")
        )
        if found:
            lines.append(f"Counted {_PURPOSES[part]}: {found}.")
    most = max(counts["outliers"], default=0)
    if most:
        lines.append(
            f"Outliers: at most {count(most, 'token')} of a layer, longer than ten times the "
            "median norm of the chain."
        )
    return lines


def _next_command(arguments: argparse.Namespace, vectors: SteeringVectors, traces: Traces) -> str:
    """A command that steers with what was just extracted, ready to be typed."""
    name = "backtracking" if "backtracking" in vectors else next(iter(vectors))
    direction = vectors[name]
    at = "" if direction.layer is not None else f"@{direction.layers[len(direction.layers) // 2]}"
    short = (t.prompt for t in traces if t.prompt and len(t.prompt) <= 60 and "\n" not in t.prompt)
    words = ["steerkit", "generate", next(short, "YOUR PROMPT")]
    for option, default in (
        *(("model", DEFAULT_MODEL), ("adapter", None)),
        *(("device", None), ("dtype", None)),
    ):
        if getattr(arguments, option) != default:
            words += [f"--{option}", getattr(arguments, option)]
    if arguments.device_map:
        words += ["--device-map", arguments.device_map]
    if arguments.think:
        words += ["--think", *arguments.think]
    if arguments.out != DEFAULT_VECTORS:
        words += ["--vectors", arguments.out]
    words += ["--steer", f"{name}=-0.3,0,0.3{at}"]
    return shlex.join(words)
