"""Shuffled labels: the twin of annotated chains in which labels say nothing about sentences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from steerkit.behaviors import UNPARSED
from steerkit.spans import Span
from steerkit.traces import Trace, Traces

SHUFFLED = ", labels shuffled within chains, seed "
"""What stands between an annotator's name and the seed, in the name that the twin records."""


def shuffle_labels(traces: Trace | Iterable[Trace], seed: int = 0) -> Traces:
    """The same chains and spans, labels shuffled among the spans of each chain.

    A control for whatever is done with annotated chains: extract directions from the twin and
    compare, choose or steer by the same calls. What is left of an effect is not due to what
    single sentences do. How often a chain shows each behaviour stays as it is, so under the
    contrasts ``rest`` and ``balanced`` directions still hold how chains that are richer in a
    behaviour differ from others; under ``overall`` also what is common to the starts of spans;
    under ``within`` nothing but chance.

    Parameters
    ----------
    traces:
        One annotated chain or several.
    seed:
        Another seed gives another shuffle. It depends on nothing but the seed, the id of the
        chain and the number of its spans: not on order, machine or version.

    Returns
    -------
    :class:`Traces` in the same order, ids and all else unchanged; ``annotator`` says that the
    labels were shuffled, and so does the provenance of what is extracted from them. ``unparsed``
    is no behaviour and stays where it is. A chain with spans of one label is its own twin.
    """
    listed = [traces] if isinstance(traces, Trace) else Traces(traces)
    return Traces(_shuffled(trace, seed) for trace in listed)


def _shuffled(trace: Trace, seed: int) -> Trace:
    places = [i for i, span in enumerate(trace.spans) if span.label != UNPARSED]
    if not places:
        return trace
    key = f"shuffled labels {seed} {trace.id}".encode()
    drawn = hashlib.shake_128(key).digest(8 * len(places))
    numbers = [drawn[8 * i : 8 * i + 8] for i in range(len(places))]
    order = sorted(range(len(places)), key=numbers.__getitem__)
    spans = list(trace.spans)
    for place, source in zip(places, order, strict=True):
        span = trace.spans[place]
        spans[place] = Span(span.start, span.end, trace.spans[places[source]].label)
    by = f"{trace.annotator or 'unknown'}{SHUFFLED}{seed}"
    return replace(trace, spans=tuple(spans), annotator=by)
