"""The results page and the figure of `make bench`."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_repetitions import verdict
from matplotlib.figure import Figure

COLORS = {"met": "#0072B2", "missed": "#D55E00"}
NOTES = Path(__file__).parent / "bench_notes.toml"
HEADER = (
    "| model | setting | figure | median | quartiles | target | verdict | runs |",
    "|---|---|---|---|---|---|---|---|",
)


def _number(value: float | None, unit: str = "ratio") -> str:
    if value is None or math.isnan(value):
        return ""
    text = f"{value:.3g}" if value >= 10 or value < 0.1 else f"{value:.2f}"
    return f"{text} s" if unit == "s" else text


def _value(row: Mapping[str, Any]) -> str:
    """A figure; with as many digits as it takes to see on which side of its target it lies."""
    text = _number(row["value"], row["unit"])
    if row["verdict"] not in COLORS:
        return text
    for digits in range(3, 7):
        shown = float(text.removesuffix(" s"))
        if verdict(shown, row["target"], row["at_least"]) == row["verdict"]:
            break
        text = f"{row['value']:.{digits}f}" + (" s" if row["unit"] == "s" else "")
    return text


def _target(row: Mapping[str, Any]) -> str:
    if row["target"] is None:
        return ""
    sign = "at least" if row["at_least"] else "at most"
    return f"{sign} {_number(row['target'], row['unit'])}"


def _where(row: Mapping[str, Any]) -> str:
    return f"{row['variant']}{', GPU' if row['device'] != 'cpu' else ''}"


def _line(row: Mapping[str, Any]) -> str:
    quartiles, judged = "", row["verdict"]
    if row["repetitions"] > 1:
        quartiles = f"{_number(row['low'])} to {_number(row['high'])}"
    if judged in COLORS and not row["clear"]:
        judged = f"{judged}, within the spread"
    name = row["figure"]
    if "fastest peer" in name and row["against"]:
        name = f"{name} ({row['against']})"
    cells = [row["model"] or "-", _where(row), name, _value(row)]
    cells += [quartiles, _target(row), "" if judged == "context" else judged]
    cells += [str(row["repetitions"] or "")]
    return f"| {' | '.join(cells)} |"


def verdicts(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many targets are met, missed and not measured, in words."""
    aimed = [row for row in rows if row["target"] is not None]
    counts = {
        name: sum(row["verdict"] == name for row in aimed)
        for name in ("met", "missed", "not measured")
    }
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{len(aimed)} figures with a target: {said}."


def read_notes(path: Path = NOTES) -> dict[str, dict[str, str]]:
    """Why targets are missed and what was tried, by case."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def missed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for every figure that missed its target."""
    lines = []
    for row in rows:
        if row["verdict"] == "missed":
            within = "" if row["clear"] else ", within the spread"
            what = ", ".join(part for part in (row["model"], _where(row), row["figure"]) if part)
            lines.append(f"- missed{within}: {what}: {_value(row)}, {_target(row)}")
    return lines


