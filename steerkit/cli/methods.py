"""``steerkit methods``: ways to get a direction, side by side on the same chains."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from steerkit.behaviors import behavior
from steerkit.cli.extract import METHODS
from steerkit.cli.parser import (
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
    declare_all,
    load_model,
    read_chains,
)
from steerkit.cli.tables import clean, number, table

if TYPE_CHECKING:
    import pandas as pd

_DESCRIPTION = """\
Set methods, contrasts and windows side by side, from one pass over the chains a window.

For every behaviour: the layer where AUROC is largest and the AUROC there, on tasks that were
not extracted from; the cosine between directions from two halves of the tasks, beside that
for shuffled labels; and the cosine with the difference of means. What tells a behaviour
best need not be what moves it best: for that, extract by two methods and steer with both."""

_EPILOG = """\
examples:
  steerkit methods --behavior backtracking
  steerkit methods --methods mean-difference,mass-mean --contrasts rest,overall,within
  steerkit methods --methods mean-difference --windows 1,10 1,0 0,100"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``methods`` to the commands."""
    parser = commands.add_parser(
        "methods",
        prog="steerkit methods",
        help="Set methods and contrasts side by side on the same chains.",
        usage="steerkit methods [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    add_model_options(parser)
    source = parser.add_argument_group("chains")
    source.add_argument(
        "--traces",
        nargs="+",
        metavar="FILE",
        help="Annotated chains, as for steerkit extract: files, or reasoning or countdown. "
        "Default: the one of these two that fits --model.",
    )
    add_declare_option(source)
    source.add_argument(
        "--too-long",
        choices=("refuse", "cut", "skip"),
        default="refuse",
        help="What becomes of a chain longer than the model's context, as for steerkit extract. "
        "Default: %(default)s.",
    )
    method = parser.add_argument_group("methods")
    method.add_argument(
        "--methods",
        default=",".join(METHODS),
        metavar="LIST",
        help="Methods, separated by commas. Default: %(default)s.",
    )
    method.add_argument(
        "--contrasts",
        default="balanced,rest",
        metavar="LIST",
        help="Contrasts, separated by commas. Methods that are fitted to single spans take rest "
        "and A:B only. Default: %(default)s.",
    )
    method.add_argument(
        "--behavior",
        action="append",
        metavar="NAME",
        help="Only this behaviour; can be given several times. Default: all.",
    )
    method.add_argument(
        "--layers", type=layers, metavar="LAYERS", help="Layers to read, such as 3,5-9."
    )
    method.add_argument(
        "--windows",
        nargs="+",
        default=["1,0"],
        metavar="BEFORE,LENGTH",
        help="Tokens of a span that are averaged, as --window for steerkit extract, one pass over "
        "the chains for each. Default: 1,0, the token before it alone.",
    )
    method.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="Seed of the halves and shuffles behind the reliability figures. Default: "
        "%(default)s.",
    )
    add_sample_option(method)
    method.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="Tokens that run through the model at once. Default: 2048 on a CPU, 8192 elsewhere.",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="Print one JSON array, no table.")
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Compare and show."""
    declare_all(arguments.declare)
    names = None if arguments.behavior is None else [behavior(n).name for n in arguments.behavior]
    with status("reading chains"):
        from steerkit.method_comparison import compare_methods
        from steerkit.positions import Window

        traces, _ = read_chains(chain_names(arguments))
        windows = [Window.parse(text) for text in arguments.windows]
    methods = [part.strip() for part in arguments.methods.split(",")]
    model = load_model(arguments)
    if not arguments.quiet:
        announce_samples(model, traces, methods, arguments.layers)
    with progress("reading activations", "chains") as report:
        found = compare_methods(
            model,
            traces,
            methods=methods,
            contrasts=[part.strip() for part in arguments.contrasts.split(",")],
            behaviors=names,
            layers=arguments.layers,
            windows=windows,
            seed=arguments.seed,
            too_long=arguments.too_long,
            batch_tokens=arguments.batch_tokens,
            sample_bytes=int(arguments.sample_gib * 2**30),
            progress=report,
        )
    rows = _rows(found)
    if arguments.json:
        print(json.dumps(rows, allow_nan=False))
        return
    several = len(windows) > 1
    columns = ["behaviour", "method", "contrast", *(["window"] if several else []), "layer"]
    # a table of 80 columns has no room for both
    columns += ["AUROC", "split-half", "shuffled", "cosine", *([] if several else ["seconds"]), ""]
    measured = ["auroc", "split_half", "split_half_shuffled", "cosine"]
    measured += [] if several else ["seconds"]
    stdout().print(
        table(
            columns,
            [
                (
                    row["behavior"],
                    row["method"],
                    row["contrast"],
                    *([row["window"]] if several else []),
                    "none" if row["layer"] is None else str(row["layer"]),
                    *(number(row[name]) for name in measured),
                    row["note"],
                )
                for row in sorted(rows, key=lambda row: row["behavior"])
            ],
        )
    )
    note = chains_note(arguments)
    stdout().print(f"\n{note}", markup=False, soft_wrap=True)


def _rows(found: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in found.to_dict("records"):
        layer = row["layer"]
        whole = {str(k): clean(v) if isinstance(v, float) else v for k, v in row.items()}
        rows.append({**whole, "layer": None if layer != layer else int(layer)})
    return rows
