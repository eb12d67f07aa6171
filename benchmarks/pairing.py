"""`make pairing`: how much do coefficients that share their noise have in common?

The same seed, task, sample and step see the same noise under every coefficient, so differences
between coefficients are paired. On the bundled model, over held-out tasks of the *evaluate* set,
this measures the correlation over tasks between unsteered chains and chains steered along
backtracking, once with the same noise and once with other noise (what the task alone gives), and
the ratio of the two variances of the difference: that many times as many tasks would other noise
need for the same interval. Results go to benchmarks/results/pairing.{json,csv,md}.

    python benchmarks/pairing.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from real_measures import machine

import steerkit as sk
from steerkit.answers import correct
from steerkit.errors import SteerkitError
from steerkit.evaluation.held_out import bundled_tasks
from steerkit.files import write_text_atomic

RESULTS = Path(__file__).parent / "results"
BEHAVIOR = "backtracking"
COEFFICIENTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
MEASURES = {BEHAVIOR: f"{BEHAVIOR} sentences", "correct": "right answer", "tokens": "tokens"}


def compare(plain: pd.DataFrame, same: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Correlations with ``plain`` over tasks, with the same and with other noise, by measure.

    ``saving`` is Var(other - plain) / Var(same - plain), with a 95 % bootstrap interval over
    tasks; infinite where the same noise gives the same values.
    """
    rows = []
    draw = np.random.default_rng(0)
    for measure in MEASURES:
        a, b, c = (table[measure].to_numpy(dtype=float) for table in (plain, same, other))
        picks = draw.integers(0, len(a), size=(2000, len(a)))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (c - a)[picks].var(axis=1) / (b - a)[picks].var(axis=1)
            saving = (c - a).var() / (b - a).var()
            # two infinities have no difference, which a quantile would take
            low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
        rows.append(
            {
                "measure": measure,
                "same_noise": _correlation(a, b),
                "other_noise": _correlation(a, c),
                "identical": float((a == b).mean()),
                "saving": saving,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")


def measured(traces: sk.Traces) -> pd.DataFrame:
    """What is counted of every chain, one row a task."""
    return pd.DataFrame(
        {
            BEHAVIOR: sum(span.label == BEHAVIOR for span in trace.spans),
            "correct": bool(correct(trace)),
            "tokens": len(trace.token_ids or ()),
        }
        for trace in sk.annotate(traces)
    )


def markdown(table: pd.DataFrame, tasks: int) -> str:
    """The results as a page."""
    lines = [
        "| coefficient | measure | correlation, same noise | other noise | equal | tasks saved |",
        "|---|---|---|---|---|---|",
    ]
    for _, row in table.iterrows():
        saved = f"x {row['saving']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        lines.append(
            f"| {row['coefficient']:+g} | {MEASURES[row['measure']]} | {row['same_noise']:.2f} "
            f"| {row['other_noise']:.2f} | {100 * row['identical']:.0f} % "
            f"| {saved if np.isfinite(row['saving']) else 'all'} |"
        )
    lines += [
        "",
        f"{tasks} held-out tasks, one chain each at temperature 1: unsteered chains against chains "
        "steered along backtracking, correlation over tasks. *Other noise* is a second seed for "
        "the steered chains: what the task alone gives. *Equal*: tasks whose value is the same "
        "under both. *Tasks saved*: variance of the difference with other noise over that with "
        "the same noise, 95 % bootstrap interval; so many times the tasks would be needed without "
        "shared noise.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=360, help="held-out tasks, about 400 at most")
    parser.add_argument("--tokens", type=int, default=960, help="longest chain")
    options = parser.parse_args()
    model = sk.load("countdown-thinking", device="cpu")
    vectors = sk.extract(model, sk.read_traces(sk.data("traces/countdown.jsonl")))
    direction = vectors[BEHAVIOR]
    tasks = bundled_tasks(model, vectors, "evaluate")[: options.tasks]

    def chains(coefficient: float, seed: int) -> pd.DataFrame:
        print(f"coefficient {coefficient:+g}, seed {seed}", file=sys.stderr)
        written = model.generate(
            tasks,
            steer=coefficient * direction,
            seed=seed,
            max_new_tokens=options.tokens,
            batch_size=400,
            on_interrupt="raise",
        )
        return measured(written)

    plain = chains(0.0, 0)
    parts = []
    for coefficient in COEFFICIENTS:
        same = plain if coefficient == 0 else chains(coefficient, 0)
        found = compare(plain, same, chains(coefficient, 1))
        found.insert(0, "coefficient", coefficient)
        parts.append(found)
    table = pd.concat(parts, ignore_index=True)
    result = {"model": model.revision, "tasks": len(tasks), "machine": machine()}
    page = markdown(table, len(tasks))
    write_text_atomic(RESULTS / "pairing.csv", table.round(4).to_csv(index=False))
    write_text_atomic(RESULTS / "pairing.json", json.dumps(result, indent=1) + "\n")
    write_text_atomic(RESULTS / "pairing.md", page)
    print(page)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make pairing: {problem}", file=sys.stderr)
        sys.exit(2)
