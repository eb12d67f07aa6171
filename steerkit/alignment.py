"""Alignment: a trace as tokens, with its spans, its thinking section and its phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Int8
from torch import Tensor

from steerkit.behaviors import UNPARSED
from steerkit.errors import TraceError
from steerkit.positions import phases, span_tokens, still_opening
from steerkit.traces import Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, eq=False)
class AlignedTrace:
    """A trace as the model reads it.

    Attributes
    ----------
    trace_id, task_id, task_key:
        Names, and the hash of the task by which sets are told apart.
    ids, prompt_length:
        Token ids of prompt and response; the response starts at ``prompt_length``.
    offsets:
        Character range in the response of every response token.
    thinking:
        Positions [start, end) of the thinking section, without the think strings.
    spans:
        Positions [start, end) and label of every annotated span, ``unparsed`` left out.
    phases:
        Phase of every position (:func:`steerkit.positions.phases`).
    retokenized:
        Whether the stored token ids differ from tokenising the text again; the stored win.
    """

    trace_id: str
    task_id: str
    task_key: str
    ids: tuple[int, ...]
    prompt_length: int
    offsets: tuple[tuple[int, int], ...]
    thinking: tuple[int, int]
    spans: tuple[tuple[int, int, str], ...]
    phases: Int8[Tensor, " position"]
    retokenized: bool


def align(
    trace: Trace,
    *,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    opened_ids: Sequence[int] | None = None,
    waits: bool = False,
) -> AlignedTrace:
    """Tokens of a trace by character offsets.

    Parameters
    ----------
    trace:
        The chain, its spans in characters of the response.
    prompt_ids:
        The rendered prompt, the opening think string left out. Only the prompt goes
        through a chat template; the response's ids are appended as they are.
    opened_ids:
        The rendered prompt with the opening think string at its end, if the template
        writes it; used unless the response brings an opening string of its own.
    waits:
        Whether the model is expected to write the opening string itself; its first positions
        are then ``prompt`` until it has (:func:`steerkit.positions.still_opening`).
        Otherwise it thinks from the last prompt position on.

    Raises :class:`TraceError` for stored token ids that do not spell the response, and
    for a span that holds no token.
    """
    response = trace.response
    opening, closing = trace.think
    start, end = trace.thinking_bounds
    opens_itself = response[:start].lstrip() == opening if start else False
    prompt = list(prompt_ids if opens_itself or opened_ids is None else opened_ids)
    ids, offsets, retokenized = _response_tokens(trace, tokenizer)
    base = len(prompt)

    # the closing string takes part, so that a token on a border has one owner only
    parts = [(start, end)] if end > start else []
    close = (end, min(end + len(closing), len(response)))
    if trace.closed:
        parts.append(close)
    if opens_itself:
        parts.insert(0, (start - len(opening), start))
    tokens = dict(zip(parts, span_tokens(parts, offsets, response), strict=True))
    thinking = tokens.get((start, end), (0, 0))
    length = base + len(ids)
    opened_at = max(base - 1, 0)
    if waits or (opens_itself and opened_ids is not None):
        written = (
            i
            for i, (_, right) in enumerate(offsets)
            if not still_opening(response[:right], opening)
        )
        opened_at = base + next(written, len(ids))
    # the last token that touches the closing string predicts the answer's first
    closed_at = length
    if trace.closed:
        closed_at = base + _last_token_of(close, offsets)

    named = [span for span in trace.spans if span.label != UNPARSED]
    ranges = span_tokens([(span.start, span.end) for span in named], offsets, response)
    spans = []
    for span, (first, last) in zip(named, ranges, strict=True):
        if last <= first:
            raise TraceError(
                "the span holds no token of its own",
                found=repr(response[span.start : span.end]),
                where=f"trace {trace.id!r}, span [{span.start}, {span.end}) {span.label!r}",
                fix="widen the span or drop it",
            )
        spans.append((base + first, base + last, span.label))
    return AlignedTrace(
        trace_id=trace.id,
        task_id=trace.task_id,
        task_key=trace.task_key,
        ids=(*prompt, *ids),
        prompt_length=base,
        offsets=tuple(offsets),
        thinking=(base + thinking[0], base + thinking[1]),
        spans=tuple(spans),
        phases=phases(length, opened_at, closed_at),
        retokenized=retokenized,
    )


def _last_token_of(part: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> int:
    return max(
        (i for i, (left, right) in enumerate(offsets) if left < part[1] and right > part[0]),
        default=len(offsets) - 1,
    )


def _response_tokens(
    trace: Trace, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[tuple[int, int]], bool]:
    encoded = tokenizer(
        trace.response, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids = list(encoded["input_ids"])
    offsets = [(int(left), int(right)) for left, right in encoded["offset_mapping"]]
    stored = trace.token_ids
    if stored is None or list(stored) == ids:
        return ids, offsets, False
    return list(stored), stored_offsets(stored, tokenizer, trace), True


def stored_offsets(
    ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, trace: Trace
) -> list[tuple[int, int]]:
    """Character ranges of stored token ids in the response that they spell.

    Tokens that share the bytes of one character all get that character's range. Raises
    :class:`TraceError` where the ids spell another text.
    """

    def spell(part: Sequence[int]) -> str:
        text = tokenizer.decode(
            list(part), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    if max(ids, default=0) >= len(tokenizer):
        raise TraceError(
            "token_ids of another tokenizer",
            expected=f"ids below {len(tokenizer)}",
            found=max(ids),
            where=f"trace {trace.id!r}",
            fix="drop token_ids to tokenise the text again",
        )
    ranges: list[tuple[int, int]] = []
    anchor, anchor_character, done = 0, 0, 0
    # some decoders strip a space from the first token they get: a token that is spelled
    # already goes ahead, so that this is never one of ours
    ahead, skipped = 0, 0
    for token in range(len(ids)):
        text = spell(ids[ahead : token + 1])[skipped:]
        # a trailing replacement character is a character whose bytes are not all there yet
        whole = len(text.rstrip(_REPLACEMENT))
        partial = whole < len(text) and not trace.response.startswith(text, anchor_character)
        right = anchor_character + (whole if partial else len(text))
        right = max(right, done)  # a decoder may spoil a whole run of bytes for its last one
        ranges.append((done, right + 1) if partial else (done, right))
        done = right
        if not partial and token - anchor >= 32 and _REPLACEMENT not in spell(ids[token:][:1]):
            ahead, skipped = token, len(spell(ids[token:][:1]))
            anchor, anchor_character = token + 1, right
    spelled = spell(ids)
    if done != len(trace.response) or spelled != trace.response:
        place = next(
            (i for i, (a, b) in enumerate(zip(spelled, trace.response, strict=False)) if a != b),
            min(len(spelled), len(trace.response)),
        )
        raise TraceError(
            "token_ids do not spell the response",
            expected=repr(trace.response[place : place + 20]),
            found=repr(spelled[place : place + 20]),
            where=f"trace {trace.id!r}, character {place}",
            fix="use the tokenizer that wrote them, or drop token_ids",
        )
    return ranges
