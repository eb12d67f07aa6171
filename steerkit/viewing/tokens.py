"""Tokens of viewed chains: which are read of every span, and their projections on directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.alignment import AlignedTrace, align
from steerkit.behaviors import UNPARSED
from steerkit.errors import SteerkitError
from steerkit.models import ThinkingModel
from steerkit.positions import Window
from steerkit.traces import THINK, Trace
from steerkit.viewing.view import Reading, TokenRange, ViewedChain, ViewedDirection

if TYPE_CHECKING:
    import pandas as pd

REACH = 0.98
"""Share of thinking tokens whose projections the colours tell apart."""
_UNITS = {
    "norm": "mean norms",
    "paper": "norms of the mean",
    "raw": "lengths of the raw difference",
    "one": "units of the activations",
}


@dataclass(frozen=True)
class Found:
    """Chains with what is known of their tokens, and what there is to say about it."""

    chains: list[ViewedChain]
    directions: tuple[ViewedDirection, ...]
    read: str
    notes: list[str]


def read_tokens(
    chains: Sequence[ViewedChain],
    model: ThinkingModel | None,
    tokenizer: Any,
    vectors: Any,
    layers: Any,
    unit: Any,
    window: Window | None,
) -> Found:
    """The chains with their tokens, windows and projections; arguments are those of ``show``.

    A chain whose tokens cannot be found, because its token ids are another tokenizer's or a
    span holds no token, stays as it is and is named in the notes.
    """
    if window is None:
        facts = getattr(vectors, "provenance", {}).get("window")
        window = Window(**facts) if facts else Window()
    made, lost = list[ViewedChain](), list[SteerkitError]()
    stored = again = 0
    for chain in chains:
        chain = replace(chain, trace=_with_think(chain.trace, model))
        try:
            reading, retokenized = _reading(chain, model, tokenizer, window)
        except SteerkitError as problem:
            lost.append(problem)
            made.append(chain)
            continue
        stored += chain.trace.token_ids is not None
        again += retokenized
        made.append(replace(chain, reading=reading))
    notes = [
        f"Tokens: those stored with {stored:,} chains ({again:,} of which tokenising the text "
        f"again would cut otherwise), those of the text in {len(made) - len(lost) - stored:,}."
    ]
    if lost:
        notes.append(f"Tokens not found in {len(lost):,} chains. The first: {lost[0]}")
    directions: tuple[ViewedDirection, ...] = ()
    if vectors is not None and model is not None:
        made, directions, told = _projected(made, model, vectors, layers, unit)
        notes += told
    return Found(made, directions, window.words if len(lost) < len(made) else "", notes)


def _with_think(trace: Trace, model: ThinkingModel | None) -> Trace:
    """The trace with the model's think strings, where it names none of its own."""
    if model is None or model.think == THINK or "think" in trace.metadata:
        return trace
    return replace(trace, metadata={**trace.metadata, "think": list(model.think)})


def _reading(
    chain: ViewedChain, model: ThinkingModel | None, tokenizer: Any, window: Window
) -> tuple[Reading, bool]:
    offsets: tuple[tuple[int, int], ...] = ()
    retokenized = False
    spans: list[tuple[TokenRange | None, ...] | None] = []
    windows: list[tuple[TokenRange | None, ...] | None] = []
    for column in chain.columns:
        if column is None:
            spans.append(None)
            windows.append(None)
            continue
        aligned = _aligned(replace(chain.trace, spans=column), model, tokenizer, window)
        base, ranges = aligned.prompt_length, iter(aligned.spans)
        own: list[TokenRange | None] = []
        read: list[TokenRange | None] = []
        for span in column:
            if span.label == UNPARSED:  # no span to the model
                own.append(None)
                read.append(None)
                continue
            first, last, _ = next(ranges)
            tokens = window.tokens(first, last)
            own.append(TokenRange(first - base, last - base))
            read.append(TokenRange(tokens.start - base, tokens.stop - base))
        spans.append(tuple(own))
        windows.append(tuple(read))
        offsets, retokenized = aligned.offsets, aligned.retokenized
    return Reading(offsets, tuple(spans), tuple(windows)), retokenized


def _aligned(
    trace: Trace, model: ThinkingModel | None, tokenizer: Any, window: Window
) -> AlignedTrace:
    if model is not None:
        return model.align(trace)
    # the prompt's tokens are not shown: all that counts is that there are some to be read
    prompt = [] if trace.prompt is None else [0] * window.before
    return align(trace, tokenizer=tokenizer, prompt_ids=prompt)


def _projected(
    chains: list[ViewedChain], model: ThinkingModel, vectors: Any, layers: Any, unit: Any
) -> tuple[list[ViewedChain], tuple[ViewedDirection, ...], list[str]]:
    """Chains with the projections of their tokens, and every direction with its spread."""
    from steerkit.projections import targets

    asked = targets(vectors, layers, model)
    known = [chain for chain in chains if chain.reading is not None]
    if not known:
        return chains, (), ["Projections are not shown: no chain has tokens."]
    table = model.read(
        [chain.trace for chain in known], vectors, layers=layers, unit=unit, too_long="cut"
    )
    notes = [f"Projections: {what}: {n:,}." for what, n in table.attrs["counts"].items() if n]
    keys = [(direction.behavior, layer) for direction, layer in asked]
    values: dict[str, dict[int, list[float]]] = {}
    for number, (behavior, layer) in enumerate(keys):
        rows = table[(table["behavior"] == behavior) & (table["layer"] == layer)]
        for name, own in rows.groupby("trace", sort=False):
            values.setdefault(str(name), {})[number] = own["projection"].astype(float).tolist()
    directions = tuple(
        _spread(table, behavior, layer, _UNITS[direction.check_unit(unit)])
        for (direction, _), (behavior, layer) in zip(asked, keys, strict=True)
    )
    made = [
        chain
        if chain.reading is None
        else replace(
            chain, reading=replace(chain.reading, projections=values.get(chain.trace.id, {}))
        )
        for chain in chains
    ]
    return made, directions, notes


def _spread(table: pd.DataFrame, behavior: str, layer: int, unit: str) -> ViewedDirection:
    rows = table[(table["behavior"] == behavior) & (table["layer"] == layer)]
    thinking = rows[rows["phase"] == "think"]
    values = (thinking if len(thinking) else rows)["projection"].to_numpy(dtype=float)
    mean = float(values.mean())
    reach = float(np.quantile(np.abs(values - mean), REACH))
    return ViewedDirection(f"{behavior} at layer {layer}", unit, mean, reach)
