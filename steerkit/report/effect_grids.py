"""Effect grids: rates beside their side effects, controls, curves and what else moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerkit.report.claims import SIGNS, verdict_rows
from steerkit.report.grids import Cell, Grid, Row, color_of, measured, records
from steerkit.report.numbers import (
    MISSING,
    as_float,
    coefficient,
    known,
    percent,
    plain,
    points,
    short_name,
    signed,
)
from steerkit.report.numbers import whole as count

if TYPE_CHECKING:
    from steerkit.evaluation.record import Evaluation

_MEASURES: dict[str, tuple[str, Any, Any]] = {
    # measure: column, format of the value, format of its change
    "accuracy": ("accuracy", percent, points),
    "closed": ("closed", percent, points),
    "truncated": ("cut off", percent, points),
    "thinking_tokens": ("thinking tokens", count, lambda v: signed(v, 0)),
    "zlib": ("zlib", plain, signed),
    "repeated": ("repeated", percent, points),
    "loop": ("loop", lambda v: plain(v, 1), lambda v: signed(v, 1)),
    "parsed": ("parsed", percent, points),
    "kl": ("KL, nats", lambda v: plain(v, 3), lambda v: signed(v, 3)),
    "perplexity": ("perplexity", plain, signed),
}


def effect_grid(evaluation: Evaluation, annotator: str) -> Grid:
    """The rate of every steered behaviour by coefficient, unsteered and asked for among them,
    and beside each what it costs."""
    rates = evaluation.rates
    rates = rates[(rates["measure"] == "spans") & (rates["annotator"] == annotator)]
    costs = evaluation.side_effects
    costs = costs[costs["annotator"] == annotator]
    shown = [name for name in _MEASURES if name in set(costs["measure"])]
    by_condition: dict[str, dict[str, Any]] = {}
    for row in records(costs):
        by_condition.setdefault(row["condition"], {})[row["measure"]] = row
    rows = []
    for behavior in evaluation.settings.get("behaviors", ()):
        own = [
            row
            for row in records(rates, label=behavior)
            if row["kind"] == "baseline"
            or (row["kind"] in ("steered", "prompt") and row["behavior"] == behavior)
        ]
        own.sort(key=lambda row: (row["kind"] == "prompt", row["coefficient"]))
        fluent = evaluation.settings.get("ranges", {}).get(behavior, {}).get("fluent")
        for row in own:
            found = by_condition.get(row["condition"], {})
            inside = fluent is None or fluent[0] <= row["coefficient"] <= fluent[1]
            rows.append(
                Row(
                    f"{behavior}, {_condition(row)}",
                    (
                        measured(row, ("value", "low", "high"), percent),
                        *(_cost(found.get(name), *_MEASURES[name][1:]) for name in shown),
                    ),
                    color_of(behavior),
                    "base" if row["kind"] == "baseline" else "" if inside else "apart",
                )
            )
    return Grid(
        f"Rates and side effects, labelled by {short_name(annotator)}. Below a rate: its "
        "95\u00a0% interval; below a side effect: its change against the unsteered chains of the "
        "same tasks, in points where it is a share",
        ("condition", "rate", *(_MEASURES[name][0] for name in shown)),
        tuple(rows),
        "side_effects",
    )


def control_grid(evaluation: Evaluation, annotator: str) -> Grid:
    """What every claim's controls do beside it, and what asking does."""
    prompted = {
        row["behavior"]: row
        for row in records(evaluation.effects, annotator=annotator, kind="prompt", measure="spans")
        if row["label"] == row["behavior"]
    }
    rows = []
    for row in verdict_rows(evaluation, annotator):
        cells = [
            Cell(count(row["control_tasks"])),
            Cell(points(row["control_change"])),
        ]
        for kind in ("random", "shuffled"):
            if not as_float(row.get(kind)) > 0:
                cells += [Cell(MISSING)] * 3
                continue
            cells += [
                Cell(f"{count(row[f'{kind}_beaten'])} of {count(row[kind])}"),
                Cell(points(row[f"{kind}_most"])),
                Cell(points(row[f"{kind}_mean"]).lstrip("+")),
            ]
        asked = prompted.get(row["behavior"]) if row["sign"] == "amplify" else None
        cells.append(measured(asked or {}, ("change", "low", "high"), points))
        sign = SIGNS.get(row["sign"], row["sign"])
        at = coefficient(row["coefficient"])
        rows.append(
            Row(f"{row['behavior']}, {sign}, {at}", tuple(cells), color_of(row["behavior"]))
        )
    return Grid(
        "Change of the behaviour's rate, in points, by its own direction and by the controls on "
        "the same tasks",
        (
            "claim",
            "tasks",
            "direction",
            "random exceeded",
            "random, furthest",
            "random, mean size",
            "shuffled exceeded",
            "shuffled, furthest",
            "shuffled, mean size",
            "asked for in the prompt",
        ),
        tuple(rows),
        "controls",
    )


