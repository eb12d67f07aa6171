"""`make real-evaluation`: does steering move a real 1.5B model, with and without an adapter?

`steerkit evaluate` on Qwen2.5-Coder-1.5B-Instruct (see real_model.py), plain and with the bundled
adapter that makes it think: uncertainty-estimation and backtracking, held-out tasks and chains that
come with steerkit, coefficients from -0.4 to +0.5, random and shuffled directions at the headline
coefficients, the prompt that asks for the behaviour, classifier and rules as annotators. The
directions are those of the plain model for both, at layer 17, which no task decided. Ranges are
found on tasks of the *select* set. How much of the difference between the two models steering
brings back stands at the end.

Chains are kept in out/real-evaluation, so an interrupted run goes on where it stopped. Tables,
settings and figures go to benchmarks/results/real_evaluation/, a page to
benchmarks/results/real_evaluation.md. About two hours a model on two cores that compute in
bfloat16.

    python benchmarks/real_evaluation.py
    python benchmarks/real_evaluation.py --only thinking
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import real_model
from real_directions import own_chains
from real_evaluation_report import keep
from real_steering import ASKED
from reference import LAYER
from resumable import open_state, progress

import steerkit as sk
from steerkit.adapters import Adapter
from steerkit.errors import SteerkitError
from steerkit.evaluation.record import Evaluation
from steerkit.resources import bundled_adapters
from steerkit.tasks import Split, split_of, task_hash

RESULTS = Path(__file__).parent / "results"
OUT = Path("out") / "real-evaluation"
THINK = ("<think>", "</think>")
MODELS = ("thinking", "plain")
BEHAVIORS = ("uncertainty-estimation", "backtracking")
COEFFICIENTS = (-0.4, -0.3, -0.2, 0.1, 0.2, 0.3, 0.5)


def tasks_of(split: Split) -> list[sk.Task]:
    """The bundled tasks of a set, asked for an answer on a line of its own.

    The set is that of the task as it stands in its file; one of which a chain was read is left
    out.
    """
    seen = {task_hash(trace.prompt or "") for trace in own_chains()}
    return [
        replace(task, prompt=task.prompt + ASKED)
        for task in sk.read_tasks(sk.data("tasks/reasoning.jsonl"))
        if split_of(task.prompt) == split and task_hash(task.prompt) not in seen
    ]


def directions(model: sk.ThinkingModel, state: Path) -> sk.SteeringVectors:
    """Directions of the plain model from the bundled chains, at one layer that nothing decided."""
    path = state / "vectors.safetensors"
    if not path.is_file():
        made = sk.extract(model, own_chains(), select=sk.Traces(), progress=progress("extract"))
        made.save(path)
    vectors = sk.read_vectors(path)
    chosen = {name: replace(direction, layer=LAYER) for name, direction in vectors.items()}
    return sk.SteeringVectors(chosen, vectors.provenance, vectors.geometry)


def evaluated(
    model: sk.ThinkingModel,
    vectors: sk.SteeringVectors,
    folder: Path,
    options: argparse.Namespace,
) -> Evaluation:
    """The evaluation of one model, in its folder; goes on where an earlier one stopped."""
    started = time.perf_counter()

    def tell(text: str) -> None:
        seconds = time.perf_counter() - started
        print(f"{seconds:6.0f} s  {folder.name}: {text}", file=sys.stderr, flush=True)

    made = sk.evaluate(
        model,
        vectors,
        tasks_of("evaluate")[: options.tasks],
        traces=own_chains(),
        select=tasks_of("select")[: options.select],
        behaviors=options.behaviors,
        coefficients=options.coefficients,
        control_tasks=options.control_tasks,
        random=options.controls,
        shuffled=options.controls,
        temperature=0.6,
        max_new_tokens=options.tokens,
        batch_size=options.batch_size,
        out=folder,
        command=f"python benchmarks/real_evaluation.py --only {folder.name}",
        tell=tell,
    )
    made.report()
    return made


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", choices=MODELS, help="one of the two models")
    parser.add_argument("--adapter", help="folder or bundled name (default: the bundled one)")
    parser.add_argument("--tasks", type=int, default=42, help="held-out tasks at most")
    parser.add_argument("--select", type=int, default=12, help="tasks that ranges are found on")
    parser.add_argument("--control-tasks", type=int, default=10, help="tasks of the controls")
    parser.add_argument("--controls", type=int, default=10, help="directions of either kind")
    parser.add_argument("--tokens", type=int, default=400, help="new tokens of a chain")
    parser.add_argument("--batch-size", type=int, default=64, help="chains side by side")
    parser.add_argument("--behaviors", nargs="+", default=list(BEHAVIORS))
    parser.add_argument("--coefficients", nargs="+", type=float, default=list(COEFFICIENTS))
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on")
    parser.add_argument("--dtype", default="auto", help="number format (default: auto)")
    parser.add_argument("--model", help="another model's folder, to try the script")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument("--report", action="store_true", help="only write the pages again")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    names = [name for name in MODELS if options.only in (None, name)]
    if options.report:
        there = [name for name in MODELS if (OUT / name / "generations.csv").is_file()]
        print(keep({name: sk.read_evaluation(OUT / name) for name in there}, RESULTS))
        return 0
    if options.minutes:
        # as an interrupt: what is finished by then is kept
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        signal.alarm(round(60 * options.minutes))
    adapter = options.adapter or next(iter(bundled_adapters()), None)
    if adapter is None and "thinking" in names:
        raise SystemExit("real-evaluation: no adapter here: steerkit train adapter makes one")
    folder = options.model or str(real_model.model_folder())
    loading: dict[str, Any] = {"dtype": options.dtype, "device": "cpu"}
    model = sk.load(folder, think=THINK, **loading)
    settings = {"model": folder, "chains": real_model.sha256_of(sk.data("traces/reasoning.jsonl"))}
    state = open_state(OUT / "directions", settings, options.fresh)
    vectors = directions(model, state)
    made = {}
    for name in names:
        if name == "thinking":
            thinking = sk.load(folder, adapter=Adapter.find(adapter).folder, **loading)
            made[name] = evaluated(thinking, vectors, OUT / name, options)
            del thinking
        else:
            made[name] = evaluated(model, vectors, OUT / name, options)
    for name in MODELS:
        if name not in made and (OUT / name / "generations.csv").is_file():
            made[name] = sk.read_evaluation(OUT / name)
    print(keep(made, RESULTS))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"real-evaluation: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("real-evaluation: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
