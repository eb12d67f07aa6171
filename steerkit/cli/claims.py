"""Claims: what an evaluation found, on the screen and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.screen import stdout
from steerkit.cli.tables import clean, count, number, table

if TYPE_CHECKING:
    from steerkit.evaluation.record import Evaluation


def show(made: Evaluation, page: Path | None, stored: bool) -> None:
    """Tables of claims by annotator, and what the evaluation rests on; where it is kept."""
    console, settings = stdout(), made.settings
    for annotator in made.annotators:
        _show_claims(made, annotator)
        console.print(_independence(settings, annotator), markup=False, soft_wrap=True)
        console.print()
    for line in _notes(settings):
        console.print(line, markup=False, soft_wrap=True)
    if stored:
        console.print("Ranges:  stored in the vectors file", soft_wrap=True)
    console.print(f"Folder:  {made.folder}", markup=False, soft_wrap=True)
    if page is not None:
        console.print(f"Report:  {page}", markup=False, soft_wrap=True)


def _show_claims(made: Evaluation, annotator: str) -> None:
    """Two tables: what moved, and what speaks for it and against it."""
    console, costs = stdout(), made.side_effects
    of_annotator = made.verdicts[made.verdicts["annotator"] == annotator]
    rows = of_annotator.to_dict("records")
    claims, evidence = [], []
    for row in rows:
        at = (costs["annotator"] == annotator) & (costs["condition"] == row["condition"])
        cost = costs[at].set_index("measure")["change"]
        name = (row["behavior"], f"{row['coefficient']:+g}@{row['layer']}")
        interval = f"({number(row['ratio_low'])} to {number(row['ratio_high'])})"
        claims.append(
            (
                *name,
                number(100 * row["base"], 1),
                number(100 * row["rate"], 1),
                f"{number(row['ratio'])} {interval}",
                "holds" if row["holds"] else "no",
            )
        )
        evidence.append(
            (
                *name,
                number(row["p_holm"], 4),
                *(f"{row[f'{kind}_beaten']}/{row[kind]}" for kind in ("random", "shuffled")),
                _signed(100 * cost.get("accuracy", float("nan")), 1),
                _signed(cost.get("thinking_tokens", float("nan")), 0),
            )
        )
    console.print(table(["behaviour", "at", "from %", "to %", "ratio", "claim"], claims))
    for row in rows:
        if row["reason"]:
            claim = f"{row['behavior']} {row['coefficient']:+g}"
            console.print(f"  {claim}: {row['reason']}", markup=False, soft_wrap=True)
    console.print()
    columns = ["behaviour", "at", "p", "random", "shuffled", "accuracy", "length"]
    console.print(table(columns, evidence))


def _signed(value: float, digits: int) -> str:
    return "-" if value != value else f"{value:+.{digits}f}"


def _independence(settings: dict[str, Any], annotator: str) -> str:
    entry = next(e for e in settings["annotators"] if e["name"] == annotator)
    said = f"Labels:  {entry['note']}"
    return said + (f" Agreement: {entry['agreement']}." if entry["agreement"] else "")


def _notes(settings: dict[str, Any]) -> list[str]:
    lines = [
        f"Tasks:   {count(settings['tasks'], 'held-out task')}, "
        f"{count(settings['samples'], 'chain')} each; controls on {settings['control_tasks']}."
    ]
    for name, found in settings["ranges"].items():
        line = f"Fluent:  {name} {found['fluent'][0]:+g} to {found['fluent'][1]:+g}"
        if found["free"] is not None:
            line += f"; accuracy kept {found['free'][0]:+g} to {found['free'][1]:+g}"
        lines.append(line)
    if settings["unreadable"]:
        lines.append("Prompts: none, this model does not know the words that ask for a behaviour.")
    if settings["forced"]:
        lines.append(f"Forced:  {count(len(settings['forced']), 'task')} had been seen before.")
    return lines


def summary(made: Evaluation, page: Path | None) -> dict[str, Any]:
    """What --json prints."""
    return {
        "folder": str(made.folder),
        "report": None if page is None else str(page),
        "settings": made.settings,
        "verdicts": [
            {str(k): clean(v) if isinstance(v, float) else v for k, v in row.items()}
            for row in made.verdicts.to_dict("records")
        ],
    }
