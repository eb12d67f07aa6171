"""``steerkit show``: chains in colour, on the terminal or as a page; annotators side by side."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from steerkit.behaviors import UNPARSED, behavior, behaviors
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
    from rich.console import Console
    from rich.text import Text

    from steerkit.traces import Traces
    from steerkit.viewing import ChainView, ViewedChain

SHOWN = 3
"""Chains that are printed unless told otherwise; a page has all."""
NARROWEST = 40
"""Columns that the text needs beside the labels."""

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
        help="Which tokens of a span are read. Default: as the vectors say, or else 1,10.",
    )
    add_model_options(parser, model=None)
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read the files, choose chains, print them or write the page."""
    if arguments.html is not None:
        check_output(Path(arguments.html))
        if Path(arguments.html).resolve() in [Path(file).resolve() for file in arguments.files]:
            raise ResourceError(
                "the page would overwrite the chains that are read",
                where=arguments.html,
                fix="name another file with --html",
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
    for chain in view.chains:
        print_chain(console, chain, view.annotators, labels)
    _legend(console, view, labels)
    for line in view.notes[:-1]:  # the last one says that no tokens are shown
        console.print(line, style="dim", markup=False, soft_wrap=True)
    if left:
        console.print(
            f"{count(left, 'more chain')}: --count N shows more", style="dim", soft_wrap=True
        )


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


class Row(NamedTuple):
    """A stretch of text on which every annotator has one label; ``None`` for no label.

    ``kind`` is ``text``, or ``mark`` for the think strings, or ``answer``; ``gap`` tells that
    a paragraph ends before it.
    """

    labels: tuple[str | None, ...]
    text: str
    kind: str
    gap: bool


def rows(chain: ViewedChain) -> Iterator[Row]:
    """The response cut wherever a label of any annotator begins or ends; white space left out."""
    from steerkit.viewing.view import borders
    from steerkit.viewing.visible import visible

    trace, text = chain.trace, visible(chain.trace.response)
    start, end = trace.thinking_bounds
    close = min(end + len(trace.think[1]), len(text))
    cuts = {*borders(trace, [spans for spans in chain.columns if spans]), start, end, close}
    ahead, before = [0] * len(chain.columns), 0
    for left, right in pairwise(sorted(cuts)):
        labels: list[str | None] = []
        for n, spans in enumerate(chain.columns):
            while spans and ahead[n] < len(spans) and spans[ahead[n]].end <= left:
                ahead[n] += 1
            held = spans and ahead[n] < len(spans) and spans[ahead[n]].start <= left
            labels.append(spans[ahead[n]].label if spans and held else None)
        piece = text[left:right].strip()
        if not piece:
            continue
        first = left + text[left:right].index(piece)
        kind = "mark" if right <= start or end <= left < close else "text"
        kind = "answer" if left >= close and trace.closed else kind
        yield Row(tuple(labels), piece, kind, "\n\n" in text[before:first])
        before = first + len(piece)


def print_chain(
    console: Console, chain: ViewedChain, annotators: Sequence[str], labels: Sequence[str] = ()
) -> None:
    """A chain: its prompt, then a row for every stretch, with a column of labels by annotator.

    Colours say what the labels say, so that nothing is lost where there are none. Where
    annotators differ the row has a sign.
    """
    from rich.table import Table
    from rich.text import Text

    from steerkit.viewing.visible import visible

    trace = chain.trace
    # where stdout is a file, the text keeps its own lines
    wrap = not console.is_terminal
    about = " \u00b7 ".join(part for part in (trace.category, trace.model) if part)
    head = Text.assemble((visible(trace.id), "bold"), f"  {visible(about)}" if about else "")
    console.print(head, soft_wrap=wrap)
    prompt = "(a bare chain: its prompt is not known)" if trace.prompt is None else trace.prompt
    console.print(Text(visible(prompt), style="cyan"), soft_wrap=wrap)
    console.print()
    several = len(annotators) > 1
    found = list(rows(chain))
    width = max((len(name or "") for row in found for name in row.labels), default=0)
    narrow = console.is_terminal and console.width - width * len(annotators) < NARROWEST
    if not console.is_terminal or narrow:
        for row in found:
            for line in _lines(row, labels, 0 if narrow else width):
                console.print(line, soft_wrap=wrap)
    else:
        made = Table.grid(padding=(0, 2, 0, 0))
        for _ in annotators:
            made.add_column(no_wrap=True)
        if several:
            made.add_column(no_wrap=True)
        made.add_column(overflow="fold", ratio=1)
        if several:
            heads = (Text(chr(ord("A") + n), style="bold") for n in range(len(annotators)))
            made.add_row(*heads, "", "")
        for row in found:
            if row.gap:
                made.add_row()
            cells = [Text(name or "", style=_style(name, labels)) for name in row.labels]
            if several:
                cells.append(Text(_sign(row), style="bold"))
            made.add_row(*cells, _text(row, labels))
        console.print(made)
    if trace.truncated:
        console.print("[cut off by the token limit]", style="yellow", markup=False)
    elif not trace.closed:
        console.print("[never closed its thinking]", style="yellow", markup=False)
    console.print()


def _lines(row: Row, labels: Sequence[str], width: int) -> Iterator[Text]:
    """A row as lines of text: its labels before it, in ``width`` columns each, or above it."""
    from rich.text import Text

    if row.gap:
        yield Text("")
    head = Text()
    for name in row.labels:
        head.append(name or "", style=_style(name, labels))
        head.append(" " * (max(width - len(name or ""), 0) + 2))
    if len(row.labels) > 1:
        head.append(_sign(row).ljust(2))
    indent = Text("  " if not width else " " * len(head))
    if not width and any(row.labels):
        yield head
    for number, line in enumerate(_text(row, labels).split("\n")):
        yield (head if width and number == 0 else indent) + line


def _sign(row: Row) -> str:
    """A sign where annotators differ; no label counts as unparsed."""
    differs = row.kind == "text" and len({name or UNPARSED for name in row.labels}) > 1
    return "\u2260" if differs and any(c.isalnum() for c in row.text) else ""


def _text(row: Row, labels: Sequence[str]) -> Text:
    from rich.text import Text

    if row.kind == "mark":
        return Text(row.text, style="dim")
    asked = not labels or any(name in labels for name in row.labels)
    return Text(row.text, style="" if asked or row.kind == "answer" else "dim")


def _style(name: str | None, labels: Sequence[str]) -> str:
    """A block in the colour of a label, legible on any ground; what was not asked for is dim."""
    color = next((b.color for b in behaviors() if b.name == name), None)
    if color is None or (labels and name not in labels):
        return "dim"
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    # luma of ITU-R BT.601: dark letters on what is light
    ink = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "#ffffff"
    return f"{ink} on {color}"


def _legend(console: Console, view: ChainView, labels: Sequence[str]) -> None:
    """Labels in colour with their counts, and who labelled."""
    from rich.text import Text

    from steerkit.viewing.visible import visible

    words = Text()
    for name, counts in view.counts.items():
        amounts = " | ".join(f"{n:,}" for n in counts)
        words.append(f"{name} {amounts}", style=_style(name, labels)).append("   ")
    console.print(
        words if words else Text("no spans: steerkit annotate FILE labels them"),
        soft_wrap=not console.is_terminal,
    )
    for number, name in enumerate(view.annotators):
        letter = f"{chr(ord('A') + number)}: " if len(view.annotators) > 1 else "labelled by "
        console.print(f"{letter}{visible(name)}", style="dim", markup=False, soft_wrap=True)
