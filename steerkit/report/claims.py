"""Claims: the verdict on every behaviour in plain sentences, with what speaks for and against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.behaviors import behaviors
from steerkit.places import where_words
from steerkit.report.checks import CONTROLS, Check, checks, cost_text
from steerkit.report.grids import Cell, Grid, Row, color_of, measured, records
from steerkit.report.numbers import (
    MISSING,
    as_float,
    coefficient,
    counted,
    known,
    listed,
    percent,
    plain,
    points,
    probability,
    short_name,
    whole,
)

if TYPE_CHECKING:
    from steerkit.evaluation.record import Evaluation

SIGNS = {"amplify": "amplified", "suppress": "suppressed"}
HOLDS, FAILS = "holds", "not shown"
_UNITS = {"norm": " mean norms", "paper": " norms of the mean", "one": " (unit vectors)"}


@dataclass(frozen=True)
class Side:
    """The claim that one behaviour is amplified, or suppressed, at one coefficient."""

    verdict: str
    tone: str
    head: str
    texts: tuple[str, ...]
    tests: tuple[Check, ...]
    cost: str


@dataclass(frozen=True)
class Claim:
    """A behaviour, its definition and colour, and what is claimed of it."""

    behavior: str
    definition: str
    color: str
    sides: tuple[Side, ...]


def summary_texts(evaluation: Evaluation, annotator: str) -> list[str]:
    """How many claims hold and which, which were not shown, and how many reach their target."""
    rows = verdict_rows(evaluation, annotator)
    if not rows:
        return ["No claim was tested: no coefficient was set for one."]
    held = [row for row in rows if row["holds"]]
    missed = [row for row in rows if not row["holds"]]
    first = f"{len(held)} of {counted(len(rows), 'claim')} hold{'s' * (len(held) == 1)}."
    if held:
        first += f" Steering {_named(held, ('amplifies', 'suppresses'), ' and ')}."
    if missed:
        first += f" Not shown: {_named(missed, ('amplifying', 'suppressing'), '; ')}."
    if not held:
        return [first]
    met = sum(as_float(row["meets_target"]) == 1 for row in held)
    return [
        first,
        f"Of those that hold, {met} of {len(held)} reach{'es' * (met == 1)} the target set "
        "beforehand: at least twice the unsteered rate, or at most 0.4 times it.",
    ]


def claims(evaluation: Evaluation, annotator: str) -> list[Claim]:
    """What is claimed of every behaviour, by the labels of one annotator, others beside it."""
    definitions = {b.name: b.definition for b in behaviors()}
    mine = verdict_rows(evaluation, annotator)
    others = [row for row in verdict_rows(evaluation) if row["annotator"] != annotator]
    return [
        Claim(
            name,
            definitions.get(name, ""),
            color_of(name),
            tuple(_side(row, evaluation, others) for row in mine if row["behavior"] == name),
        )
        for name in dict.fromkeys(row["behavior"] for row in mine)
    ]


def verdict_rows(evaluation: Evaluation, annotator: str | None = None) -> list[dict[str, Any]]:
    """Verdicts of one annotator or of all, by annotator and behaviour, amplified first."""
    table = evaluation.verdicts
    rows = records(table if annotator is None else table[table["annotator"] == annotator])
    order = {key: i for i, key in enumerate(dict.fromkeys(_owner(row) for row in rows))}
    signs = list(SIGNS)
    return sorted(rows, key=lambda row: (order[_owner(row)], signs.index(row["sign"])))


def _owner(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row["annotator"]), str(row["behavior"])


def verdict_grid(evaluation: Evaluation) -> Grid:
    """Every verdict of every annotator, with its numbers."""
    return Grid(
        "Verdicts. Rates are shares of the sentences of the thinking sections; changes in "
        "points; intervals of 95\u00a0%",
        (
            "claim",
            "verdict",
            "coefficient",
            "unsteered",
            "steered",
            "change",
            "ratio",
            "effect size",
            "p (Holm)",
            *(f"{kind} exceeded" for kind in CONTROLS),
        ),
        tuple(_verdict_row(row) for row in verdict_rows(evaluation)),
        "verdicts",
    )


def _verdict_row(row: Mapping[str, Any]) -> Row:
    tone = "yes" if row["holds"] else "no"
    return Row(
        f"{row['behavior']}, {SIGNS[row['sign']]}",
        (
            Cell(HOLDS if row["holds"] else FAILS, f"by {short_name(row['annotator'])}", tone),
            Cell(coefficient(row["coefficient"]), f"layer {whole(row['layer'])}"),
            Cell(percent(row["base"])),
            Cell(percent(row["rate"])),
            measured(row, ("change", "low", "high"), points),
            measured(row, ("ratio", "ratio_low", "ratio_high"), plain),
            Cell(plain(row["effect_size"])),
            Cell(probability(row["p_holm"]).removeprefix("= ")),
            *(_exceeded(row, kind) for kind in CONTROLS),
        ),
        color_of(row["behavior"]),
    )


def _side(
    row: Mapping[str, Any], evaluation: Evaluation, others: Sequence[Mapping[str, Any]]
) -> Side:
    unit = _UNITS.get(str(evaluation.settings.get("unit")), "")
    place = where_words(evaluation.settings.get("where"))
    texts = [_rate_text(row)]
    if not row["holds"] and row["reason"]:
        texts.append(f"Why not: {row['reason']}.")
    texts += [
        f"By {short_name(other['annotator'])}: {HOLDS if other['holds'] else FAILS}; "
        f"{percent(other['base'])} to {percent(other['rate'])}, {_times(other)}."
        for other in others
        if (other["behavior"], other["sign"]) == (row["behavior"], row["sign"])
    ]
    return Side(
        HOLDS if row["holds"] else FAILS,
        "yes" if row["holds"] else "no",
        f"{SIGNS[row['sign']].capitalize()} at {coefficient(row['coefficient'])}{unit}, layer "
        f"{whole(row['layer'])}{place and ', ' + place}",
        tuple(texts),
        tuple(checks(row, evaluation.settings)),
        cost_text(row, evaluation),
    )


def _rate_text(row: Mapping[str, Any]) -> str:
    text = (
        f"{percent(row['rate'])} of sentences, against {percent(row['base'])} unsteered: "
        f"{points(row['change'])} points"
    )
    if known(row["low"], row["high"]):
        text += f" (95\u00a0% interval {points(row['low'])} to {points(row['high'])})"
    least = "at least" if row["target"] > 1 else "at most"
    met = "met" if as_float(row["meets_target"]) == 1 else "not met"
    return f"{text}, {_times(row)}. Target, {least} {row['target']:g} times: {met}."


def _times(row: Mapping[str, Any]) -> str:
    if not known(row["ratio"]):
        return "no ratio, since it does not occur unsteered"
    text = f"{plain(row['ratio'])} times the rate"
    if known(row["ratio_low"], row["ratio_high"]):
        text += f" ({plain(row['ratio_low'])} to {plain(row['ratio_high'])})"
    return text


def _exceeded(row: Mapping[str, Any], kind: str) -> Cell:
    if not as_float(row[kind]) > 0:
        return Cell(MISSING)
    return Cell(
        f"{whole(row[f'{kind}_beaten'])} of {whole(row[kind])}",
        f"p {probability(row[f'{kind}_p'])}",
    )


def _named(rows: Sequence[Mapping[str, Any]], verbs: tuple[str, str], between: str) -> str:
    """``amplifies a and b and suppresses c``."""
    by_sign = {
        verb: [str(row["behavior"]) for row in rows if row["sign"] == sign]
        for sign, verb in zip(SIGNS, verbs, strict=True)
    }
    return between.join(f"{verb} {listed(names)}" for verb, names in by_sign.items() if names)
