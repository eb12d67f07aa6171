"""`make pair`: what reinforcement learning changed, from countdown-base to countdown-thinking.

Everything is measured on held-out tasks, sampled at temperature 1, by the exact grammar and
verifier, both models on the same tasks:

- a scorecard of both models, and of the snapshots along the RL run (600 tasks, one chain each);
- pass@k for k = 1 to 64, unbiased, from 128 samples of 200 tasks;
- accuracy without the sentences of one behaviour, masked or resampled: are they needed?

Results go to benchmarks/results/pair.{json,md,png} and pair_*.csv; those of a smaller run than
the default stay in out/pair/results. Chains that are done are kept in out/pair, so an
interrupted run goes on where it stopped (--fresh starts over).

    python benchmarks/pair.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pair_without
import pandas as pd
from pair_report import draw, markdown
from pair_without import chains, right_answers, without
from real_measures import code_digest, machine
from safetensors.torch import load_file

import steerkit as sk
from steerkit.errors import SteerkitError
from steerkit.evaluation.pass_at_k import pass_at_k, pass_table
from steerkit.files import write_text_atomic
from steerkit.plots import save_figure
from steerkit.puzzles.tasks import KINDS, Puzzle, generate_tasks
from steerkit.resources import bundled_models
from steerkit.statistics import mean_interval
from steerkit.training.scorecard import LONGEST, score

RESULTS = Path(__file__).parent / "results"
PAIR = ("countdown-base", "countdown-thinking")
KS = (1, 2, 4, 8, 16, 32, 64)


def scorecard(tasks: Sequence[Puzzle], responses: list[str], **names: object) -> pd.DataFrame:
    """One row a figure, with its interval over tasks; ``names`` are put in front."""
    figures = score(tasks, responses)
    rows = [
        {**names, "figure": name, "value": f.value, "low": f.low, "high": f.high}
        for name, f in figures.items()
    ]
    return pd.DataFrame(rows)


def counts_of_right(
    name: str, model: sk.ThinkingModel, tasks: Sequence[Puzzle], samples: int, state: Path
) -> np.ndarray:
    """Right answers among ``samples`` chains, ``[task]``; kept by ten tasks."""
    counts: list[int] = []
    started = time.perf_counter()
    for first in range(0, len(tasks), 10):
        path = state / f"{name}-pass-{first:04d}.csv"
        part = tasks[first : first + 10]
        if not path.is_file():
            written = model.generate(
                [task.to_task() for task in part],
                samples=samples,
                max_new_tokens=LONGEST,
                batch_size=1280,
                seed=1,
                on_interrupt="raise",
            )
            repeated = [task for task in part for _ in range(samples)]
            right = right_answers(repeated, [trace.response for trace in written])
            right = right.reshape(len(part), samples).sum(axis=1).astype(int)
            table = pd.DataFrame({"task": [task.id for task in part], "right": right})
            write_text_atomic(path, table.to_csv(index=False))
            print(
                f"{name}: pass@k of {first + len(part)}/{len(tasks)} tasks, "
                f"{time.perf_counter() - started:.0f} s",
                file=sys.stderr,
            )
        counts += pd.read_csv(path)["right"].tolist()
    return np.array(counts)


def passes(right: dict[str, np.ndarray], tasks: Sequence[Puzzle], samples: int) -> pd.DataFrame:
    """pass@k of every model, over all tasks and by kind."""
    tables = []
    for name, counts in right.items():
        for kind in ("all", *KINDS):
            chosen = [kind in ("all", task.kind) for task in tasks]
            table = pass_table(counts[chosen], samples, [k for k in KS if 2 * k <= samples])
            table.insert(0, "kind", kind)
            table.insert(0, "model", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def gains(right: dict[str, np.ndarray], tasks: Sequence[Puzzle], samples: int) -> pd.DataFrame:
    """pass@k of the thinking model minus that of the base model, paired by task."""
    base, thinking = (right[name] for name in PAIR)
    rows = []
    for kind in ("all", *KINDS):
        chosen = [kind in ("all", task.kind) for task in tasks]
        for k in [k for k in KS if 2 * k <= samples]:
            pair = (pass_at_k(counts[chosen], samples, k) for counts in (thinking, base))
            change = mean_interval(np.subtract(*pair))
            rows.append({"kind": kind, "k": k, "change": change.value})
            rows[-1] |= {"low": change.low, "high": change.high}
    return pd.DataFrame(rows)


def describe(folder: Path) -> dict[str, float]:
    """Parameters, and megabytes of all files of a model's folder."""
    weights = load_file(folder / "model.safetensors")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"parameters": sum(w.numel() for w in weights.values()), "megabytes": size / 1e6}


