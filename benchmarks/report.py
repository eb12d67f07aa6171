"""`make report`: the whole evaluation of the bundled model, and what it says.

On the bundled model, its bundled chains, and held-out tasks: what `steerkit evaluate --full` does
for uncertainty-estimation, example-testing and backtracking, with 39 random and 39 shuffled
directions at every headline coefficient. Chains are kept in out/report, so an interrupted run
goes on where it stopped. Tables, settings and figures go to benchmarks/results/report/, a page
for the README to benchmarks/results/report.md; the text of the chains stays in out/report.

    python benchmarks/report.py
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

import steerkit as sk
from steerkit.errors import SteerkitError
from steerkit.evaluation.held_out import bundled_tasks
from steerkit.evaluation.pace import duration
from steerkit.evaluation.record import SETTINGS, TABLES, Evaluation
from steerkit.files import write_text_atomic

RESULTS = Path(__file__).parent / "results"
OUT = Path("out") / "report"
BATCH = 480
BEHAVIORS = ("uncertainty-estimation", "example-testing", "backtracking")
COEFFICIENTS = (-0.6, -0.5, -0.4, -0.3, -0.25, -0.2, -0.1, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)


def claims_table(made: Evaluation, annotator: str) -> str:
    """Every claim with its controls, and what it costs, by one annotator's labels."""
    verdicts = made.verdicts[made.verdicts["annotator"] == annotator]
    costs = made.side_effects[made.side_effects["annotator"] == annotator]
    lines = [
        "| behaviour | coefficient | unsteered | steered | ratio | p | random | shuffled "
        "| accuracy | tokens | the claim |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in verdicts.to_dict("records"):
        cost = costs[costs["condition"] == row["condition"]].set_index("measure")
        said = "holds" if row["holds"] else f"does not hold: {row['reason']}"
        lines.append(
            f"| {row['behavior']} | {row['coefficient']:+g} at layer {row['layer']} "
            f"| {100 * row['base']:.1f} % | {100 * row['rate']:.1f} % "
            f"| {row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}) "
            f"| {row['p_holm']:.4f} "
            f"| {row['random_beaten']} of {row['random']} "
            f"| {row['shuffled_beaten']} of {row['shuffled']} "
            f"| {_change(cost, 'accuracy', 100)} | {_change(cost, 'thinking_tokens', 1)} "
            f"| {said} |"
        )
    return "\n".join(lines)


def page(made: Evaluation) -> str:
    """What the README shows: every claim with its controls, and what it costs."""
    settings, first = made.settings, made.annotators[0]
    verdicts = made.verdicts[made.verdicts["annotator"] == first]
    costs = made.side_effects[made.side_effects["annotator"] == first]
    base = costs[costs["kind"] == "baseline"].set_index("measure")["value"]
    found_on = next(iter(settings["ranges"].values()))["found_on"]
    other = f"{found_on} other" if found_on else "other"
    several = "s" if settings["samples"] > 1 else ""
    met = int(verdicts["meets_target"].sum())
    ranges = "; ".join(
        f"{name} {found['fluent'][0]:+g} to {found['fluent'][1]:+g}"
        for name, found in settings["ranges"].items()
    )
    lines = [
        claims_table(made, first),
        "",
        f"{settings['model']}, {settings['tasks']} held-out tasks, {settings['samples']} "
        f"chain{several} each at temperature {settings['temperature']:g}, "
        "the same noise under every condition; controls on "
        f"{settings['control_tasks']} of the tasks. Rates are shares of sentences; intervals are "
        "95 % over tasks; p is of a sign-flip test, Holm-adjusted over the claims; random and "
        "shuffled are the control directions that moved the behaviour less; accuracy (in points) "
        "and tokens of thinking are changes. A claim holds where p is below 0.05, every control is "
        "exceeded, controls move the behaviour at most a quarter as far on average, and the text "
        "is fluent. Coefficients, in mean norms, are the largest that are fluent on "
        f"{other} tasks ({ranges}). Unsteered accuracy is {100 * base['accuracy']:.0f} %. "
        f"{met} of {len(verdicts)} reach the sizes aimed at: twice the unsteered rate, or 0.4 of "
        "it. The labels are the exact grammar's. Made by `make report` in "
        f"{duration(settings['seconds'])}.",
        "",
    ]
    return "\n".join(lines)


def _change(cost: pd.DataFrame, measure: str, scale: float) -> str:
    if measure not in cost.index:
        return "-"
    row = cost.loc[measure]
    digits = 1 if scale > 1 else 0
    value, low, high = (scale * row[key] for key in ("change", "change_low", "change_high"))
    return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def keep_tables(made: Evaluation, folder: Path) -> None:
    """Tables, settings and figures into an emptied folder, without the text of the chains."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in (SETTINGS, *(f"{table}.csv" for table in (*TABLES, "layers", "cosines"))):
        if (made.folder / name).is_file():
            shutil.copy(made.folder / name, folder / name)
    figures = made.folder / "figures"
    if figures.is_dir():
        shutil.copytree(figures, folder / "figures")


def keep(made: Evaluation, results: Path = RESULTS) -> None:
    """Tables, settings and figures, and the page."""
    keep_tables(made, results / "report")
    write_text_atomic(results / "report.md", page(made))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=240, help="held-out tasks, 400 at most")
    parser.add_argument("--control-tasks", type=int, default=60, help="tasks of the controls")
    parser.add_argument("--controls", type=int, default=39, help="directions of either kind")
    parser.add_argument("--report", action="store_true", help="only write the page again")
    options = parser.parse_args()
    made = sk.read_evaluation(OUT) if options.report else run(options)
    keep(made)
    print(page(made))
    return 0 if made.verdicts["holds"].all() else 1


def run(options: argparse.Namespace) -> Evaluation:
    """The evaluation; says how long it will take, and how far it is."""
    model = sk.load("countdown-thinking", device="cpu")
    started = time.perf_counter()

    def tell(text: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    tell("extracting the directions")
    vectors = sk.extract(model, sk.read_traces(sk.data("traces/countdown.jsonl")))
    settings: dict[str, Any] = {
        "random": options.controls,
        "shuffled": options.controls,
        "control_tasks": options.control_tasks,
    }
    made = sk.evaluate(
        model,
        vectors,
        bundled_tasks(model, vectors, "evaluate")[: options.tasks],
        select=bundled_tasks(model, vectors, "select"),
        behaviors=BEHAVIORS,
        coefficients=COEFFICIENTS,
        out=OUT,
        batch_size=BATCH,
        command="make report",
        tell=tell,
        **settings,
    )
    made.report()
    return made


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make report: {problem}", file=sys.stderr)
        sys.exit(2)
