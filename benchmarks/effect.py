"""`make effect`: does pushing along a direction move the behaviour, and does a random one?

On the bundled model, over held-out tasks of the *evaluate* set, one chain a task under every
condition, all with the same noise: no steering, the backtracking direction at several
coefficients, and random directions of the same norm at the same layer. Every sentence is labelled
by the exact grammar. Differences are paired by task; intervals are 95 % bootstrap intervals over
tasks. The coefficient that is tested is the largest at which, on tasks of the *select* set, text
stays fluent at both signs. Results go to benchmarks/results/effect.{json,csv,md,png}; chains
that are done are kept in out/effect, so an interrupted run goes on where it stopped (--fresh
starts over).

    python benchmarks/effect.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from effect_report import draw, markdown
from real_measures import code_digest, machine

import steerkit as sk
from steerkit.behaviors import UNPARSED
from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic
from steerkit.plots import save_figure
from steerkit.puzzles.tasks import generate_tasks, parse_prompt
from steerkit.statistics import mean_interval
from steerkit.tasks import split_of, task_hash

RESULTS = Path(__file__).parent / "results"
BEHAVIOR = "backtracking"
MEASURES = (BEHAVIOR, "sentences", "tokens", "closed", "correct", "parsed", "zlib")
"""What is averaged over tasks: sentences of the behaviour and of all kinds per chain, generated
tokens, whether the chain closes and its answer is right, the share of sentences that the grammar
knows, and the compressed over the plain size of the chain (lower is more repetitive)."""


GRID = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Coefficients of which the tested one is chosen."""
FLUENT = 0.95
"""Least share of closed chains, and of sentences that the grammar knows, in fluent text."""


def fluent_coefficient(
    model: sk.ThinkingModel, direction: sk.Direction, tasks: list[sk.Task], tokens: int
) -> float:
    """The largest coefficient of GRID up to which text stays fluent at both signs.

    Raises :class:`SteerkitError` where it is not fluent even at the smallest.
    """
    steps = [sign * c for c in GRID for sign in (-1, 1)]
    found = model.sweep(
        tasks,
        direction,
        coefficients=steps,
        max_new_tokens=tokens,
        batch_size=256,
        on_interrupt="raise",
    )
    table = found.table
    table["parsed"] = [counts(trace)["parsed"] for trace in sk.annotate(found.traces)]
    shares = table.groupby("coefficient")[["closed", "parsed"]].mean().min(axis=1)
    for name, share in shares.items():
        print(f"select tasks, {name:+g}: at least {share:.3f} fluent", file=sys.stderr)
    fluent = [c for c in GRID if min(shares[c], shares[-c]) >= FLUENT]
    usable = [c for c in fluent if all(less in fluent for less in GRID if less < c)]
    if not usable:
        raise SteerkitError(
            "no coefficient leaves the text fluent", expected=f"at least {FLUENT:.0%}"
        )
    return max(usable)


def select_tasks(vectors: sk.SteeringVectors, count: int) -> list[sk.Task]:
    """Held-out tasks of the select set that the vectors were not extracted from."""
    tasks = [task.to_task() for task in generate_tasks("heldout", count=1600)]
    seen = set(vectors.provenance["extract_tasks"])
    chosen = [task for task in tasks if split_of(task.prompt) == "select"]
    return [task for task in chosen if task_hash(task.prompt) not in seen][:count]


def evaluation_tasks(vectors: sk.SteeringVectors, count: int | None) -> list[sk.Task]:
    """Held-out tasks of the evaluate set; refuses any that the vectors have seen."""
    tasks = [task.to_task() for task in generate_tasks("heldout", count=1600)]
    chosen = [task for task in tasks if split_of(task.prompt) == "evaluate"][:count]
    seen = {*vectors.provenance["extract_tasks"], *vectors.provenance["select_tasks"]}
    shared = [task.id for task in chosen if task_hash(task.prompt) in seen]
    if shared:
        raise SteerkitError("an evaluation shares tasks with extraction", found=shared[:5])
    return chosen