def markdown(
    content: Mapping[str, Any], notes: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    """The results as a page, question by question; ``notes`` are those of the file beside this."""
    rows, cases = content["rows"], content["cases"]
    notes = read_notes() if notes is None else notes
    lines = [
        verdicts(rows),
        "",
        *([*missed(rows), ""] if missed(rows) else []),
        "Every figure is the median over rounds in which all contenders ran in turns, a ratio "
        "taken within its round; quartiles beside it. A target that lies between the quartiles "
        "is met or missed *within the spread*.",
    ]
    if content["quick"]:
        lines = ["**A quick run on tiny sizes: these figures mean nothing.**", "", *lines]
    for name, title in content["questions"].items():
        own = [row for row in rows if row["question"] == name]
        there = [row for row in own if row["verdict"] != "not measured"]
        if not own:
            continue
        lines += ["", f"## {title}", ""]
        if there:
            lines += [*HEADER, *(_line(row) for row in there), ""]
        lines += _why_missed(there, notes)
        lines += _beside(list(dict.fromkeys(row["case"] for row in there)), cases)
        lines += _absent([row for row in own if row["verdict"] == "not measured"])
        lines += _without(there)
    lines += ["", "## Machines", "", *_machines(cases)]
    return "\n".join(lines).rstrip() + "\n"


def _why_missed(
    rows: Sequence[Mapping[str, Any]], notes: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Of every missed row the reason, and what was tried."""
    lines = []
    for row in rows:
        if row["verdict"] == "missed":
            said = notes.get(row["case"], {})
            reason, tried = said.get("reason", "not known yet"), said.get("tried", "nothing yet")
            lines.append(
                f"- `{row['case']}`, {row['figure']}, missed. Why: {reason}. Tried: {tried}."
            )
    return lines


def _beside(keys: Sequence[str], cases: Mapping[str, Any]) -> list[str]:
    """Notes of cases, and whether the contenders did the same work."""
    lines = []
    for key in keys:
        found = cases[key]
        said = [*found["notes"], *_agreement(found["agreement"])]
        if said:
            lines.append(f"- `{key}`: {'; '.join(said)}.")
    return lines


def _agreement(found: Mapping[str, str]) -> list[str]:
    """Who did the same work, in one phrase where all did."""
    whole = [re.fullmatch(r"(\d+) of (\d+) rows the same", text) for text in found.values()]
    if len(found) > 1 and all(match and match[1] == match[2] for match in whole):
        return [f"all wrote the same tokens ({', '.join(found)})"]
    return [f"{who}: {how}" for who, how in found.items()]


def _absent(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Figures that were not measured, those of one case and reason in one line."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        lines.setdefault((row["case"], row["reason"]), []).append(row["figure"])
    return [
        f"- `{case}`: {', '.join(figures)} not measured: {reason}."
        for (case, reason), figures in lines.items()
    ]


def _without(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Peers that a fastest peer was chosen without."""
    reasons = dict.fromkeys((row["case"], row["reason"]) for row in rows if row["reason"])
    return [f"- `{case}`: {reason}." for case, reason in reasons]


def _machines(cases: Mapping[str, Any]) -> list[str]:
    """Every machine, code and set of versions that a figure comes from."""
    seen: dict[str, list[str]] = {}
    for key, found in cases.items():
        here = found["machine"]
        shown = ", ".join(f"{name} {value}" for name, value in here.items())
        at = f", commit {found['commit'][:12]}" if found.get("commit") else ""
        at += "+" if found.get("commit", "").endswith("+") else ""
        seen.setdefault(f"code {found['code']}{at}: {shown}", []).append(key)
    lines = [f"- {where} ({len(keys)} cases)" for where, keys in seen.items()]
    peers: dict[str, None] = {}
    for found in cases.values():
        for name, versions in found["versions"].items():
            told = ", ".join(f"{package} {number}" for package, number in versions.items())
            peers[f"- {name} runs with {told}"] = None
    busy = [
        f"{key} {found['load_average_at_start']}"
        for key, found in cases.items()
        if (found["load_average_at_start"] or 0) > 0.5
    ]
    if busy:
        lines.append(f"- load average at the start above 0.5: {', '.join(busy)}")
    return [*lines, *peers]


def share_of_target(row: Mapping[str, Any], key: str = "value") -> float:
    """A figure over its target, upside down where more is better: 1 at most is what is wanted."""
    value, target = float(row[key]), float(row["target"])
    return target / value if row["at_least"] else value / target


def draw(content: Mapping[str, Any]) -> Figure:
    """Every measured figure with a target, over its target, on one logarithmic axis."""
    everything = [row for row in content["rows"] if row["target"] is not None]
    aimed = [row for row in everything if row["verdict"] in COLORS]
    figure = Figure(figsize=(9.6, 1.5 + 0.24 * max(len(aimed), 1)), layout="constrained")
    axis = figure.subplots()
    labels, question = [], None
    for place, row in enumerate(aimed):
        labels.append(_label(row, row["question"] != question))
        question = row["question"]
        ends = sorted(share_of_target(row, key) for key in ("low", "high"))
        value, color = share_of_target(row), COLORS[row["verdict"]]
        axis.plot(ends, [place, place], color=color, linewidth=1.6, solid_capstyle="butt")
        axis.plot([value], [place], marker="o", color=color, markersize=5)
        text = f"{_value(row)} ({_target(row)})"
        axis.annotate(
            text,
            (1.01, place),  # a column of their own: beside the points the line would cross them
            xycoords=axis.get_yaxis_transform(),
            annotation_clip=False,
            fontsize=7,
            color=color,
            va="center",
        )
    axis.axvline(1.0, color="black", linewidth=0.8, zorder=0)
    axis.set_xscale("log")
    shares = [share_of_target(row) for row in aimed]
    axis.set_xlim(0.7 * min([*shares, 0.5]), 1.4 * max([*shares, 1.2]))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: "")
    axis.set_yticks(range(len(aimed)), labels, fontsize=7)
    axis.set_ylim(max(len(aimed), 1) - 0.4, -0.6)
    axis.set_xlabel("figure over its target (left of the line: met; bars: quartiles)")
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "make bench: " + verdicts(everything) + (" QUICK RUN" if content["quick"] else ""),
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return figure


def _label(row: Mapping[str, Any], first: bool) -> str:
    begin = f"{row['question']}:  " if first else ""
    parts = [row["model"], _where(row)]
    return f"{begin}{', '.join(part for part in parts if part)}: {row['figure']}"
