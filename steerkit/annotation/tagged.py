"""Tagged text: chains that an LLM copied with ``["label"] text ["end-section"]`` around parts."""

from __future__ import annotations

import json
import logging
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from steerkit.behaviors import behavior
from steerkit.errors import BehaviorError, ResourceError, TraceError
from steerkit.files import parse_json, read_jsonl, refuse_surrogates
from steerkit.traces import Span, Trace, Traces, trace_from_json

_log = logging.getLogger(__name__)

ANNOTATOR = "tagged"
END = "end-section"
# ["label"], [label], ["1. label"], with whatever quotes an LLM finds; group "quoted" tells
# whether there were any, since a bare [word] is often part of the text itself.
_TAG = re.compile(
    r"\[\s*(?P<quoted>[\"'\u201c\u201d\u2018\u2019`]?)\s*(?:\d+\s*[.):]\s*)?"
    r"(?P<label>[A-Za-z][A-Za-z0-9]*(?:[ _-][A-Za-z0-9]+)*)\s*[\"'\u201c\u201d\u2018\u2019`]?\s*\]"
)
_KEPT = ("task_id", "prompt", "category", "model", "revision", "token_ids", "metadata")
_REASONS = ("not found", "out of order", "empty", "unknown label", "stray end-section")
# An LLM that copies a text makes these of each other.
_SAME = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2212\u2011", "''\"\"----")


@dataclass(frozen=True)
class Section:
    """One tagged part as the annotator wrote it.

    ``label`` is a behaviour's name, or the tag as written where ``known`` is false.
    """

    tag: str
    label: str
    text: str
    known: bool = True


@dataclass(frozen=True)
class Unplaced:
    """A tagged part that is no span of its chain, and why.

    ``reason`` is ``not found`` (the chain does not hold this text), ``out of order``
    (it does, but only where that would cross or overlap more of the other parts),
    ``empty``, ``unknown label``, or ``stray end-section`` (an end without a beginning;
    the text is what stood before it). ``pandas.DataFrame(unplaced)`` is a table.
    """

    chain: str
    label: str
    text: str
    reason: str


class _Match(NamedTuple):
    """A way to place a section, as the last of the best chain of matches up to it."""

    score: tuple[int, int]  # matches so far, and how many of them touch the one before
    end: int
    start: int
    section: int
    before: _Match | None


def parse_sections(annotated: str) -> list[Section]:
    """The tagged parts of a text, in order; nothing about where they stand in a chain.

    Forgives other quotes or none, numbered labels (``["1. deduction"]``), capitals,
    underscores, and an end that is missing before the next beginning. A bracketed word
    in the middle of a part is a tag only if it is quoted or a known label. An end
    without a beginning is returned as a section labelled ``end-section``.
    """
    sections: list[Section] = []
    opened: tuple[str, str, bool] | None = None
    text_from = 0
    for match in _TAG.finditer(annotated):
        label = re.sub(r"[ _]", "-", match["label"]).lower()
        # a declared name may itself hold an underscore
        name = _known_name(label) or _known_name(match["label"].lower())
        if name is None and label != END and opened is not None and not match["quoted"]:
            continue
        text = annotated[text_from : match.start()].strip()
        if opened is not None:
            tag, opened_label, known = opened
            sections.append(Section(tag, opened_label, text, known))
        elif label == END:
            sections.append(Section(match[0], END, text, False))
        opened = None if label == END else (match[0], name or label, name is not None)
        text_from = match.end()
    if opened is not None:
        tag, opened_label, known = opened
        sections.append(Section(tag, opened_label, annotated[text_from:].strip(), known))
    return sections


def place_sections(sections: Sequence[Section], response: str, start: int = 0) -> list[Span | str]:
    """Where each section stands in ``response``: a span, or the reason why it is none.

    Texts are compared with white space, quotation marks and dashes normalised, and match
    whole words only. Of all occurrences of all sections, the choice is the one that places
    most of them in order without overlap; among these, the one in which most sections
    follow directly on the one before, or on the start of the text (so a repeated sentence
    goes where its neighbours are). ``start`` is the first character to look at.
    """
    text, origin = _normalized(response, start)
    wanted = [_normalized(section.text)[0] for section in sections]
    results: list[Span | str] = ["not found"] * len(sections)
    # The best chains of matches: those that no shorter one equals, by where they end (ends
    # and scores both increase), and for every end the best that ends exactly there.
    front = [_Match((0, 0), 0, 0, -1, None)]
    ends = [0]
    ending = {0: front[0]}
    for number, (section, words) in enumerate(zip(sections, wanted, strict=True)):
        if not section.known or not words:
            unusable = "unknown label" if section.label != END else "stray end-section"
            results[number] = "empty" if section.known else unusable
            continue
        found = _occurrences(words, text)
        if found:
            results[number] = "out of order"
        # All matches of one section are made before any is added: each is used once.
        made = [_extend(front, ends, ending, number, at, at + len(words), text) for at in found]
        for match in made:
            _add(front, ends, match)
            if match.end not in ending or ending[match.end].score < match.score:
                ending[match.end] = match
    best: _Match | None = front[-1]
    while best is not None and best.before is not None:
        first, last = origin[best.start], origin[best.end - 1] + 1
        results[best.section] = Span(first, last, sections[best.section].label)
        best = best.before
    return results


