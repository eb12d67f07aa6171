"""What `make bench` measures: cases, the ratios they aim at, and the rows that come of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_repetitions import Spread, fastest, ratio, spread, verdict


class Unavailable(Exception):  # noqa: N818 - a state of this machine, not a mistake
    """Why something cannot be measured here: a model, a peer or a device that is missing."""


@dataclass(frozen=True)
class Aim:
    """One figure of a case, and what it should be.

    Attributes
    ----------
    contender:
        Whose seconds are looked at.
    against:
        Whose seconds they are divided by, repetition by repetition: the fastest of those that
        were measured. Empty: the seconds themselves are the figure.
    target:
        The most the figure may be (``at_least``: the least). ``None``: context, no target.
    agrees:
        Key into :attr:`Measured.agreement`: whether both did the same work.
    """

    contender: str
    against: tuple[str, ...] = ()
    target: float | None = None
    at_least: bool = False
    agrees: str = ""

    @property
    def name(self) -> str:
        """``contender / against``, as the rows call it."""
        if not self.against:
            return self.contender
        several = "fastest peer" if len(self.against) > 1 else self.against[0]
        return f"{self.contender} / {several}"


@dataclass(frozen=True)
class Case:
    """Contenders that are run in turns on one model, as one question asks it.

    ``setting`` is everything that decides how much work there is; results under another one
    are not mixed with these. ``skipped`` says why a case is left out unless asked for.
    """

    question: str
    model: str
    variant: str
    device: str
    aims: tuple[Aim, ...]
    repetitions: int
    setting: Mapping[str, Any] = field(default_factory=dict)
    skipped: str = ""

    @property
    def key(self) -> str:
        """Names the case among all."""
        parts = (self.question, self.model, self.variant, self.device)
        return "_".join(part.replace(" ", "-").replace(",", "") for part in parts if part)


@dataclass
class Measured:
    """What running a case gave.

    Attributes
    ----------
    seconds:
        Of every contender, in the order of the repetitions.
    agreement:
        In words, which contenders gave the same: a benchmark of different work is worth nothing.
    missing:
        Contenders that are not there, with the reason.
    notes, versions:
        What should stand beside the figures.
    code:
        By which code, where it was measured at another time; empty: by the code that is here.
    """

    seconds: dict[str, list[float]]
    agreement: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    code: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything, for the results file."""
        return {
            "seconds": {name: [round(s, 6) for s in row] for name, row in self.seconds.items()},
            "agreement": self.agreement,
            "missing": self.missing,
            "notes": self.notes,
            "versions": self.versions,
        }


@dataclass(frozen=True)
class Context:
    """How a run was asked for: what questions need to know of the command line.

    ``pythons`` names interpreters of peers that stand ready elsewhere; ``random_weights``
    allows the large model's shape with random weights where its own are missing.
    """

    device: str
    threads: int
    quick: bool
    out: Path
    pythons: Mapping[str, Path] = field(default_factory=dict)
    random_weights: bool = False


def mark(case: Case, code: str, machine: Mapping[str, Any]) -> str:
    """Digest of what a measurement depends on; one under another mark is made again."""
    parts = [code, case.key, case.repetitions, dict(case.setting), dict(machine)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def rows(case: Case, measured: Mapping[str, Any] | None, reason: str = "") -> list[dict[str, Any]]:
    """One row for every aim; "not measured" with a reason where nothing or no peer is there."""
    return [_row(case, aim, measured, reason) for aim in case.aims]


def _row(case: Case, aim: Aim, measured: Mapping[str, Any] | None, reason: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "question": case.question,
        "case": case.key,
        "model": case.model,
        "variant": case.variant,
        "device": case.device,
        "figure": aim.name,
        "unit": "ratio" if aim.against else "s",
        "target": aim.target,
        "at_least": aim.at_least,
        "against": "",
        "value": math.nan,
        **dict.fromkeys(("low", "high", "min", "max"), math.nan),
        "repetitions": 0,
        "seconds": math.nan,
        "verdict": "not measured",
        "clear": False,
        "agreement": "",
        "reason": reason,
    }
    if measured is None:
        return row
    seconds: Mapping[str, Sequence[float]] = measured["seconds"]
    if aim.contender not in seconds:
        return row | {"reason": _why(measured, [aim.contender])}
    own = seconds[aim.contender]
    there = [name for name in aim.against if name in seconds]
    if aim.against and not there:
        return row | {"reason": _why(measured, aim.against)}
    against = fastest({name: seconds[name] for name in there}) if there else ""
    found = ratio(own, seconds[against]) if against else spread(own)
    absent = [name for name in aim.against if name not in seconds]
    return row | {
        **_figures(found),
        "against": against,
        "repetitions": len(own),
        "seconds": spread(own).median,
        "verdict": verdict(found.median, aim.target, aim.at_least),
        "clear": aim.target is not None and (found.high <= aim.target or found.low >= aim.target),
        "agreement": measured["agreement"].get(aim.agrees, ""),
        "reason": f"without {_why(measured, absent)}" if absent else "",
    }


def _figures(found: Spread) -> dict[str, float]:
    return {
        "value": found.median,
        "low": found.low,
        "high": found.high,
        "min": found.least,
        "max": found.most,
    }


def _why(measured: Mapping[str, Any], names: Sequence[str]) -> str:
    missing = measured["missing"]
    return "; ".join(f"{name}: {missing.get(name, 'not run')}" for name in names)
