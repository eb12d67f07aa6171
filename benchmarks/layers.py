"""`make layers`: do cheap scores of layers tell where steering works? The causal sweep judges.

On the bundled model, over held-out tasks of the *select* set: every cheap score of every
behaviour at every layer (steerkit.layer_choice), and the causal sweep, which writes chains with
each layer pushed up and down by the same coefficient and counts the behaviour's sentences by the
exact grammar. Agreement of a cheap score with the sweep is the rank correlation over layers (mean
over behaviours), and whether the layer that it would choose is among the sweep's best two.
Intervals of the correlation are from 2,000 draws of all values within their own intervals.
Results go to benchmarks/results/layers.{json,csv,md,png}.

    python benchmarks/layers.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from effect import select_tasks
from real_measures import code_digest, machine

import steerkit as sk
from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic
from steerkit.layer_choice.scores import CHEAP, SCORES, chosen_layers, score_layers
from steerkit.layer_plot import plot_layer_scores
from steerkit.plots import save_figure

RESULTS = Path(__file__).parent / "results"


def agreement(table: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """One row a cheap score: how its layers agree with the sweep's.

    ``correlation`` (Spearman over layers, mean over behaviours) with ``low`` and ``high``,
    ``best_two`` (behaviours whose chosen layer is among the sweep's best two that leave text
    whole) of ``behaviors``, ``lost`` (mean share of the sweep's best effect that the chosen
    layer misses).
    """
    rng, rows = np.random.default_rng(seed), []
    judge = table[table.score == "sweep"]
    for score in [name for name in CHEAP if name in set(table.score)]:
        cheap = table[table.score == score]
        chosen = chosen_layers(table, score)
        drawn, plain, hits, lost = [], [], 0, []
        for name, part in judge.groupby("behavior", sort=False):
            mine = cheap[cheap.behavior == name].set_index("layer").loc[part.layer]
            if mine.empty:
                continue
            plain.append(_spearman(mine.value.to_numpy()[None], part.value.to_numpy()[None])[0])
            sets = [
                rng.normal(one.value, (one.high - one.low) / 3.92, size=(draws, len(one)))
                for one in (mine, part)
            ]
            drawn.append(_spearman(*sets))
            whole = part[(part.closed >= 0.9) & (part.parsed >= 0.9)]
            ranked = (part if whole.empty else whole).sort_values("value", ascending=False)
            hits += chosen[str(name)] in set(ranked.layer[:2])
            best, got = float(ranked.value.iloc[0]), part.set_index("layer").value
            lost.append(1 - float(got[chosen[str(name)]]) / best if best > 0 else np.nan)
        low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
        rows.append(
            {
                "score": score,
                "correlation": float(np.mean(plain)),
                "low": float(low),
                "high": float(high),
                "best_two": hits,
                "behaviors": len(plain),
                "lost": float(np.nanmean(lost)),
            }
        )
    return pd.DataFrame(rows)


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of every row."""
    ranks = [x.argsort(axis=1).argsort(axis=1).astype(float) for x in (a, b)]
    left, right = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    return (left * right).sum(axis=1) / np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))


def markdown(content: dict[str, Any], table: pd.DataFrame) -> str:
    """The results page."""
    lines = [
        "# Do cheap scores tell where steering works?",
        "",
        f"{content['model']}, {content['tasks']} select tasks, steps of {content['coefficient']:g} "
        "mean norms, made by `make layers`. Correlation: Spearman over layers with the causal "
        "sweep, mean over behaviours (95 % interval). Lost: share of the best layer's effect that "
        "the chosen layer misses, mean over behaviours.",
        "",
        "| score | correlation | chosen layer in the sweep's best two | effect lost |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {r['score']} | {r['correlation']:.2f} ({r['low']:.2f} to {r['high']:.2f}) | "
        f"{r['best_two']} of {r['behaviors']} | {100 * r['lost']:.0f} % |"
        for r in content["agreement"]
    ]
    lines += ["", "## The sweep", ""]
    lines += [
        "| behaviour | layer | up | unsteered | down | up minus down | closed | parsed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table[table.score == "sweep"].itertuples():
        closed, parsed = f"{row.closed:.2f}", f"{row.parsed:.2f}"
        lines.append(
            f"| {row.behavior} | {row.layer} | {row.up:.3f} | {row.base:.3f} | {row.down:.3f} | "
            f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f}) | {closed} | {parsed} |"
        )
    lines += ["", "## Layers chosen", "", "| behaviour | " + " | ".join(content["chosen"]) + " |"]
    lines.append("|---" * (1 + len(content["chosen"])) + "|")
    for name in dict.fromkeys(table.behavior):
        picks = [str(layers.get(name, "-")) for layers in content["chosen"].values()]
        lines.append(f"| {name} | " + " | ".join(picks) + " |")
    lines += ["", "![Scores of layers](layers.png)", ""]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--coefficient", type=float, default=0.2)
    parser.add_argument("--tokens", type=int, default=448, help="new tokens of a chain")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    options, started = arguments(), time.perf_counter()
    model = sk.load("countdown-thinking")
    traces = sk.read_traces(sk.data("traces/countdown.jsonl"))
    vectors = sk.extract(model, traces)
    tasks = select_tasks(vectors, options.tasks)
    table = score_layers(
        model,
        vectors,
        traces,
        scores=SCORES,
        coefficient=options.coefficient,
        tasks=tasks,
        annotate=sk.annotate,
        max_new_tokens=options.tokens,
        batch_size=512,
    )
    chosen = {score: chosen_layers(table, score) for score in SCORES}
    content = {
        "model": model.name,
        "tasks": len(tasks),
        "coefficient": options.coefficient,
        "agreement": agreement(table).to_dict("records"),
        "chosen": chosen,
        "code": code_digest()[:12],
        "machine": machine(),
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / "layers.json", json.dumps(content, indent=1) + "\n")
    write_text_atomic(folder / "layers.csv", table.to_csv(index=False, float_format="%.5g"))
    page = markdown(content, table)
    write_text_atomic(folder / "layers.md", page)
    caption = (
        f"{model.name}, {len(tasks)} select tasks, steps of {options.coefficient:g} mean norms."
    )
    figure = plot_layer_scores(table, chosen["sweep"], score="sweep", caption=caption)
    save_figure(figure, folder / "layers.png")
    print(page)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make layers: {problem}", file=sys.stderr)
        sys.exit(2)