def read_tagged(path: str | Path) -> tuple[Traces, list[Unplaced]]:
    """Read chains annotated as tagged text, from a JSON list or a JSONL file.

    Every record holds ``response`` and ``annotated_response``; ``id``, ``task_id``,
    ``prompt``, ``category``, ``model``, ``revision``, ``token_ids`` and ``metadata`` are
    taken over where they are there, and mean what they mean in traces files. Without an id
    a chain is named after the file and its number, and without a prompt it is bare: its own
    task, for splits.

    Returns the traces, and every tagged part that is no span of them. Nothing is
    guessed and nothing is dropped silently: each part is in one of the two.

    Raises :class:`ResourceError` for a missing file and :class:`TraceError`, naming the
    record, for one that cannot be used.
    """
    traces: list[Trace] = []
    unplaced: list[Unplaced] = []
    seen: dict[str, str] = {}
    placed = 0
    for where, record in _records(Path(path)):
        for key in ("response", "annotated_response"):
            if not isinstance(record.get(key), str) or not record[key]:
                raise TraceError(
                    f"a tagged chain has no {key}",
                    expected=f'"{key}": a non-empty string',
                    found=json.dumps(record.get(key)),
                    where=where,
                )
        number = len(traces)
        name = f"{Path(path).stem}-{number}" if record.get("id") is None else str(record["id"])
        if name in seen:
            raise TraceError(
                f"chain id {name!r} occurs twice (first in {seen[name]})",
                where=where,
                fix="give every chain an id of its own",
            )
        seen[name] = where
        kept = {key: record.get(key) for key in _KEPT}
        kept["task_id"] = name if record.get("task_id") is None else str(record["task_id"])
        bare = trace_from_json({**kept, "id": name, "response": record["response"]}, where)
        sections = parse_sections(record["annotated_response"])
        results = place_sections(sections, bare.response, bare.thinking_bounds[0])
        spans = [result for result in results if isinstance(result, Span)]
        placed += len(spans)
        unplaced.extend(
            Unplaced(name, section.label, section.text, result)
            for section, result in zip(sections, results, strict=True)
            if isinstance(result, str)
        )
        traces.append(bare.with_spans(spans, ANNOTATOR))
    if not traces:
        raise TraceError("the file holds no chains", where=path)
    if unplaced:
        reasons = {reason: sum(u.reason == reason for u in unplaced) for reason in _REASONS}
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        _log.warning("%s: %d spans placed, %d parts not (%s)", path, placed, len(unplaced), listed)
    return Traces(traces), unplaced


def _known_name(label: str) -> str | None:
    try:
        return behavior(label).name
    except BehaviorError:
        return None


def _normalized(text: str, start: int = 0) -> tuple[str, list[int]]:
    """Text from ``start`` with single spaces and plain marks, and where each character was."""
    characters: list[str] = []
    origin: list[int] = []
    for place, character in enumerate(text[start:].translate(_SAME), start=start):
        if not character.isspace():
            characters.append(character)
        elif characters and characters[-1] != " ":
            characters.append(" ")
        else:
            continue
        origin.append(place)
    if characters and characters[-1] == " ":
        characters.pop()
        origin.pop()
    return "".join(characters), origin


def _occurrences(words: str, text: str) -> list[int]:
    """Starts of every occurrence of ``words`` that cuts no word of ``text`` in two."""
    left = r"(?<!\w)" if words[0].isalnum() else ""
    right = r"(?!\w)" if words[-1].isalnum() else ""
    pattern = re.compile(f"(?={left}{re.escape(words)}{right})")
    return [match.start() for match in pattern.finditer(text)]


def _extend(
    front: list[_Match],
    ends: list[int],
    ending: Mapping[int, _Match],
    section: int,
    start: int,
    end: int,
    text: str,
) -> _Match:
    """The best chain that ends in this match."""
    before = front[bisect_right(ends, start) - 1]
    best = _Match((before.score[0] + 1, before.score[1]), end, start, section, before)
    # A chain that this match touches is worth one more, even if it was not ahead. Between
    # the two stands nothing, or the one space that normalised text has there.
    for border in (start, start - 1) if text[start - 1 : start] == " " else (start,):
        if (touched := ending.get(border)) is not None:
            score = (touched.score[0] + 1, touched.score[1] + 1)
            if score > best.score:
                best = _Match(score, end, start, section, touched)
    return best


def _add(front: list[_Match], ends: list[int], match: _Match) -> None:
    """Put a match on the front unless one there ends no later and scores as much."""
    place = bisect_right(ends, match.end)
    if front[place - 1].score >= match.score:
        return
    while place < len(front) and front[place].score <= match.score:
        del front[place], ends[place]
    if ends[place - 1] == match.end:
        front[place - 1] = match
    else:
        front.insert(place, match)
        ends.insert(place, match.end)


def _records(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Every record with the place it has in its file."""
    if not path.is_file():
        raise ResourceError(
            "no such file" if not path.exists() else "not a file",
            where=path,
            fix="check the path; relative paths start at the current folder",
        )
    text = path.read_bytes()
    if not text.lstrip().startswith(b"["):
        return [(f"{path}, line {n}", record) for n, record in read_jsonl(path, TraceError)]
    records = parse_json(text, TraceError, path, expected="a list of objects")
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise TraceError(
                "not a JSON object",
                found=type(record).__name__,
                where=f"{path}, record {number}",
            )
        refuse_surrogates(record, TraceError, f"{path}, record {number}")
    return [(f"{path}, record {n}", record) for n, record in enumerate(records)]
