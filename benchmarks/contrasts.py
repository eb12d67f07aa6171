"""`make contrasts`: which contrast gives the directions that steer best?

On the bundled model: directions by every contrast from chains of *extract* tasks, each at the
layer that extraction suggests, pushed at both signs on held-out *select* tasks, one chain a task,
all with the same noise. A good direction moves its own behaviour far, the right way at both
signs, and leaves the text in the grammar. The *evaluate* tasks stay untouched: the default
contrast is chosen here. Results go to benchmarks/results/contrasts.{csv,md}.

    python benchmarks/contrasts.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import steerkit as sk
from steerkit.behaviors import UNPARSED
from steerkit.directions import CONTRASTS, DEFAULT_CONTRAST
from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic
from steerkit.puzzles.tasks import generate_tasks
from steerkit.statistics import mean_interval
from steerkit.tasks import split_of

RESULTS = Path(__file__).parent / "results"
BEHAVIORS = ("backtracking", "uncertainty-estimation", "example-testing")


def labels_of(traces: sk.Traces) -> list[list[str]]:
    """Labels of the sentences of every chain, by the exact grammar."""
    return [[span.label for span in trace.spans] for trace in sk.annotate(traces)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--coefficient", type=float, default=0.3, help="used at both signs")
    parser.add_argument("--tokens", type=int, default=960, help="longest chain")
    options = parser.parse_args()
    model = sk.load("countdown-thinking", device="cpu")
    chains = sk.read_traces(sk.data("traces/countdown.jsonl"))
    tasks = [task.to_task() for task in generate_tasks("heldout", count=1600)]
    tasks = [task for task in tasks if split_of(task.prompt) == "select"]

    def generate(term: sk.Term | None) -> list[list[str]]:
        return labels_of(
            model.generate(
                tasks,
                steer=term,
                max_new_tokens=options.tokens,
                batch_size=256,
                on_interrupt="raise",
            )
        )

    plain = generate(None)
    rows: list[dict[str, Any]] = []
    for contrast in CONTRASTS:
        vectors = sk.extract(model, chains, contrast=contrast)
        for name in BEHAVIORS:
            direction = vectors[name]
            if direction.layer is None:
                print(f"{contrast}: no layer for {name}, left out", file=sys.stderr)
                continue
            i = direction.row(direction.layer)
            for sign in (-1, 1):
                steered = generate(sign * options.coefficient * direction)
                change = mean_interval(
                    [a.count(name) - b.count(name) for a, b in zip(steered, plain, strict=True)]
                )
                sentences = sum(map(len, steered))
                unparsed = sum(labels.count(UNPARSED) for labels in steered)
                rows.append(
                    {
                        "contrast": contrast,
                        "behavior": name,
                        "layer": direction.layer,
                        "split_half": float(direction.split_half[i]),
                        "shuffled": float(direction.split_half_shuffled[i]),
                        "coefficient": sign * options.coefficient,
                        "change": change.value,
                        "low": change.low,
                        "high": change.high,
                        "parsed": 1 - unparsed / max(sentences, 1),
                    }
                )
                print(rows[-1], file=sys.stderr)
    table = pd.DataFrame(rows)
    write_text_atomic(RESULTS / "contrasts.csv", table.round(4).to_csv(index=False))
    page = markdown(table, len(tasks), options.coefficient)
    write_text_atomic(RESULTS / "contrasts.md", page)
    print(page)
    return 0


def markdown(table: pd.DataFrame, tasks: int, coefficient: float) -> str:
    """One row a contrast and behaviour, both signs beside each other."""
    lines = [
        f"| contrast | behaviour | layer | split-half (shuffled) | change at {-coefficient:+g} "
        f"| change at {coefficient:+g} | parsed |",
        "|---|---|---|---|---|---|---|",
    ]
    for (contrast, name), part in table.groupby(["contrast", "behavior"], sort=False):
        minus, plus = (part[part.coefficient * sign > 0].iloc[0] for sign in (-1, 1))
        cells = [f"{r.change:+.2f} ({r.low:+.2f} to {r.high:+.2f})" for r in (minus, plus)]
        lines.append(
            f"| `{contrast}` | {name} | {plus.layer} | {plus.split_half:.2f} "
            f"({plus.shuffled:.2f}) | {cells[0]} | {cells[1]} "
            f"| {100 * minus.parsed:.0f} %, {100 * plus.parsed:.0f} % |"
        )
    lines += [
        "",
        f"{tasks} held-out *select* tasks, one chain each at temperature 1, same noise; change of "
        "the behaviour's sentences per chain against no steering, 95 % bootstrap intervals over "
        "tasks; coefficients in mean norms, every position, each direction at the layer that its "
        f"extraction suggests. The default contrast is `{DEFAULT_CONTRAST}`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make contrasts: {problem}", file=sys.stderr)
        sys.exit(2)
