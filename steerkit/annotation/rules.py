"""Rules: marker phrases, and where in the sentence and the chain they count, from a file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from steerkit.annotation.annotator import fingerprint, units
from steerkit.annotation.sentences import splitter_name
from steerkit.behaviors import UNPARSED, Behavior, behavior, behaviors, declare
from steerkit.errors import AnnotationError, BehaviorError, ResourceError
from steerkit.resources import data
from steerkit.traces import Span, Trace

BUNDLED = "annotators/rules.toml"
VERSION = 1  # raised whenever the same file may label differently than before
PLACES = ("start", "anywhere", "end")
_SAME = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2212", "''\"\"---")


class Found(NamedTuple):
    """The label of a sentence and what decided it; without a rule both others are ``None``."""

    label: str
    phrase: str | None
    priority: float | None


@dataclass(frozen=True)
class Rule:
    """Marker phrases of one behaviour.

    Attributes
    ----------
    behavior:
        The label it gives; a behaviour's name or short name.
    phrases:
        Words in any case, whole words only; marks between them don't count ("wait, no" is
        "Wait - no"). ``*`` stands for up to four words, ``#`` for a number; a mark that
        stands alone (``=``, ``?``) is meant as such.
    at:
        Where in the sentence: at its ``start`` (after openers), its ``end``, or ``anywhere``.
    chain:
        Where in the chain the sentence must begin: shares [from, to] of the thinking
        section's characters, 0 to 1.
    unless:
        Phrases that must not occur in the sentence.
    priority:
        Of several rules that fire the highest wins, and among equals the first in the file.
    """

    behavior: str
    phrases: tuple[str, ...]
    at: Literal["start", "anywhere", "end"] = "anywhere"
    chain: tuple[float, float] = (0.0, 1.0)
    unless: tuple[str, ...] = ()
    priority: float = 0.0


class _Compiled(NamedTuple):
    """A rule with the patterns of its phrases, of any of them, and of what forbids it."""

    rule: Rule
    phrases: list[tuple[str, re.Pattern[str]]]
    any_of: re.Pattern[str]
    none_of: re.Pattern[str] | None


@dataclass(frozen=True)
class Rules:
    """An annotator by marker phrases: every sentence gets the label of the rule that wins.

    Attributes
    ----------
    rules:
        In the order of the file.
    openers:
        Words that may stand before a phrase at the start of a sentence.
    otherwise:
        The label of a sentence in which no rule fires: ``unparsed``, or a behaviour.
    written_after:
        Annotators whose labels were in view when the rules were written, for
        :mod:`steerkit.independence`; no part of the name, as it changes no label.

    It sees words, not meaning: "wait" in "they wait for the bus" is told from "Wait," by its
    place alone. Use it where a decision must be open to inspection (:meth:`explain`), or
    where nothing fits the classifier. How far both agree with other annotators stands in the
    data card.
    """

    rules: tuple[Rule, ...]
    openers: tuple[str, ...] = ()
    otherwise: str = UNPARSED
    written_after: tuple[str, ...] = ()
    _compiled: list[_Compiled] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = [self.otherwise, *(rule.behavior for rule in self.rules)]
        for name in named:
            if name != UNPARSED:
                behavior(name)
        ordered = sorted(self.rules, key=lambda rule: -rule.priority)
        compiled = []
        for rule in ordered:
            phrases = [(p, _pattern(p, rule.at, self.openers)) for p in rule.phrases]
            any_of = re.compile("|".join(pattern.pattern for _, pattern in phrases))
            unless = [_pattern(p, "anywhere", ()).pattern for p in rule.unless]
            none_of = re.compile("|".join(unless)) if unless else None
            compiled.append(_Compiled(rule, phrases, any_of, none_of))
        object.__setattr__(self, "_compiled", compiled)

    @property
    def labels(self) -> tuple[str, ...]:
        """The behaviours that it can give, in the order in which they are known."""
        given = {behavior(rule.behavior).name for rule in self.rules} | {self.otherwise}
        return tuple(known.name for known in behaviors() if known.name in given)

    @cached_property
    def name(self) -> str:
        """``rules@`` and a hash of the rules, ``#`` and one of how they are applied."""
        content = [self.otherwise, self.openers, [vars(rule) for rule in self.rules]]
        settings = [VERSION, splitter_name()]
        return f"rules@{fingerprint(content)}#{fingerprint(settings, 3)}"

    def explain(self, sentence: str, place: float = 0.5) -> Found:
        """The label of a sentence, with the phrase and priority that decided it.

        ``place`` is where it begins, as a share of the thinking section.
        """
        text = " ".join(sentence.translate(_SAME).casefold().split())
        for rule, phrases, any_of, none_of in self._compiled:
            if not rule.chain[0] <= place <= rule.chain[1] or not any_of.search(text):
                continue
            if none_of is not None and none_of.search(text):
                continue
            phrase = next(phrase for phrase, pattern in phrases if pattern.search(text))
            name = rule.behavior
            label = name if name == UNPARSED else behavior(name).name
            return Found(label, phrase, rule.priority)
        label = self.otherwise if self.otherwise == UNPARSED else behavior(self.otherwise).name
        return Found(label, None, None)

    def spans(self, traces: Sequence[Trace], *, keep: bool = False) -> Iterator[list[Span]]:
        """The sentences of each trace; see :class:`steerkit.annotation.Annotator`."""
        for trace in traces:
            start, end = trace.thinking_bounds
            start += len(trace.thinking) - len(trace.thinking.lstrip())
            yield [
                Span(
                    a, b, self.explain(trace.response[a:b], (a - start) / max(end - start, 1)).label
                )
                for a, b in units(trace, keep=keep)
            ]


