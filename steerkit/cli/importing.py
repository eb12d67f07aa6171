"""``steerkit import``: published mean activations in, a vectors file out."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.parser import DEFAULT_VECTORS, add_declare_option, add_verbosity
from steerkit.cli.screen import status, stdout
from steerkit.cli.sources import check_output, declare_all
from steerkit.cli.tables import MISSING, clean, count, number, table
from steerkit.errors import VectorsError

if TYPE_CHECKING:
    from steerkit.vectors import SteeringVectors

CONTRAST = "overall"  # the published directions of the paper

_DESCRIPTION = """\
Turn published mean activations into steering vectors that can be used at once.

FILE holds a mean and a count for every label, at every layer, and the mean over whole
thinking sections under the label overall: {label: {"mean": [layer, d_model], "count": n}},
as torch.save writes it, or a safetensors file with LABEL.mean and LABEL.count. It is read
without running any code that it may bring."""

_EPILOG = """\
the table:
  spans   spans that the mean is of
  length  of the raw difference, as a share of the norm of the overall mean (the unit
          paper): the median over layers, and at the chosen layer
  layer   where generate steers; none until --layer names one

Means do not tell which layer is good. Without --layer, generate needs one in every
--steer: backtracking=1@17. Coefficients are in the unit paper, in which 1 is as long as
the norm of the overall mean, until steerkit calibrate (in Python, vectors.calibrate) has
measured the mean norm: the unit is then norm, as for vectors of your own.

examples:
  steerkit import mean_vectors_deepseek-r1-distill-qwen-1.5b.pt --out out/r1.safetensors \\
      --model-name deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --layer backtracking=17
  steerkit import mean_vectors_deepseek-r1-distill-qwen-1.5b.pt --contrast rest \\
      --out out/r1_rest.safetensors
  steerkit compare out/vectors.safetensors out/r1_rest.safetensors"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``import`` to the commands."""
    parser = commands.add_parser(
        "import",
        prog="steerkit import",
        help="Turn published mean activations into vectors.",
        usage="steerkit import FILE [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="The file of published means.")
    method = parser.add_argument_group("method")
    method.add_argument(
        "--contrast",
        default=CONTRAST,
        metavar="CONTRAST",
        help="What a behaviour's mean is compared with. overall: the mean over whole thinking "
        "sections, as in the paper; rest: the spans of all other behaviours; balanced: the same, "
        "every other behaviour counting equally; A:B: behaviour A against behaviour B. "
        "Default: %(default)s.",
    )
    method.add_argument(
        "--layer",
        nargs="+",
        default=[],
        type=layer_option,
        metavar="[NAME=]LAYER",
        help="Where to steer, counted from 0: one layer for all behaviours, or a layer for each, "
        "such as backtracking=17 uncertainty=18. Default: none.",
    )
    method.add_argument(
        "--model-name",
        metavar="NAME",
        help="The model that the means are of, as --model of generate takes it. It is kept in the "
        "vectors file, and using the vectors on another model gives a warning.",
    )
    add_declare_option(method)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        default=DEFAULT_VECTORS,
        metavar="FILE",
        help="The vectors file to write, in safetensors format. Default: %(default)s.",
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of the table: vectors, model, contrast, unit, "
        "responses, left_out and a list of behaviors.",
    )
    add_verbosity(parser)


def layer_option(text: str) -> tuple[str | None, int]:
    """``LAYER`` or ``NAME=LAYER``; an argparse error says what is wrong with it."""
    name, equals, layer = text.rpartition("=")
    if not layer.strip().isdecimal() or bool(equals) != bool(name.strip()):
        raise argparse.ArgumentTypeError(
            f"expected a layer such as 17 or backtracking=17, found {text!r}"
        )
    return name.strip() or None, int(layer)


def run(arguments: argparse.Namespace) -> None:
    """Read the means, write the vectors, print the table or the JSON object."""
    out = Path(arguments.out)
    check_output(
        out,
        over=[arguments.file],
        refusal="the vectors would overwrite the means that are read",
    )
    declare_all(arguments.declare)
    with status("reading means"):
        from steerkit.published import read_published

        vectors = read_published(
            arguments.file,
            contrast=arguments.contrast,
            model=arguments.model_name,
            layers=_layers(arguments.layer),
        )
    vectors.save(out)
    facts = vectors.provenance["published"]
    if arguments.json:
        summary = {
            "vectors": str(out),
            "model": arguments.model_name,
            "contrast": vectors.provenance["contrast"],
            "unit": next(iter(vectors.values())).default_unit,
            "responses": facts["responses"],
            "left_out": facts["left_out"],
            "behaviors": _rows(vectors),
        }
        print(json.dumps(summary, allow_nan=False))
        return
    console = stdout()
    console.print(_table(vectors))
    first = next(iter(vectors.values()))
    console.print(
        f"\nMeans:   {count(len(first.layers), 'layer')} of width {first.d_model:,}; the overall "
        f"mean is of {count(facts['responses'], 'response')}.\n"
        "Unit:    paper (the norm of the overall mean), until steerkit calibrate measures yours.\n"
        f"Vectors: {out}\n\nNext: {_next_command(arguments, vectors)}",
        markup=False,
        soft_wrap=True,
    )


def _layers(options: list[tuple[str | None, int]]) -> Any:
    """What ``read_published`` takes: nothing, one layer for all, or layers by behaviour."""
    names = [name for name, _ in options]
    if names == [None]:
        return options[0][1]
    if None in names or len(set(names)) < len(names):
        raise VectorsError(
            "--layer is not clear",
            expected="one layer for all behaviours, or NAME=LAYER once for each",
            found=" ".join(
                f"{layer}" if name is None else f"{name}={layer}" for name, layer in options
            ),
        )
    return dict(options) if options else None


def _rows(vectors: SteeringVectors) -> list[dict[str, Any]]:
    rows = []
    for name, direction in vectors.items():
        lengths = (direction.tensor.norm(dim=1) / direction.norm_of_mean).double()
        layer = direction.layer
        rows.append(
            {
                "behavior": name,
                "spans": direction.spans,
                "length": clean(float(lengths.quantile(0.5))),
                "length_at_layer": None
                if layer is None
                else clean(float(lengths[direction.row(layer)])),
                "layer": layer,
            }
        )
    return rows


def _table(vectors: SteeringVectors) -> Any:
    rows = [
        (
            row["behavior"],
            f"{row['spans']:,}",
            number(row["length"]),
            number(row["length_at_layer"]),
            "none" if row["layer"] is None else str(row["layer"]),
        )
        for row in _rows(vectors)
    ]
    rows += [
        (label, f"{facts['count']:,}", MISSING, MISSING, f"left out: {facts['reason']}")
        for label, facts in vectors.provenance["published"]["left_out"].items()
    ]
    return table(["behaviour", "spans", "length", "at layer", "layer"], rows)


def _next_command(arguments: argparse.Namespace, vectors: SteeringVectors) -> str:
    """A command that steers with what was just imported, ready to be typed."""
    name = "backtracking" if "backtracking" in vectors else next(iter(vectors))
    direction = vectors[name]
    at = "" if direction.layer is not None else f"@{direction.n_layers * 3 // 5}"
    words = ["steerkit", "generate", "YOUR PROMPT", "--model", arguments.model_name or "YOUR MODEL"]
    if arguments.out != DEFAULT_VECTORS:
        words += ["--vectors", arguments.out]
    words += ["--steer", f"{name}=-1,0,1{at}"]
    return shlex.join(words)
