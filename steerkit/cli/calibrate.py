"""``steerkit calibrate``: the norms of a model's residual stream, into a vectors file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.parser import DEFAULT_VECTORS, add_model_options, add_verbosity, positive
from steerkit.cli.screen import progress, status, stdout
from steerkit.cli.sources import check_output, load_model, read_chains
from steerkit.cli.tables import clean, count, number, table

if TYPE_CHECKING:
    from steerkit.vectors import SteeringVectors

_DESCRIPTION = """\
Measure how long activations are in a model, for vectors that come without it.

Imported vectors know the norm of the mean activation, the paper's unit, but not the mean
norm, which is the unit of vectors of your own. Chains of the model, or any that it can read,
run through it once; annotations are not needed, and some thousand tokens of thinking are
enough. The directions stay as they are. Afterwards a coefficient of 1 is as long as the mean
activation of its layer."""

_EPILOG = """\
the table, at every direction's layer, or the middle one:
  mean norm      E||h|| over thinking positions: what a coefficient of 1 is now
  norm of mean   ||E h||: what it was in the unit paper

examples:
  steerkit import MEANS --out out/r1.safetensors
  steerkit calibrate out/r1.safetensors --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \\
      --traces out/r1_chains.jsonl"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``calibrate`` to the commands."""
    parser = commands.add_parser(
        "calibrate",
        prog="steerkit calibrate",
        help="Measure the norms of a model, for imported vectors.",
        usage="steerkit calibrate [VECTORS] --traces FILE [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "vectors",
        nargs="?",
        default=DEFAULT_VECTORS,
        metavar="VECTORS",
        help="The vectors file. Default: %(default)s.",
    )
    add_model_options(parser)
    chains = parser.add_argument_group("chains")
    chains.add_argument(
        "--traces",
        nargs="+",
        required=True,
        metavar="FILE",
        help="Chains with a thinking section: traces files (JSON lines) or tagged text.",
    )
    chains.add_argument(
        "--too-long",
        choices=("refuse", "cut", "skip"),
        default="refuse",
        help="What becomes of a chain longer than the model's context: refuse stops with an error, "
        "cut drops its end, skip leaves it out; the last two are counted. Default: %(default)s.",
    )
    chains.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="Tokens that run through the model at once. Less needs less memory. "
        "Default: 2048 on a CPU, 8192 elsewhere.",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE",
        help="The vectors file to write. Default: VECTORS, which is replaced.",
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of the table: vectors, model, unit, tokens, counts and "
        "a list of behaviors.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Calibrate, write the vectors, print the table or the JSON object."""
    out = Path(arguments.out or arguments.vectors)
    check_output(out)
    with status("reading vectors and chains"):
        from steerkit.vectors_file import read_vectors

        before = read_vectors(arguments.vectors)
        traces, _ = read_chains(arguments.traces)
    model = load_model(arguments)
    with progress("reading activations", "chains") as report:
        vectors = before.calibrate(
            model,
            traces,
            batch_tokens=arguments.batch_tokens,
            too_long=arguments.too_long,
            progress=report,
        )
    vectors.save(out)
    facts = vectors.provenance["calibration"]
    rows = _rows(before, vectors)
    if arguments.json:
        summary = {
            "vectors": str(out),
            "model": facts["model"],
            "unit": next(iter(vectors.values())).default_unit,
            "tokens": facts["tokens"],
            "counts": facts["counts"],
            "behaviors": rows,
        }
        print(json.dumps(summary, allow_nan=False))
        return
    console = stdout()
    columns = ["behaviour", "layer", "mean norm", "norm of mean", "as it came"]
    measured = ("mean_norm", "norm_of_mean", "norm_of_mean_before")
    console.print(
        table(
            columns,
            [
                (row["behavior"], str(row["layer"]), *(number(row[n]) for n in measured))
                for row in rows
            ],
        )
    )
    left = ", ".join(f"{name} {n:,}" for name, n in facts["counts"].items() if name != "chains")
    console.print(
        f"\nRead:    {count(facts['counts']['chains'], 'chain')}, "
        f"{count(facts['tokens'], 'thinking token')}{f' ({left})' if left else ''}.\n"
        f"Unit:    norm, the mean norm of each layer of {facts['model']}.\n"
        f"Vectors: {out}",
        markup=False,
        soft_wrap=True,
    )


def _rows(before: SteeringVectors, after: SteeringVectors) -> list[dict[str, Any]]:
    rows = []
    for name, direction in after.items():
        layers = direction.layers
        layer = layers[len(layers) // 2] if direction.layer is None else direction.layer
        i = direction.row(layer)
        mean_norm = direction.mean_norm
        rows.append(
            {
                "behavior": name,
                "layer": layer,
                "mean_norm": None if mean_norm is None else clean(float(mean_norm[i])),
                "norm_of_mean": clean(float(direction.norm_of_mean[i])),
                "norm_of_mean_before": clean(float(before[name].norm_of_mean[i])),
            }
        )
    return rows