def write_pages(result: dict[str, Any], folder: Path) -> None:
    """pair.{md,png} of a folder of results; prints the page."""
    names = ("scores", "passes", "gains", "without")
    tables = {name: pd.read_csv(folder / f"pair_{name}.csv") for name in names}
    page = markdown(result, **tables)
    write_text_atomic(folder / "pair.md", page)
    save_figure(draw(result, tables["passes"], tables["scores"]), folder / "pair.png")
    print(page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=600, help="held-out tasks, one chain each")
    parser.add_argument("--pass-tasks", type=int, default=200, help="held-out tasks for pass@k")
    parser.add_argument("--samples", type=int, default=128, help="chains a task for pass@k")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument(
        "--report", action="store_true", help="only write page and figure of the last results again"
    )
    options = parser.parse_args()
    if options.report:
        write_pages(json.loads((RESULTS / "pair.json").read_text()), RESULTS)
        return 0

    models, seconds = {}, {}
    sk.load(PAIR[0], device=options.device)  # imports what loading needs
    for name in PAIR:
        started = time.perf_counter()
        models[name] = sk.load(name, device=options.device)
        seconds[name] = time.perf_counter() - started
    tasks = generate_tasks("heldout", count=options.tasks)
    steps = [name for name in bundled_models() if name.startswith(f"{PAIR[1]}-step-")]
    snapshots = {name: sk.load(name, device=options.device) for name in steps}
    made_from = [code_digest(), *(m.revision for m in (models | snapshots).values())]
    made_from += [path.read_text() for path in (Path(__file__), Path(pair_without.__file__))]
    made_from += [options.tasks, options.pass_tasks, options.samples, options.device]
    mark = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    state = Path("out") / "pair"
    stamp = state / "made-from.sha256"
    if options.fresh or not stamp.is_file() or stamp.read_text() != mark:
        shutil.rmtree(state, ignore_errors=True)
        write_text_atomic(stamp, mark)

    def path(*names: str) -> Path:
        return state / ("-".join(names) + ".jsonl")

    scores = [
        scorecard(tasks, chains(model, tasks, path(name)), model=name)
        for name, model in (models | snapshots).items()
    ]
    forbidden = without(models, tasks, path)
    first, second = (
        right_answers(tasks, chains(model, tasks, path(name))) for name, model in models.items()
    )
    gain = mean_interval(second - first)
    sampled = generate_tasks("heldout", seed=2, count=options.pass_tasks)
    right = {
        name: counts_of_right(name, model, sampled, options.samples, state)
        for name, model in models.items()
    }
    tables = {
        "scores": pd.concat(scores, ignore_index=True),
        "passes": passes(right, sampled, options.samples),
        "gains": gains(right, sampled, options.samples),
        "without": forbidden,
    }
    full = (options.tasks, options.pass_tasks, options.samples) == (600, 200, 128)
    folder = RESULTS if full else state / "results"
    for name, table in tables.items():
        text = table.round(4).to_csv(index=False)
        write_text_atomic(folder / f"pair_{name}.csv", text)
    result = {
        "models": {name: model.revision for name, model in models.items()},
        "snapshots": {name: model.revision for name, model in snapshots.items()},
        "size": {name: describe(bundled_models()[name]) for name in PAIR},
        "load_seconds": {name: round(found, 2) for name, found in seconds.items()},
        "tasks": len(tasks),
        "pass_tasks": len(sampled),
        "samples": options.samples,
        "gain": {"mean": gain.value, "low": gain.low, "high": gain.high},
        "device": options.device,
        "machine": machine(),
    }
    write_text_atomic(folder / "pair.json", json.dumps(result, indent=1) + "\n")
    write_pages(result, folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make pair: {problem}", file=sys.stderr)
        sys.exit(2)
