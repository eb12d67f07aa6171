"""The page of a chain view: one HTML file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from steerkit.behaviors import UNPARSED, behaviors
from steerkit.viewing.view import ChainView, TokenRange, ViewedChain, borders
from steerkit.viewing.visible import visible

_HERE = Path(__file__).parent
_Range = tuple[int, int]


def page(view: ChainView) -> str:
    """The page as HTML.

    Text of chains, prompts and names is escaped. Beyond that, a content security policy names
    the hashes of the page's one style and one script, so that a browser runs no other script
    and loads nothing, even if markup got through.
    """
    style = _colors() + (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    chains = len(view.chains)
    title = _text(view.chains[0].trace.id if chains == 1 else f"{chains:,} chains")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header>{_bar(view)}</header>\n"
        f"<main>{''.join(_article(view, n) for n in range(chains))}</main>\n"
        f"<footer>{_foot(view)}</footer>\n"
        f'<script type="application/json" id="values">{_values(view)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _text(value: object) -> str:
    return html.escape(visible(str(value)))


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _colors() -> str:
    """Classes that give a behaviour's colour to its spans, ``b-``, and to its windows, ``k-``."""
    known = {b.name: b.color for b in behaviors()} | {UNPARSED: "#888888"}
    return "".join(
        f".b-{name} {{ --c: {color}; }}\n.k-{name} {{ --k: {color}; }}\n"
        for name, color in known.items()
    )


def _bar(view: ChainView) -> str:
    """What the reader chooses by: labels, next and previous, chains, what lies underneath."""
    definitions = {b.name: b.definition for b in behaviors()}
    chips = []
    for number, (label, counts) in enumerate(view.counts.items(), start=1):
        pressed = "true" if not view.labels or label in view.labels else "false"
        about = definitions.get(label, "what the annotator could not label")
        key = f" <kbd>{number}</kbd>" if number < 10 else ""
        chips.append(
            f'<button class="b-{label}" data-label="{label}" aria-pressed="{pressed}" '
            f'title="{_text(about)}; with Shift: one more, or one less">{label} '
            f"<small>{' | '.join(f'{n:,}' for n in counts)}</small>{key}</button>"
        )
    chains = "".join(
        f'<option value="{n}">{_text(chain.trace.id)}</option>'
        for n, chain in enumerate(view.chains)
    )
    steps = (
        '<button id="previous">\u25c2 previous <kbd>p</kbd></button>'
        '<button id="next">next \u25b8 <kbd>n</kbd></button>'
        '<span id="place" aria-live="polite"></span>'
    )
    differing = sum(len(chain.differences()) for chain in view.chains)
    if len(view.annotators) > 1:
        steps += (
            '<button id="differ" aria-pressed="false" title="step through the places where the '
            f'annotators differ">differences <small>{differing:,}</small> <kbd>d</kbd></button>'
        )
    if view.read:
        steps += (
            '<button id="reads" aria-pressed="true" title="underline the tokens that are read of '
            f'every span: {_text(view.read)}">tokens read <kbd>r</kbd></button>'
        )
    if view.directions:
        options = "".join(
            f'<option value="{n}">{_text(direction.name)}</option>'
            for n, direction in enumerate(view.directions)
        )
        steps += (
            '<label for="under">under the text</label><select id="under">'
            f'<option value="">the labels</option>{options}</select>'
            '<span class="scale" id="scale" hidden><span id="low"></span><i></i>'
            '<span id="high"></span></span>'
        )
    steps += (
        f'<label for="chain">chain</label><select id="chain">{chains}</select>'
        f'<span id="chains"></span>'
    )
    return (
        f'<div class="bar">{"".join(chips)}<button id="all">all <kbd>0</kbd></button></div>'
        f'<div class="bar">{steps}</div><div id="about" aria-live="polite"></div>'
    )


def _article(view: ChainView, number: int) -> str:
    chain = view.chains[number]
    trace = chain.trace
    facts = [
        "" if trace.task_id == trace.id else f"task {trace.task_id}",
        trace.category,
        trace.model or "",
        "cut off by the token limit" if trace.truncated else "",
        "never closed its thinking" if not (trace.closed or trace.truncated) else "",
    ]
    about = " \u00b7 ".join(filter(None, facts))
    prompt = "a bare chain: its prompt is not known" if trace.prompt is None else trace.prompt
    columns = "".join(
        f"<section>{_title(view, n)}{_column(chain, n)}</section>"
        for n in range(len(chain.columns))
    )
    return (
        f'<article data-id="{_text(trace.id)}"><h2>{_text(trace.id)} '
        f"<small>{_text(about)}</small></h2>"
        f'<div class="prompt{" none" if trace.prompt is None else ""}" dir="auto">'
        f"{_text(prompt)}</div>"
        f'<div class="columns n{min(len(chain.columns), 4)}">{columns}</div></article>\n'
    )


def _title(view: ChainView, number: int) -> str:
    return f"<h3>{_text(view.annotators[number])}</h3>" if len(view.annotators) > 1 else ""