def read_rules(path: str | Path | None = None) -> Rules:
    """Read a rules file (TOML); without a path the one that is bundled.

    Behaviours of your own that the file declares (``[[behaviors]]`` with ``name``,
    ``definition`` and optional ``color``) are declared, unless they are known.

    Raises :class:`ResourceError` for a missing file, :class:`AnnotationError`, naming the
    file and the rule, for anything in it that cannot be meant, and :class:`BehaviorError`
    for a label that nobody declared.
    """
    source = data(BUNDLED) if path is None else Path(path)
    if not source.is_file():
        raise ResourceError(
            "no such rules file", where=source, fix="copy the bundled one and edit the copy"
        )
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise AnnotationError("not a TOML file", found=problem, where=source) from None
    known = {"otherwise", "openers", "rules", "behaviors", "written_after"}
    _refuse_unknown(content, known, str(source))
    for number, entry in enumerate(_tables(content, "behaviors", source), start=1):
        where = f"{source}, behaviour {number}"
        _refuse_unknown(entry, {"name", "definition", "color"}, where)
        if all(_text(entry, "name", where) != b.name for b in behaviors()):
            colors = {"color": _text(entry, "color", where)} if "color" in entry else {}
            try:
                declare(Behavior(entry["name"], _text(entry, "definition", where), **colors))
            except BehaviorError as error:
                raise BehaviorError(
                    error.problem, expected=error.expected, found=error.found, where=where
                ) from None
    rules = []
    for number, entry in enumerate(_tables(content, "rules", source), start=1):
        rules.append(_rule(entry, f"{source}, rule {number}"))
    if not rules:
        raise AnnotationError("the file holds no rules", expected="[[rules]]", where=source)
    try:
        return Rules(
            tuple(rules),
            _texts(content, "openers", str(source)),
            _text(content, "otherwise", str(source)) if "otherwise" in content else UNPARSED,
            _texts(content, "written_after", str(source)),
        )
    except BehaviorError as error:
        raise BehaviorError(
            error.problem, expected=error.expected, where=source, fix=error.fix
        ) from None


def _rule(entry: Mapping[str, Any], where: str) -> Rule:
    _refuse_unknown(entry, {"behavior", "phrases", "at", "chain", "unless", "priority"}, where)
    at = entry.get("at", "anywhere")
    if at not in PLACES:
        raise AnnotationError(
            "a rule looks nowhere", expected="one of " + ", ".join(PLACES), found=at, where=where
        )
    chain = entry.get("chain", [0.0, 1.0])
    numbers = isinstance(chain, list) and all(type(x) in (int, float) for x in chain)
    if not numbers or len(chain) != 2 or not 0 <= chain[0] <= chain[1] <= 1:
        raise AnnotationError(
            "a part of the chain that there is not",
            expected="[from, to], shares from 0 to 1",
            found=chain,
            where=where,
        )
    priority = entry.get("priority", 0)
    if type(priority) not in (int, float):
        raise AnnotationError("a priority is a number", found=repr(priority), where=where)
    phrases = _texts(entry, "phrases", where)
    if not phrases:
        raise AnnotationError("a rule without phrases never fires", where=where)
    unless = _texts(entry, "unless", where)
    return Rule(
        _text(entry, "behavior", where), phrases, at, (chain[0], chain[1]), unless, priority
    )


def _pattern(phrase: str, at: str, openers: Sequence[str]) -> re.Pattern[str]:
    """What a phrase matches in a sentence that is in lower case, with single spaces."""
    made = ""
    between = ""
    for piece in phrase.translate(_SAME).casefold().split():
        if piece == "*":
            between = r"(?:\W+[\w'/.-]+){0,4}?\W+"
            continue
        core = r"\d[\d.,/]*" if piece == "#" else re.escape(piece)
        left = r"(?<![\w'])" if piece == "#" or piece[0].isalnum() else ""
        right = r"(?!\w)" if piece == "#" or piece[-1].isalnum() else ""
        made += (between if made else "") + left + core + right
        between = r"\W+" if piece == "#" or piece[-1].isalnum() else r"\W*"
    if at == "start":
        words = "|".join(re.escape(word.casefold()) for word in openers)
        made = (rf"^\W*(?:(?:{words})(?!\w)\W*)*" if words else r"^\W*") + made
    elif at == "end":
        made += r"\W*$"
    return re.compile(made)


def _refuse_unknown(entry: Mapping[str, Any], known: set[str], where: str) -> None:
    strange = sorted(set(entry) - known)
    if strange:
        raise AnnotationError(
            f"unknown entry {strange[0]!r}",
            expected="one of " + ", ".join(sorted(known)),
            where=where,
        )


def _tables(content: Mapping[str, Any], key: str, source: Path) -> list[Mapping[str, Any]]:
    found = content.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise AnnotationError(f"{key} are tables", expected=f"[[{key}]]", where=source)
    return found


def _texts(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = entry.get(key, [])
    if not isinstance(found, list) or not all(isinstance(t, str) and t.strip() for t in found):
        raise AnnotationError(
            f"{key} are unusable", expected=f'{key} = ["words", ...]', found=found, where=where
        )
    return tuple(found)


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    found = entry.get(key)
    if not isinstance(found, str) or not found.strip():
        raise AnnotationError(f"{key} is missing or no text", found=found, where=where)
    return found
