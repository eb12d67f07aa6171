"""Direction rows: what the commands show of directions at their suggested layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerkit.cli.tables import MISSING, clean, number, table

if TYPE_CHECKING:
    from steerkit.direction import Direction
    from steerkit.vectors import SteeringVectors


def direction_rows(vectors: SteeringVectors) -> list[dict[str, Any]]:
    """What is known of every direction at its suggested layer, as JSON."""
    rows = vectors.table().to_dict("records")
    measured = ("norm", "split_half", "split_half_shuffled", "auroc")
    return [
        {
            "behavior": row["behavior"],
            "spans": int(row["spans"]),
            "tasks": vectors[row["behavior"]].tasks,
            **{name: clean(row[name]) for name in measured},
            **_spread(vectors[row["behavior"]]),
            "layer": vectors[row["behavior"]].layer,
            "chosen_by": row["chosen_by"],
            "note": row["note"],
        }
        for row in rows
    ]


def _spread(direction: Direction) -> dict[str, float | None]:
    """Cone in degrees, and the interval of the length as a share of the mean norm, as JSON."""
    found: dict[str, float | None] = dict.fromkeys(("cone", "norm_low", "norm_high"))
    if direction.layer is None:
        return found
    i = direction.row(direction.layer)
    if direction.cone is not None:
        found["cone"] = clean(float(direction.cone[i]))
    if direction.mean_norm is not None:
        for name in ("norm_low", "norm_high"):
            values = getattr(direction, name)
            if values is not None:
                found[name] = clean(float(values[i] / direction.mean_norm[i]))
    return found


def direction_table(vectors: SteeringVectors, left_out: Mapping[str, str]) -> Any:
    """:func:`direction_rows` as a table for the terminal, and below who was left out and why."""
    columns = [
        "behaviour",
        "spans",
        "tasks",
        "norm",
        "split-half",
        "shuffled",
        "AUROC",
        "layer",
        "",
    ]
    return table(
        columns,
        [
            (
                row["behavior"],
                f"{row['spans']:,}",
                MISSING if row["tasks"] is None else f"{row['tasks']:,}",
                *(number(row[n]) for n in ("norm", "split_half", "split_half_shuffled", "auroc")),
                "none" if row["layer"] is None else str(row["layer"]),
                row["note"],
            )
            for row in direction_rows(vectors)
        ]
        + [(name, *[MISSING] * 7, f"left out: {why}") for name, why in left_out.items()],
    )


def layer_note(vectors: SteeringVectors) -> str:
    """By what the layers were chosen, in a line; empty where there are none."""
    by: dict[str, list[str]] = {}
    for name, direction in vectors.items():
        if direction.layer is not None and direction.chosen_by:
            by.setdefault(direction.chosen_by, []).append(name)
    ordered = sorted(by, key=lambda score: -len(by[score]))
    if not ordered:
        return ""
    rest = "".join(f"; {', '.join(by[score])} by {score}" for score in ordered[1:])
    return f"Layers:  chosen by {ordered[0]}{rest}."
