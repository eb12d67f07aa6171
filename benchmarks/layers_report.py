"""How far cheap scores of layers agree with the causal sweep, and the page of `make layers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from steerkit.layer_choice.scores import CHEAP, chosen_layers, whole


def agreement(table: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """One row a cheap score: how its layers agree with the sweep's.

    ``correlation`` (Spearman over layers, mean over behaviours) with ``low`` and ``high``,
    ``best_two`` (behaviours whose chosen layer is among the sweep's best two that leave text
    whole) of ``behaviors`` (those that the sweep raised somewhere), ``lost`` (mean share of the
    sweep's best effect that the chosen layer misses).
    """
    rng, rows = np.random.default_rng(seed), []
    judge = table[table.score == "sweep"]
    for score in [name for name in CHEAP if name in set(table.score)]:
        cheap = table[table.score == score]
        chosen = chosen_layers(table, score)
        judged = chosen_layers(table, "sweep")
        drawn, plain, hits, lost = [], [], 0, []
        for name, part in judge.groupby("behavior", sort=False):
            if name not in chosen:
                continue
            mine = cheap[cheap.behavior == name].set_index("layer").loc[part.layer]
            plain.append(_spearman(mine.value.to_numpy()[None], part.value.to_numpy()[None])[0])
            sets = [
                rng.normal(one.value, (one.high - one.low) / 3.92, size=(draws, len(one)))
                for one in (mine, part)
            ]
            drawn.append(_spearman(*sets))
            if name not in judged:
                # the sweep moved it nowhere, so it has no best layers
                continue
            good = part[whole(part)]
            ranked = (part if good.empty else good).sort_values("value", ascending=False)
            hits += chosen[str(name)] in set(ranked.layer[:2])
            best, got = float(ranked.value.iloc[0]), part.set_index("layer").value
            lost.append(1 - float(got[chosen[str(name)]]) / best if best > 0 else np.nan)
        if not plain:
            continue
        means = _known_mean(drawn)
        means = means[np.isfinite(means)]
        low, high = np.quantile(means, [0.025, 0.975]) if len(means) else (np.nan, np.nan)
        rows.append(
            {
                "score": score,
                "correlation": _number(_known_mean(plain)),
                "low": _number(low),
                "high": _number(high),
                "best_two": hits,
                "behaviors": sum(name in chosen for name in judged),
                "lost": _number(_known_mean(lost)),
            }
        )
    return pd.DataFrame(rows)


def _known_mean(rows: list[np.ndarray] | list[float]) -> np.ndarray:
    """Mean over rows of what is known; NaN where nothing is."""
    values = np.asarray(rows, dtype=float)
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _number(value: np.ndarray | float) -> float | None:
    """A number as JSON knows it."""
    return float(value) if np.isfinite(value) else None


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of every row; NaN where a side says nothing, all its values being equal."""
    ranks = [rankdata(x, axis=1) for x in (a, b)]
    left, right = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    size = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return np.divide(
        (left * right).sum(axis=1), size, out=np.full(len(size), np.nan), where=size > 0
    )


def markdown(content: Mapping[str, Any], table: pd.DataFrame, figure: str = "layers.png") -> str:
    """The results page."""
    sweep = table[table.score == "sweep"]
    lines = [
        "# Do cheap scores tell where steering works?",
        "",
        " ".join(_what(content)),
        "",
        "| score | correlation | chosen layer in the sweep's best two | effect lost |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {r['score']} | {_correlation(r)} | "
        f"{r['best_two']} of {r['behaviors']} | {_percent(r['lost'])} |"
        for r in content["agreement"]
    ]
    if content.get("seconds"):
        spent = ", ".join(f"{what} {s:,.0f} s" for what, s in content["seconds"].items())
        lines += ["", f"Time: {spent}, on {content['machine']['processor']}."]
    lines += ["", "## The sweep", ""]
    lines += [
        "| behaviour | layer | up | unsteered | down | up minus down | closed | parsed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sweep.itertuples():
        closed, parsed = f"{row.closed:.2f}", f"{row.parsed:.2f}"
        lines.append(
            f"| {row.behavior} | {row.layer} | {row.up:.3f} | {row.base:.3f} | {row.down:.3f} | "
            f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f}) | {closed} | {parsed} |"
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
        "Correlation: Spearman over layers with the causal sweep, mean over behaviours (95 % "
        "interval). Lost: share of the best layer's effect that the chosen layer misses, mean over "
        "behaviours."
    )
    return said


def _correlation(row: Mapping[str, Any]) -> str:
    if row["correlation"] is None:
        return "-"
    return f"{row['correlation']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
