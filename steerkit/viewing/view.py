"""Chain view: chains as labelled by one annotator or by several, with the tokens that are read."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.behaviors import UNPARSED, behavior, behaviors
from steerkit.errors import AnnotationError, TraceError
from steerkit.files import write_text_atomic
from steerkit.traces import Span, Trace, Traces

if TYPE_CHECKING:
    from steerkit.layers import Layers
    from steerkit.models import ThinkingModel
    from steerkit.positions import Window
    from steerkit.vectors import Unit


@dataclass(frozen=True)
class TokenRange:
    """Response tokens [first, last); a negative number is a token of the prompt, -1 its last."""

    first: int
    last: int

    def __len__(self) -> int:
        return max(self.last - self.first, 0)


@dataclass(frozen=True)
class Reading:
    """What is known of a chain's tokens.

    Attributes
    ----------
    offsets:
        Characters [start, end) of every response token.
    spans, windows:
        By annotator and span: the tokens that belong to it, and those that are read of it.
        ``None`` for an annotator without the chain, and for ``unparsed`` text.
    projections:
        By direction, one value a token, as :func:`steerkit.projections.read` gives them.
    """

    offsets: tuple[tuple[int, int], ...]
    spans: tuple[tuple[TokenRange | None, ...] | None, ...]
    windows: tuple[tuple[TokenRange | None, ...] | None, ...]
    projections: Mapping[int, Sequence[float]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ViewedDirection:
    """A direction that lies under the text.

    ``mean`` is that of its projections over the thinking tokens shown, ``reach`` what 98 % of
    them stay within around it; both in ``unit``.
    """

    name: str
    unit: str
    mean: float
    reach: float


@dataclass(frozen=True)
class ViewedChain:
    """A chain, and its spans by annotator; ``None`` for one whose file lacks the chain."""

    trace: Trace
    columns: tuple[tuple[Span, ...] | None, ...]
    reading: Reading | None = None

    def differences(self) -> list[tuple[int, int]]:
        """Characters [start, end) where annotators differ, neighbours joined.

        Text that is ``unparsed`` or in no span counts as ``unparsed``. What holds no letter or
        digit is no difference.
        """
        there = [spans for spans in self.columns if spans is not None]
        found: list[tuple[int, int]] = []
        text, ahead = self.trace.response, [0] * len(there)
        for start, end in pairwise(borders(self.trace, there)):
            labels = set()
            for n, spans in enumerate(there):
                while ahead[n] < len(spans) and spans[ahead[n]].end <= start:
                    ahead[n] += 1
                held = ahead[n] < len(spans) and spans[ahead[n]].start <= start
                labels.add(spans[ahead[n]].label if held else UNPARSED)
            if len(labels) < 2 or not any(c.isalnum() for c in text[start:end]):
                continue
            if found and not any(c.isalnum() for c in text[found[-1][1] : start]):
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found


def borders(trace: Trace, columns: Iterable[Iterable[Span]]) -> list[int]:
    """Where the text is cut: its ends, and the ends of every span, sorted."""
    cuts = {0, len(trace.response)}
    for spans in columns:
        cuts |= {cut for span in spans for cut in (span.start, span.end)}
    return sorted(cuts)


@dataclass(frozen=True)
class ChainView:
    """Chains to look at: in a notebook by itself, in a browser from a file.

    Attributes
    ----------
    chains:
        Those that are shown, in order.
    annotators:
        A name for every column.
    labels:
        Those that are in colour at first; empty for all.
    directions:
        What can lie under the text.
    read:
        In words, which tokens are read of a span; empty where tokens are not known.
    notes:
        What is not shown, and why; how tokens were found.
    """

    chains: tuple[ViewedChain, ...]
    annotators: tuple[str, ...]
    labels: tuple[str, ...] = ()
    directions: tuple[ViewedDirection, ...] = ()
    read: str = ""
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, tuple[int, ...]]:
        """Spans of every label that occurs, by annotator; behaviours first, as declared."""
        counted = [
            Counter(s.label for chain in self.chains for s in chain.columns[n] or ())
            for n in range(len(self.annotators))
        ]
        names = [*(b.name for b in behaviors()), UNPARSED]
        return {
            name: tuple(c[name] for c in counted) for name in names if any(c[name] for c in counted)
        }

    def html(self) -> str:
        """A page of its own: it loads nothing, and what a model wrote is text on it."""
        from steerkit.viewing.page import page

        return page(self)

    def save(self, path: str | Path) -> Path:
        """Write the page atomically; the same view gives the same bytes."""
        return write_text_atomic(path, self.html())

    def __repr__(self) -> str:
        spans = sum(sum(counts) for counts in self.counts.values())
        by = f", {len(self.annotators)} annotators" if len(self.annotators) > 1 else ""
        return f"ChainView({len(self.chains)} chains{by}, {spans} spans)"

    def _repr_html_(self) -> str:
        # a frame of its own, so that neither its style nor its script touches the notebook
        height = 420 if len(self.chains) == 1 else 720
        return (
            f'<iframe sandbox="allow-scripts" title="chains" srcdoc="{html.escape(self.html())}" '
            f'style="width: 100%; height: {height}px; border: 1px solid #8884"></iframe>'
        )


def show(
    traces: Trace | Iterable[Trace],
    *others: Trace | Iterable[Trace],
    labels: str | Iterable[str] = (),
    model: ThinkingModel | None = None,
    tokenizer: Any = None,
    vectors: Any = None,
    layers: Layers | None = None,
    unit: Unit | None = None,
    window: Window | None = None,
    names: Sequence[str] = (),
) -> ChainView:
    """Chains in colour: in a notebook as the value of a cell, or as a page, ``.save(path)``.

    Parameters
    ----------
    traces:
        One chain or several, annotated or not.
    others:
        The same chains labelled by others, matched by id; they stand beside the first.
    labels:
        Labels that are in colour at first; by default all.
    model, tokenizer:
        Whose tokens are shown: those that are read of every span are underlined. A fast
        Hugging Face tokenizer is enough for that. Without either, tokens are not known.
    vectors, layers, unit:
        As of :func:`steerkit.projections.read`: projections of every token, to lie under the
        text. They need ``model``, which then reads all chains once.
    window:
        Which tokens of a span are read; by default that of ``vectors``, or else ``Window()``.
    names:
        A name for every annotator, instead of those in the traces.

    Chains of the first argument are shown, in their order; what the others lack, or have
    beyond these, is told in the notes. So is every chain whose tokens cannot be found.

    Raises :class:`TraceError` for no chain, vectors without a model, and a number of names
    that does not fit; :class:`AnnotationError` for annotations without a chain in common, and
    for one id with two texts; :class:`BehaviorError` for unknown labels.
    """
    columns = [Traces([t] if isinstance(t, Trace) else t) for t in (traces, *others)]
    if not len(columns[0]):
        raise TraceError("no chain to show", expected="at least one")
    if vectors is not None and model is None:
        raise TraceError(
            "projections need the model that the vectors are of",
            fix="pass model=..., or --model on the command line",
        )
    if names and len(names) != len(columns):
        raise TraceError("names do not fit", expected=f"{len(columns)} of them", found=len(names))
    chosen = [labels] if isinstance(labels, str) else labels
    known = tuple(name if name == UNPARSED else behavior(name).name for name in chosen)
    chains, notes = _matched(columns)
    directions: tuple[ViewedDirection, ...] = ()
    read = ""
    if model is not None or tokenizer is not None:
        from steerkit.viewing.tokens import read_tokens

        found = read_tokens(chains, model, tokenizer, vectors, layers, unit, window)
        chains, directions, read = found.chains, found.directions, found.read
        notes += found.notes
    else:
        notes.append("Which tokens are read of a span is not shown: that takes a tokenizer.")
    return ChainView(
        tuple(chains),
        tuple(names) or _annotators(columns),
        labels=known,
        directions=directions,
        read=read,
        notes=tuple(notes),
    )


def _matched(columns: Sequence[Traces]) -> tuple[list[ViewedChain], list[str]]:
    """The chains of the first column with the spans of all, and what has no partner."""
    by_id = [{trace.id: trace for trace in traces} for traces in columns]
    notes = []
    for number, traces in enumerate(by_id[1:], start=2):
        missing, beyond = by_id[0].keys() - traces.keys(), traces.keys() - by_id[0].keys()
        if len(missing) == len(by_id[0]):
            raise AnnotationError(
                "the annotations have no chain in common",
                expected="the same ids in all",
                found=f"{list(by_id[0])[:2]} and {list(traces)[:2]}",
                fix="to see chains that are not the same, show one file after another",
            )
        if missing or beyond:
            notes.append(
                f"Annotation {number} lacks {len(missing):,} of the chains shown and has "
                f"{len(beyond):,} others, which are not shown."
            )
    chains = []
    for trace in columns[0]:
        spans: list[tuple[Span, ...] | None] = []
        for traces in by_id:
            twin = traces.get(trace.id)
            if twin is not None and (twin.response, twin.think) != (trace.response, trace.think):
                raise AnnotationError(
                    f"chain {trace.id!r} is another text in another annotation",
                    fix="show annotations of the same chains",
                )
            spans.append(None if twin is None else twin.spans)
        chains.append(ViewedChain(trace, tuple(spans)))
    return chains, notes


def _annotators(columns: Sequence[Traces]) -> tuple[str, ...]:
    """Who labelled, as the traces say; numbered where two names are the same."""
    found = [
        ", ".join(dict.fromkeys(trace.annotator or "no annotator named" for trace in traces))
        for traces in columns
    ]
    if len(set(found)) == len(found):
        return tuple(found)
    return tuple(f"{number}: {name}" for number, name in enumerate(found, start=1))