def conditions(
    direction: sk.Direction, coefficients: list[float], tested: float, random: int
) -> list[tuple[str, float, sk.Term | None]]:
    """(direction, coefficient, term): the baseline first, then the behaviour, then controls."""
    rows: list[tuple[str, float, sk.Term | None]] = [("none", 0.0, None)]
    steps = sorted({*coefficients, tested, -tested} - {0.0})
    rows += [(BEHAVIOR, c, c * direction) for c in steps]
    for seed in range(random):
        control = direction.random(seed)
        rows += [(control.behavior, c, c * control) for c in (-tested, tested)]
    return rows


def counts(trace: sk.Trace) -> dict[str, float]:
    """The measures of one labelled chain."""
    labels = [span.label for span in trace.spans]
    text = trace.response.encode()
    return {
        BEHAVIOR: labels.count(BEHAVIOR),
        "sentences": len(labels),
        "tokens": len(trace.token_ids or ()),
        "closed": trace.closed,
        "correct": trace.closed and parse_prompt(trace.prompt or "").verify(trace.answer).correct,
        "parsed": 1 - labels.count(UNPARSED) / max(len(labels), 1),
        "zlib": len(zlib.compress(text, 9)) / max(len(text), 1),
    }


def generate(
    model: sk.ThinkingModel,
    tasks: list[sk.Task],
    rows: list[tuple[str, float, sk.Term | None]],
    state: Path,
    tokens: int,
) -> pd.DataFrame:
    """One row a task and condition; conditions that are in ``state`` are not run again."""
    tables = []
    started = time.perf_counter()
    for number, (name, coefficient, term) in enumerate(rows):
        path = state / f"{name}{coefficient:+g}.csv"
        if not path.is_file():
            traces = sk.annotate(
                model.generate(
                    tasks,
                    steer=term,
                    max_new_tokens=tokens,
                    batch_size=256,
                    on_interrupt="raise",
                )
            )
            table = pd.DataFrame([{"task": t.task_id, **counts(t)} for t in traces])
            table.insert(0, "coefficient", coefficient)
            table.insert(0, "direction", name)
            write_text_atomic(path, table.to_csv(index=False))
            if not name.startswith("random"):
                sk.write_traces(traces, path.with_suffix(".jsonl"))
            seconds = time.perf_counter() - started
            print(
                f"{number + 1}/{len(rows)}: {name} {coefficient:+g}, {seconds:.0f} s",
                file=sys.stderr,
            )
        tables.append(pd.read_csv(path))
    return pd.concat(tables, ignore_index=True)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """One row a condition: means, the paired difference of the behaviour, and intervals."""
    baseline = table[table.direction == "none"].set_index("task").sort_index()
    rows = []
    for (name, coefficient), part in table.groupby(["direction", "coefficient"], sort=False):
        part = part.set_index("task").loc[baseline.index]
        row: dict[str, Any] = {"direction": name, "coefficient": coefficient, "tasks": len(part)}
        for measure in MEASURES:
            values = part[measure].astype(float)
            found = mean_interval(values)
            row[measure], row[f"{measure}_low"], row[f"{measure}_high"] = found
            if name != "none":
                change = mean_interval(values - baseline[measure].astype(float))
                row[f"{measure}_change"] = change.value
                row[f"{measure}_change_low"] = change.low
                row[f"{measure}_change_high"] = change.high
        rows.append(row)
    return pd.DataFrame(rows)


