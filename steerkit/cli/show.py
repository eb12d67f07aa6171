"""``steerkit show``: chains in colour, on the terminal or as a page; annotators side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.behaviors import UNPARSED, behavior
from steerkit.cli.chain_rows import print_chain, print_legend, rows
from steerkit.cli.parser import add_declare_option, add_model_options, add_verbosity, positive
from steerkit.cli.screen import status, stdout
from steerkit.cli.sources import (
    check_output,
    declare_all,
    load_model,
    load_tokenizer,
    read_chains,
)
from steerkit.cli.tables import count
from steerkit.errors import ResourceError, TraceError

if TYPE_CHECKING:
    from steerkit.traces import Traces
    from steerkit.viewing import ChainView

SHOWN = 3
"""Chains that are printed unless told otherwise; a page has all."""

_DESCRIPTION = """\
Show chains with their behaviours in colour: printed, or with --html as a page for a
browser, in which you choose labels and step from span to span.

Several files of the same chains, labelled by several annotators, stand side by side."""

_EPILOG = """\
examples:
  steerkit show chains.jsonl
  steerkit show chains.jsonl --label backtracking --count 10
  steerkit show by_hand.jsonl by_rules.jsonl --chain sheep-1
  steerkit show chains.jsonl --html out/chains.html --model countdown-thinking \\
      --vectors out/vectors.safetensors"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``show`` to the commands."""
    parser = commands.add_parser(
        "show",
        prog="steerkit show",
        help="Show chains with their behaviours in colour.",
        usage="steerkit show FILE [FILE ...] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="Chains: a traces file (JSON lines), tagged text, a chat log or plain text. Every "
        "further file holds the same chains, labelled by somebody else.",
    )
    chosen = parser.add_argument_group("which chains")
    chosen.add_argument(
        "--chain",
        action="append",
        default=[],
        metavar="ID",
        help="Show this chain; can be given several times. Default: all, in order.",
    )
    chosen.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME",
        help="Show chains that have this label, and only this in colour; can be given several "
        "times. The name may be unparsed.",
    )
    chosen.add_argument(
        "--count",
        type=positive,
        metavar="N",
        help=f"Show at most N chains. Default: {SHOWN}, but all with --html or --chain.",
    )
    add_declare_option(chosen)
    page = parser.add_argument_group("page")
    page.add_argument(
        "--html",
        metavar="FILE",
        help="Write a page instead of printing: one file that loads nothing. With --model the "
        "tokens that are read of every span are underlined.",
    )
    page.add_argument(
        "--vectors",
        metavar="FILE",
        help="Let the projections of every token on these directions lie under the text. Needs "
        "--model, which reads the chains once.",
    )
    page.add_argument(
        "--window",
        metavar="BEFORE,LENGTH",
        help="Which tokens of a span are read. Default: as the vectors say, or else 1,0.",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object: every chain as stretches of text with a label by annotator, "
        "and how many spans have which label.",
    )
    add_model_options(parser, model=None)
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read the files, choose chains, print them or write the page."""
    if arguments.html is not None:
        if arguments.json:
            raise ResourceError("--json and --html exclude each other", fix="run it twice")
        check_output(
            Path(arguments.html),
            over=arguments.files,
            refusal="the page would overwrite the chains that are read",
            option="--html",
        )
    else:
        useless = [o for o in ("vectors", "window", "model") if getattr(arguments, o) is not None]
        if useless:
            raise ResourceError(
                f"--{useless[0]} is for pages: tokens are not shown on the terminal",
                fix="give --html FILE as well",
            )
    declare_all(arguments.declare)
    labels = [n if n == UNPARSED else behavior(n).name for n in arguments.label]
    files = [read_chains([path])[0] for path in arguments.files]
    shown, left = _chosen(arguments, files, labels)
    known = {trace.id for trace in files[0]}
    view = _view(arguments, [shown, *files[1:]], known, labels)
    console = stdout()
    if arguments.html is not None:
        with status("writing the page"):
            view.save(arguments.html)
        for line in view.notes:
            console.print(line, markup=False, soft_wrap=True)
        console.print(
            f"Page: {arguments.html} ({count(len(view.chains), 'chain')}"
            f"{f', {left:,} more not shown' if left else ''})",
            markup=False,
            soft_wrap=True,
        )
        return
    if arguments.json:
        print(json.dumps(_summary(view, left), allow_nan=False))
        return
    for chain in view.chains:
        print_chain(console, chain, view.annotators, labels)
    print_legend(console, view, labels)
    for line in view.notes[:-1]:  # the last one says that no tokens are shown
        console.print(line, style="dim", markup=False, soft_wrap=True)
    if left:
        console.print(
            f"{count(left, 'more chain')}: --count N shows more", style="dim", soft_wrap=True
        )


def _summary(view: ChainView, left: int) -> dict[str, Any]:
    """What is printed, for machines; text is as the model wrote it, marks of control shown."""
    return {
        "annotators": list(view.annotators),
        "chains": [
            {
                "id": chain.trace.id,
                "category": chain.trace.category,
                "model": chain.trace.model,
                "prompt": chain.trace.prompt,
                "rows": [
                    {"kind": row.kind, "labels": list(row.labels), "text": row.text}
                    for row in rows(chain)
                ],
            }
            for chain in view.chains
        ],
        "counts": {label: list(counts) for label, counts in view.counts.items()},
        "left": left,
        "notes": list(view.notes[:-1]),
    }


def _chosen(
    arguments: argparse.Namespace, files: Sequence[Traces], labels: Sequence[str]
) -> tuple[Traces, int]:
    """The chains of the first file that are asked for, and how many more there are."""
    from steerkit.traces import Traces

    known = {trace.id for trace in files[0]}
    missing = [name for name in arguments.chain if name not in known]
    if missing:
        raise TraceError(
            f"no chain {missing[0]!r}",
            expected=f"an id such as {files[0][0].id!r}" if len(files[0]) else "chains",
            where=arguments.files[0],
        )
    with_label = {
        trace.id
        for traces in files
        for trace in traces
        if any(span.label in labels for span in trace.spans)
    }
    asked = [
        trace
        for trace in files[0]
        if (not arguments.chain or trace.id in arguments.chain)
        and (not labels or trace.id in with_label)
    ]
    if not asked:
        raise TraceError(
            "no chain has " + " or ".join(labels) if labels else "no chain to show",
            where=arguments.files[0],
            fix="label the chains first: steerkit annotate FILE" if labels else None,
        )
    most = arguments.count
    if most is None and arguments.html is None and not arguments.chain:
        most = SHOWN
    most = len(asked) if most is None else most
    return Traces(asked[:most]), max(len(asked) - most, 0)


def _view(
    arguments: argparse.Namespace,
    columns: Sequence[Traces],
    known: set[str],
    labels: Sequence[str],
) -> ChainView:
    from steerkit.traces import Traces
    from steerkit.viewing import show

    # chains of the first file that were not chosen are no news in the others
    unchosen = known - {trace.id for trace in columns[0]}
    kept = [
        columns[0],
        *(Traces(t for t in others if t.id not in unchosen) for others in columns[1:]),
    ]
    names = [
        _annotator(traces, file) for traces, file in zip(columns, arguments.files, strict=True)
    ]
    if arguments.vectors is not None and arguments.model is None:
        raise ResourceError(
            "--vectors needs the model that they are of", fix="give --model as well"
        )
    if arguments.model is None:
        if arguments.window is not None:
            raise ResourceError("--window needs a tokenizer", fix="give --model as well")
        return show(*kept, labels=labels, names=names)
    from steerkit.positions import Window

    window = None if arguments.window is None else Window.parse(arguments.window)
    if arguments.vectors is None:
        with status("reading tokens"):
            tokenizer = load_tokenizer(arguments.model)
            return show(*kept, labels=labels, names=names, tokenizer=tokenizer, window=window)
    from steerkit.vectors_file import read_vectors

    vectors = read_vectors(arguments.vectors)
    model = load_model(arguments)
    vectors.check(model)
    with status("reading the chains"):
        return show(*kept, labels=labels, names=names, model=model, vectors=vectors, window=window)


def _annotator(traces: Traces, file: str) -> str:
    """Who labelled a file, and its name, which tells two of one annotator apart."""
    names = dict.fromkeys(trace.annotator or "no annotator named" for trace in traces)
    return f"{', '.join(names)} ({Path(file).name})"
