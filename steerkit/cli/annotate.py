"""``steerkit annotate``: chains in, the same chains with labelled spans out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.behaviors import UNPARSED, behaviors
from steerkit.cli.chains import print_json
from steerkit.cli.parser import add_declare_option, add_verbosity
from steerkit.cli.screen import stderr, stdout
from steerkit.cli.sources import check_output, declare_all
from steerkit.cli.tables import count, percent, table
from steerkit.errors import ResourceError

if TYPE_CHECKING:
    from rich.console import Console

    from steerkit.traces import Traces

_DESCRIPTION = """\
Label the sentences of reasoning chains with behaviours.

The annotator grammar is exact: it knows every sentence of the chains that the bundled
models were trained on. A sentence of any other kind gets the label unparsed and is never
guessed at, so this annotator is of no use for chains in free language."""

_EPILOG = """\
examples:
  steerkit generate --tasks countdown --out out/chains.jsonl
  steerkit annotate out/chains.jsonl
  steerkit extract --traces out/chains.annotated.jsonl"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``annotate`` to the commands."""
    parser = commands.add_parser(
        "annotate",
        prog="steerkit annotate",
        help="Label the sentences of chains with behaviours.",
        usage="steerkit annotate FILE [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="A traces file (JSON lines).")
    parser.add_argument(
        "--annotator",
        default="grammar",
        choices=("grammar",),
        help="Who labels: grammar, the exact annotator of the bundled models' chains. "
        "Default: %(default)s.",
    )
    add_declare_option(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="The traces file to write; - prints it. Labels that were there before are replaced. "
        "Default: FILE with the ending .annotated.jsonl.",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print the labelled chains as a JSON array; write a file only if --out names one. "
        "The table of counts then goes to stderr, as it does with --out -.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Annotate, write or print the chains, show what was found."""
    from steerkit.annotation import annotate
    from steerkit.traces import read_traces, write_traces

    source = Path(arguments.file)
    out = None
    if arguments.out not in (None, "-"):
        out = Path(arguments.out)
    elif arguments.out is None and not arguments.json:
        out = source.with_suffix(".annotated.jsonl")
    if out is not None:
        check_output(out)
        if out.resolve() == source.resolve():
            raise ResourceError(
                "the output would overwrite the chains that are read",
                where=out,
                fix="name another file with --out",
            )
    declare_all(arguments.declare)
    traces = annotate(read_traces(source), arguments.annotator)
    if out is not None:
        write_traces(traces, out)
    if arguments.json:
        print_json(traces)
    elif arguments.out == "-":
        for trace in traces:
            print(json.dumps(trace.to_json(), allow_nan=False))
    printed = arguments.json or arguments.out == "-"
    if printed and arguments.quiet:
        return
    console = stderr() if printed else stdout()
    _show_counts(console, traces)
    if out is not None:
        console.print(f"Chains: {out}", markup=False, soft_wrap=True)


def _show_counts(console: Console, traces: Traces) -> None:
    counts = traces.counts()
    total = sum(counts.values())
    chains = {
        name: sum(any(span.label == name for span in trace.spans) for trace in traces)
        for name in counts
    }
    names = [b.name for b in behaviors() if b.name in counts]
    rows = [
        (
            name,
            f"{counts.get(name, 0):,}",
            percent(counts.get(name, 0), total),
            f"{chains.get(name, 0):,}",
        )
        for name in (*names, UNPARSED)
    ]
    console.print(table(("label", "spans", "share", "chains"), rows))
    without = sum(not trace.spans for trace in traces)
    console.print(
        f"\n{count(total, 'span')} in {count(len(traces), 'chain')}, {without:,} without any; "
        f"{percent(counts.get(UNPARSED, 0), total)} of spans unparsed"
    )
