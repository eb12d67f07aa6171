"""Checks: the four conditions of a verdict, each with its numbers, and what the effect costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.report.grids import records
from steerkit.report.numbers import (
    as_float,
    coefficient,
    counted,
    known,
    listed,
    percent,
    plain,
    points,
    probability,
    signed,
    whole,
)

if TYPE_CHECKING:
    from steerkit.evaluation.record import Evaluation

CONTROLS = {"random": "random directions", "shuffled": "directions of shuffled labels"}
_COSTS: dict[str, tuple[str, Callable[[Any], str], Callable[[Any], str], str]] = {
    # measure: its name, how a value and a change of it are printed, and the change's unit
    "accuracy": ("accuracy", percent, points, " points"),
    "thinking_tokens": ("thinking tokens", whole, lambda value: signed(value, 0), ""),
    "closed": ("chains that close", percent, points, " points"),
    "repeated": ("repeated sentences", percent, points, " points"),
    "zlib": ("zlib ratio", plain, signed, ""),
}


@dataclass(frozen=True)
class Check:
    """One condition of a verdict; ``tone`` is ``pass``, ``fail``, or empty where nobody knows."""

    text: str
    tone: str = ""


def checks(verdict: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Check]:
    """The four conditions of a row of :func:`steerkit.evaluation.verdicts.verdicts`."""
    yield Check(
        f"More than chance: p {probability(verdict['p_holm'])} after Holm's adjustment (sign-flip "
        f"test over {counted(int(verdict['tasks']), 'task')}).",
        _tone(verdict["significant"]),
    )
    beaten = [_beaten(verdict, kind) for kind in CONTROLS if as_float(verdict[kind]) > 0]
    yield Check(
        f"Beyond every control: exceeds {listed(beaten)}."
        if beaten
        else "Beyond every control: none was run.",
        _tone(verdict["exceeds"]),
    )
    sizes = [
        f"{plain(100 * as_float(verdict[f'{kind}_mean']), 1)} points by {CONTROLS[kind]}"
        for kind in CONTROLS
        if known(verdict[f"{kind}_mean"])
    ]
    if sizes:
        yield Check(
            f"Controls move it little, at most a quarter as far: on average {listed(sizes)}; its "
            f"own direction by {points(verdict['control_change'])} points on the same "
            f"{counted(int(verdict['control_tasks']), 'task')}.",
            _tone(verdict["specific"]),
        )
    yield Check(
        _range_text(settings.get("ranges", {}).get(verdict["behavior"]) or {}),
        _tone(verdict["fluent"]),
    )


def cost_text(verdict: Mapping[str, Any], evaluation: Evaluation) -> str:
    """Side effects of a claim's condition against the unsteered chains; empty where none is."""
    table = evaluation.side_effects
    mine = table[table["annotator"] == verdict["annotator"]]
    base = {row["measure"]: row["value"] for row in records(mine, kind="baseline")}
    there = {row["measure"]: row for row in records(mine, condition=verdict["condition"])}
    parts = []
    for measure, (name, value, change, unit) in _COSTS.items():
        if measure not in there:
            continue
        row = there[measure]
        text = f"{name} {value(base.get(measure))} to {value(row['value'])}"
        if known(row["change_low"], row["change_high"]):
            text += f" ({change(row['change'])}{unit}, "
            text += f"{change(row['change_low'])} to {change(row['change_high'])})"
        parts.append(text)
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def range_text(ends: Any) -> str:
    """A range of coefficients in words."""
    low, high = ends
    return f"{coefficient(low)} to {coefficient(high)}"


def _beaten(verdict: Mapping[str, Any], kind: str) -> str:
    return (
        f"{whole(verdict[f'{kind}_beaten'])} of {whole(verdict[kind])} {CONTROLS[kind]} (the "
        f"furthest: {points(verdict[f'{kind}_most'])} points)"
    )


def _range_text(found: Mapping[str, Any]) -> str:
    if not found.get("fluent"):
        return "Text stays whole: the fluent range was not measured."
    text = f"Text stays whole: fluent at {range_text(found['fluent'])}"
    if known(found.get("found_on")):
        text += f", found on {counted(int(found['found_on']), 'task')} of the select set"
    if free := found.get("free"):
        kept = f"at {range_text(free)}" if free[0] < free[1] else "at no coefficient but zero"
        text += f"; there accuracy was kept {kept}"
    return f"{text}."


def _tone(value: Any) -> str:
    return {1.0: "pass", 0.0: "fail"}.get(as_float(value), "")
