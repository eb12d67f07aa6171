"""A trace as HTML: the chain with its spans in the colours of their behaviours."""

from __future__ import annotations

import html
from collections import Counter
from typing import TYPE_CHECKING

from steerkit.behaviors import UNPARSED, behaviors

if TYPE_CHECKING:
    from steerkit.traces import Trace


def trace_html(trace: Trace) -> str:
    """Prompt and response with every span in its behaviour's colour, and a legend."""
    # the chain's own line breaks, and its own dollars: a notebook would set formulas
    return (
        '<div class="tex2jax_ignore mathjax_ignore" '
        'style="white-space: pre-wrap; line-height: 1.7; max-width: 60em">'
        f"<b>{html.escape(trace.prompt or trace.task_id)}</b>\n{response_html(trace)}\n"
        f"<small>{legend_html(trace) or 'no spans'}</small></div>"
    )


def response_html(trace: Trace) -> str:
    """The response with every span in its behaviour's colour; all else in it is escaped."""
    pieces, place = list[str](), 0
    for span in trace.spans:
        pieces.append(html.escape(trace.response[place : span.start]))
        pieces.append(_marked(trace.response[span.start : span.end], span.label))
        place = span.end
    pieces.append(html.escape(trace.response[place:]))
    return "".join(pieces)


def legend_html(trace: Trace) -> str:
    """Every label of the trace in its colour, with its number of spans; empty without spans."""
    names = [*(b.name for b in behaviors()), UNPARSED]
    counts = Counter(span.label for span in trace.spans)
    return " ".join(_marked(f"{label} {counts[label]}", label) for label in names if counts[label])


def _marked(text: str, label: str) -> str:
    """Text on a light shade of its behaviour's colour; dashed where no annotator knew it."""
    known = {b.name: b.color for b in behaviors()}
    style = "border-bottom: 1px dashed currentColor"
    if color := known.get(label):
        style = f"background: {color}33; border-bottom: 2px solid {color}"
    return f'<span title="{html.escape(label)}" style="{style}">{html.escape(text)}</span>'