def _column(chain: ViewedChain, number: int) -> str:
    """The response as one annotator labelled it."""
    spans, reading, trace = chain.columns[number], chain.reading, chain.trace
    if spans is None:
        return '<p class="none">not among the chains of this annotator</p>'
    text, differing = visible(trace.response), chain.differences()
    start, end = trace.thinking_bounds
    close = min(end + len(trace.think[1]), len(text))
    tokens, windows, owners = list[_Range](), list[_Range](), list[int]()
    if reading is not None:
        tokens = [(left, right) for left, right in reading.offsets if reading.projections]
        for owner, window in enumerate(reading.windows[number] or ()):
            if window is not None and (read := _characters(window, reading.offsets)) is not None:
                windows.append(read)
                owners.append(owner)
    cuts = {*borders(trace, [spans]), start, end, close}
    for part in (tokens, windows, differing):
        cuts |= {cut for found in part for cut in found}
    pieces = list(pairwise(sorted(cuts)))
    found: list[str] = []
    inside: int | None = None
    for (left, right), held, read_of, by, differs in zip(
        pieces,
        _holding([(s.start, s.end) for s in spans], pieces),
        _holding(windows, pieces),
        _holding(tokens, pieces),
        _holding(differing, pieces),
        strict=True,
    ):
        holder = held[0] if held else None
        if holder != inside:
            found.append("</mark>" if inside is not None else "")
            found.append("" if holder is None else _opening(chain, number, holder))
            inside = holder
        classes = ["think"] if right <= start or end <= left < close else []
        marks = ""
        if read_of:
            label = spans[owners[read_of[-1]]].label
            classes += ["r", f"k-{label}", *(["rr"] if len(read_of) > 1 else [])]
            marks = f' data-r="{label}"'
        if by:
            marks += f' data-t="{by[0]}"' if len(by) == 1 else f' data-t="{by[0]}-{by[-1]}"'
        if differs:
            classes.append("x")
            marks += f' data-x="{differs[0]}"'
        piece = html.escape(text[left:right], quote=False)
        if classes:
            marks = f' class="{" ".join(classes)}"{marks}'
        found.append(f"<i{marks}>{piece}</i>" if marks else piece)
    found.append("</mark>" if inside is not None else "")
    return f'<p class="text" dir="auto">{"".join(found)}</p>'


def _opening(chain: ViewedChain, column: int, number: int) -> str:
    spans = chain.columns[column] or ()
    span, reading = spans[number], chain.reading
    about = f"{span.label}, span {number + 1} of {len(spans)}"
    read = ""
    if reading is not None:
        own, window = ((part[column] or ())[number] for part in (reading.spans, reading.windows))
        if own is not None and window is not None:
            about += f", tokens {own.first} to {own.last - 1}"
            about += f", read: {_said(window)}"
            read = f' data-q="{window.first},{window.last - 1}"' if len(window) else ""
    kind = f"b-{span.label}" + (f" {UNPARSED}" if span.label == UNPARSED else "")
    return (
        f'<mark class="{kind}" data-l="{span.label}" data-s="{span.start}"{read} title="{about}">'
    )


def _said(window: TokenRange) -> str:
    """Which tokens are read, in words."""
    if not len(window):
        return "none"
    last = window.last - 1
    if window.first >= 0:
        return f"{window.first} to {last}" if last > window.first else f"{last}"
    ahead = f"the last {-window.first} of the prompt" if window.first < -1 else "the prompt's last"
    return f"{ahead} and 0 to {last}" if last >= 0 else ahead


def _characters(window: TokenRange, offsets: Sequence[_Range]) -> _Range | None:
    """Characters of the window in the response; ``None`` where all of it lies in the prompt."""
    first = max(window.first, 0)
    if window.last <= first:
        return None
    left, right = offsets[first][0], offsets[window.last - 1][1]
    return (left, right) if left < right else None


def _holding(ranges: Sequence[_Range], pieces: Sequence[_Range]) -> Iterator[list[int]]:
    """For every piece the numbers of the ranges that hold it; both are in order."""
    first = 0
    for left, _ in pieces:
        while first < len(ranges) and ranges[first][1] <= left:
            first += 1
        held = []
        for number in range(first, len(ranges)):
            if ranges[number][0] > left:
                break
            if ranges[number][1] > left:
                held.append(number)
        yield held


def _foot(view: ChainView) -> str:
    lines = [f"Labelled by {', '.join(view.annotators)}."]
    if view.read:
        lines.append(
            f"Underlined: the tokens that are read of a span, in its colour: {view.read}. Those "
            "of the prompt are not shown."
        )
    if len(view.annotators) > 1:
        lines.append(
            "Hatched: where annotators differ; text that is unparsed or in no span counts as "
            "unparsed."
        )
    lines += [
        f"{direction.name}: mean projection {direction.mean:.3g} over the thinking tokens "
        f"shown, 98 % of them within {direction.reach:.3g} of it, in {direction.unit}. Red is "
        "above the mean, blue below, full colour at that distance."
        for direction in view.directions
    ]
    lines += view.notes
    keys = (
        "Keys: <kbd>n</kbd> <kbd>p</kbd> next and previous, <kbd>1</kbd> to <kbd>9</kbd> one label "
        "alone, <kbd>0</kbd> all, <kbd>[</kbd> <kbd>]</kbd> chains, <kbd>d</kbd> differences, "
        "<kbd>r</kbd> tokens read, <kbd>u</kbd> what lies under the text."
    )
    return (
        "".join(f"<p>{_text(line)}</p>" for line in lines)
        + f"<p>{keys}</p><noscript><p>Choosing and stepping need JavaScript; the chains are all "
        "here without it.</p></noscript>"
    )


def _values(view: ChainView) -> str:
    """Projections as JSON that cannot end the element it stands in."""
    found: dict[str, Any] = {
        "directions": [
            {"name": d.name, "unit": d.unit, "mean": d.mean, "reach": d.reach}
            for d in view.directions
        ],
        "values": [
            {}
            if chain.reading is None
            else {
                str(number): [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]
                for number, values in chain.reading.projections.items()
            }
            for chain in view.chains
        ],
    }
    return json.dumps(found, allow_nan=False).replace("<", "\\u003c")
