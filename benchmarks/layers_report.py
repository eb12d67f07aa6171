"""The page of `make layers`, and how it is made again from the numbers that are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from layer_agreement import FEWEST, agreement, differences

from steerkit.files import write_text_atomic
from steerkit.layer_choice.scores import SCORES, chosen_layers, whole
from steerkit.layer_plot import plot_layer_scores
from steerkit.plots import save_figure


def write_report(folder: Path, name: str) -> str:
    """The page of ``name``: from its .csv, .json and _tasks.csv, with agreement counted anew.

    Writes .json, .md and .png. Without _tasks.csv, or with too few tasks, there are no intervals.
    """
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / f"{name}.csv")
    kept = folder / f"{name}_tasks.csv"
    shares = pd.read_csv(kept) if kept.is_file() else None
    content |= {
        "intervals": _intervals(content["tasks"], shares),
        "agreement": agreement(table, shares),
        "differences": differences(table, shares),
        "chosen": {score: chosen_layers(table, score) for score in SCORES},
    }
    page = markdown(content, table, f"{name}.png")
    by = f", labels by {content['annotator']}" if content.get("annotator") else ""
    few = f"; no bands below {FEWEST} tasks" if content["tasks"] < FEWEST else ""
    caption = (
        f"{content['model']}, {content['tasks']} select tasks, steps of "
        f"{content['coefficient']:g} mean norms{by}{few}."
    )
    shown = table.copy()
    shown.loc[_few(table, content), ["low", "high"]] = float("nan")
    figure = plot_layer_scores(shown, content["chosen"]["sweep"], score="sweep", caption=caption)
    write_text_atomic(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
    write_text_atomic(folder / f"{name}.md", page)
    save_figure(figure, folder / f"{name}.png")
    return page


def _few(table: pd.DataFrame, content: Mapping[str, Any]) -> pd.Series:
    """Rows whose interval is of too few tasks to be shown."""
    slopes, steps = content.get("chains"), content.get("step_chains")
    counts = {"sweep": content["tasks"], "gradient": slopes, "published": slopes}
    counts |= {"gain": steps, "effect": steps}
    few = [score for score, count in counts.items() if count is not None and count < FEWEST]
    return table.score.isin(few)


def _intervals(tasks: int, shares: pd.DataFrame | None) -> str:
    """Where intervals come from, or why there are none."""
    if tasks < FEWEST:
        return f"No intervals: too few tasks, {tasks} of at least {FEWEST}."
    if shares is None:
        return "No intervals: the shares of single tasks were not kept."
    return (
        "In brackets 95 % intervals of what sweeps of as many tasks give on average: all tasks "
        "of the sweep are resampled together, for every behaviour, layer and score alike; cheap "
        "scores are held as they are."
    )


def markdown(content: Mapping[str, Any], table: pd.DataFrame, figure: str = "layers.png") -> str:
    """The results page."""
    sweep = table[table.score == "sweep"]
    lines = [
        "# Do cheap scores tell where steering works?",
        "",
        " ".join(_what(content)),
        "",
        "| score | correlation | chosen layer in the sweep's best two | leaves text whole | "
        "effect lost |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['score']} | {_correlation(r)} | {_count(r, 'best_two')} | {_count(r, 'whole')} | "
        f"{_percent(r.get('lost'))} |"
        for r in content["agreement"]
    ]
    if content["differences"]:
        lines += ["", "| difference in correlation | mean | higher, lower, equal in |"]
        lines.append("|---|---|---|")
    lines += [
        f"| {r['score']} minus {r['other']} | {_range(r['difference'], r, '+.2f')} | "
        f"{r['higher']}, {r['lower']}, {r['equal']} |"
        for r in content["differences"]
    ]
    if content.get("seconds"):
        spent = ", ".join(f"{what} {s:,.0f} s" for what, s in content["seconds"].items())
        lines += ["", f"Time: {spent}, on {content['machine']['processor']}."]
    lines += ["", "## The sweep", ""]
    lines += [
        "| behaviour | layer | up | unsteered | down | up minus down | closed | parsed | "
        "text whole |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, kept in zip(sweep.itertuples(), whole(sweep), strict=True):
        enough = content["tasks"] >= FEWEST
        ends = f" ({row.low:.3f} to {row.high:.3f})" if enough else ""
        closed, parsed = f"{row.closed:.2f}", f"{row.parsed:.2f}"
        lines.append(
            f"| {row.behavior} | {row.layer} | {row.up:.3f} | {row.base:.3f} | {row.down:.3f} | "
            f"{row.value:.3f}{ends} | {closed} | {parsed} | "
            f"{'yes' if kept else 'no'} |"
        )
    if "base_closed" in sweep and sweep["base_closed"].notna().any():
        first = sweep.iloc[0]
        lines += [
            "",
            f"Of unsteered chains {first.base_closed:.2f} closed, and of their sentences "
            f"{first.base_parsed:.2f} are parsed.",
        ]
    lines += ["", "## Layers chosen", "", "| behaviour | " + " | ".join(content["chosen"]) + " |"]
    lines.append("|---" * (1 + len(content["chosen"])) + "|")
    for name in dict.fromkeys(table.behavior):
        picks = [str(layers.get(name, "-")) for layers in content["chosen"].values()]
        lines.append(f"| {name} | " + " | ".join(picks) + " |")
    lines += ["", f"![Scores of layers]({figure})", ""]
    return "\n".join(lines)


def _what(content: Mapping[str, Any]) -> list[str]:
    said = [
        f"{content['model']}, {content['tasks']} select tasks, steps of "
        f"{content['coefficient']:g} mean norms, made by "
        f"`{content.get('command', 'make layers')}`."
    ]
    if content.get("annotator"):
        said.append(
            f"Chains of at most {content['tokens']} tokens, labelled by {content['annotator']}."
        )
    if content.get("chains"):
        said.append(
            f"Slopes from {content['chains']} chains, steps from {content['step_chains']}, "
            f"{content['read']} tokens of each."
        )
    said.append(
        "Correlation: Spearman over layers with the causal sweep, mean over the behaviours in "
        "which both vary; noise of the sweep lowers all of them. Best two: of layers that raise "
        "the behaviour and leave text whole, ties counted, over behaviours that the sweep raised "
        "somewhere. Lost: share of the best such layer's effect that the chosen layer misses, mean "
        "over behaviours in which it leaves text whole. The last four rows know nothing of the "
        f"model; a random layer's counts are expected ones. {content['intervals']}"
    )
    return said


def _correlation(row: Mapping[str, Any]) -> str:
    if row["correlation"] is None:
        return "-"
    return f"{_range(row['correlation'], row, '.2f')} over {row['correlated']}"


def _range(value: float, row: Mapping[str, Any], form: str) -> str:
    """A value and its interval where there is one."""
    ends = "" if row["low"] is None else f" ({row['low']:{form}} to {row['high']:{form}})"
    return f"{value:{form}}{ends}"


def _count(row: Mapping[str, Any], key: str) -> str:
    if row.get(key) is None:
        return "-"
    return f"{row[key]:g} of {row['behaviors']}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
