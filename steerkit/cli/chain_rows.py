"""Rows of chains on the terminal: a stretch of text each, with its labels by annotator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from steerkit.behaviors import UNPARSED, behaviors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from steerkit.viewing import ChainView, ViewedChain

NARROWEST = 40
"""Columns that the text needs beside the labels."""


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


def print_legend(console: Console, view: ChainView, labels: Sequence[str]) -> None:
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
