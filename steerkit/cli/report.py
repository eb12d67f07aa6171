"""``steerkit report``: the page of an evaluation, written again from its folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from steerkit.cli.evaluate_options import DEFAULT_FOLDER
from steerkit.cli.parser import add_declare_option, add_verbosity, positive
from steerkit.cli.screen import status, stdout
from steerkit.cli.sources import check_output, declare_all

EXAMPLES = 2

_DESCRIPTION = """\
Write the report of an evaluation again, from its folder: one page that needs nothing else,
its figures as PNG and SVG, and its tables as CSV. No model is loaded."""

_EPILOG = """\
examples:
  steerkit report
  steerkit report out/evaluation --examples 4
  steerkit report out/evaluation --vectors out/vectors.safetensors --out out/page/report.html"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``report`` to the commands."""
    parser = commands.add_parser(
        "report",
        prog="steerkit report",
        help="Write the report of an evaluation again, without a model.",
        usage="steerkit report [FOLDER] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "folder",
        nargs="?",
        default=DEFAULT_FOLDER,
        metavar="FOLDER",
        help="The folder that steerkit evaluate wrote. Default: %(default)s.",
    )
    parser.add_argument(
        "--vectors",
        metavar="FILE",
        help="The vectors file that was evaluated. Default: the one that the folder keeps or "
        "names, if its hash is the same.",
    )
    parser.add_argument(
        "--examples",
        type=positive,
        default=EXAMPLES,
        metavar="N",
        help="Tasks to show chains of, for each behaviour. Default: %(default)s.",
    )
    add_declare_option(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE",
        help="The page; figures and tables are written beside it. Default: report.html in FOLDER.",
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object: report, and the verdicts as a list.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read the folder, write the page."""
    declare_all(arguments.declare)
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        check_output(out)
    with status("writing the report"):
        from steerkit.evaluation.record import read_evaluation
        from steerkit.report import write_report
        from steerkit.vectors_file import read_vectors

        evaluation = read_evaluation(arguments.folder)
        vectors = None if arguments.vectors is None else read_vectors(arguments.vectors)
        page = write_report(evaluation, out, vectors=vectors, examples=arguments.examples)
    if arguments.json:
        table = evaluation.verdicts
        verdicts = json.loads(table.to_json(orient="records"))
        print(json.dumps({"report": str(page), "verdicts": verdicts}, allow_nan=False))
        return
    stdout().print(f"Report: {page}", markup=False, soft_wrap=True)