def verdict(summary: pd.DataFrame, tested: float) -> dict[str, Any]:
    """Whether both signs move the behaviour the right way, and further than every control."""
    result: dict[str, Any] = {"coefficient": tested, "holds": True}
    change = f"{BEHAVIOR}_change"
    for sign in (-1, 1):
        at = summary[summary.coefficient == sign * tested]
        own = at[at.direction == BEHAVIOR].iloc[0]
        controls = at[at.direction.str.startswith("random")][change].abs()
        entry = {
            "change": own[change],
            "low": own[f"{change}_low"],
            "high": own[f"{change}_high"],
            "excludes_zero": bool(sign * own[f"{change}_{'low' if sign > 0 else 'high'}"] > 0),
            "largest_random": float(controls.max()),
            "mean_random": float(controls.mean()),
            "random_directions": len(controls),
            "exceeds_all_random": bool(abs(own[change]) > controls.max()),
        }
        result["plus" if sign > 0 else "minus"] = entry
        result["holds"] &= entry["excludes_zero"] and entry["exceeds_all_random"]
    return result


def write_pages(summary: pd.DataFrame, result: dict[str, Any]) -> None:
    """benchmarks/results/effect.{md,png}; prints the page."""
    page = markdown(summary, result)
    write_text_atomic(RESULTS / "effect.md", page)
    save_figure(draw(summary, result), RESULTS / "effect.png")
    print(page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=240, help="held-out tasks, about 400 at most")
    parser.add_argument(
        "--coefficient",
        type=float,
        help="tested at both signs (default: the largest at which select tasks stay fluent)",
    )
    parser.add_argument(
        "--curve",
        type=float,
        nargs="*",
        default=[-0.6, -0.4, -0.2, -0.1, 0.1, 0.2, 0.4, 0.6],
        help="drawn beside it",
    )
    parser.add_argument("--random", type=int, default=19, help="random directions")
    parser.add_argument("--tokens", type=int, default=960, help="longest chain")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument(
        "--report", action="store_true", help="only write page and figure of the last results again"
    )
    options = parser.parse_args()
    if options.report:
        summary = pd.read_csv(RESULTS / "effect.csv")
        write_pages(summary, json.loads((RESULTS / "effect.json").read_text()))
        return 0

    model = sk.load("countdown-thinking", device="cpu")
    vectors = sk.extract(model, sk.read_traces(sk.data("traces/countdown.jsonl")))
    direction = vectors[BEHAVIOR]
    tasks = evaluation_tasks(vectors, options.tasks)
    made_from = [
        code_digest(),
        Path(__file__).read_text(),
        model.revision,
        direction.digest,
        direction.layer,
        len(tasks),
        options.tokens,
    ]
    mark = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    state = Path("out") / "effect"
    stamp = state / "made-from.sha256"
    if options.fresh or not stamp.is_file() or stamp.read_text() != mark:
        shutil.rmtree(state, ignore_errors=True)
        write_text_atomic(stamp, mark)

    tested = options.coefficient
    if tested is None:
        chosen = state / "coefficient.json"
        if not chosen.is_file():
            kept = select_tasks(vectors, 120)
            fluent = fluent_coefficient(model, direction, kept, options.tokens)
            write_text_atomic(chosen, json.dumps({"coefficient": fluent, "tasks": len(kept)}))
        tested = json.loads(chosen.read_text())["coefficient"]
    rows = conditions(direction, options.curve, tested, options.random)
    table = generate(model, tasks, rows, state, options.tokens)
    summary = summarise(table)
    result = {
        "model": model.name,
        "revision": model.revision,
        "behavior": BEHAVIOR,
        "layer": direction.layer,
        "contrast": vectors.provenance["contrast"],
        "tasks": len(tasks),
        "chosen_on": None if options.coefficient is not None else "select",
        "fluent": FLUENT,
        "verdict": verdict(summary, tested),
        "machine": machine(),
    }
    text = json.dumps(result, indent=1, default=lambda value: np.asarray(value).item())
    write_text_atomic(RESULTS / "effect.json", text + "\n")
    write_text_atomic(RESULTS / "effect.csv", summary.round(4).to_csv(index=False))
    write_pages(summary, result)
    return 0 if result["verdict"]["holds"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make effect: {problem}", file=sys.stderr)
        sys.exit(2)