def curve_grid(evaluation: Evaluation) -> Grid:
    """Slope at zero and saturation of every curve."""
    rows = [
        Row(
            f"{row['behavior']}, layer {count(row['layer'])}",
            (
                Cell(short_name(row["annotator"])),
                _slope(row),
                Cell(percent(row["floor"])),
                Cell(percent(row["ceiling"])),
                _saturation(row, "down"),
                _saturation(row, "up"),
                Cell(points(row["departure"]).lstrip("+")),
                Cell(count(row["steps"])),
            ),
            color_of(row["behavior"]),
        )
        for row in records(evaluation.curves, measure="spans")
    ]
    return Grid(
        "Shape of the curves. Slope at zero: points for a tenth of a unit. The fit is monotone; "
        "it has made nine tenths of its way where a curve is said to saturate",
        (
            "curve",
            "annotator",
            "slope at zero",
            "lowest",
            "highest",
            "saturates below",
            "saturates above",
            "off the fit, points",
            "coefficients",
        ),
        tuple(rows),
        "curves",
    )


def specificity_grid(evaluation: Evaluation, annotator: str) -> Grid:
    """Changes of every label under every steered behaviour, with intervals."""
    table = records(evaluation.specificity, annotator=annotator)
    labels = list(dict.fromkeys(row["label"] for row in table))
    rows = []
    for behavior, sign in dict.fromkeys((row["behavior"], row["sign"]) for row in table):
        here = {r["label"]: r for r in table if (r["behavior"], r["sign"]) == (behavior, sign)}
        cells = [_moved(here.get(name, {})) for name in labels]
        at = coefficient(next(iter(here.values()))["coefficient"])
        rows.append(
            Row(f"{behavior}, {SIGNS.get(sign, sign)}, {at}", tuple(cells), color_of(behavior))
        )
    return Grid(
        "Change of the share of every label, in points, with 95\u00a0% intervals, and its room",
        ("steered", *labels),
        tuple(rows),
        "specificity",
    )


def _moved(row: Mapping[str, Any]) -> Cell:
    cell = measured(row, ("change", "low", "high"), points)
    if not known(row.get("room")):
        return cell
    return Cell(cell.text, f"{cell.under}; room {points(row['room'])}")


def _condition(row: Mapping[str, Any]) -> str:
    if row["kind"] == "steered":
        return coefficient(row["coefficient"])
    return "unsteered" if row["kind"] == "baseline" else "asked for"


def _cost(row: Mapping[str, Any] | None, text: Any, change: Any) -> Cell:
    if row is None:
        return Cell(MISSING)
    return Cell(text(row["value"]), change(row["change"]) if known(row["change"]) else "")


def _slope(row: Mapping[str, Any]) -> Cell:
    tenth = {name: as_float(row[name]) / 10 for name in ("slope", "low", "high")}
    return measured(tenth, ("slope", "low", "high"), points)


def _saturation(row: Mapping[str, Any], side: str) -> Cell:
    saturated = as_float(row.get(f"saturated_{side}"))
    at = f"at {coefficient(row[f'{side}_at'])}" if known(row.get(f"{side}_at")) else ""
    return Cell({1.0: "yes", 0.0: "no"}.get(saturated, MISSING), at)
