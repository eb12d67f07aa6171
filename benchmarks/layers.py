"""`make layers`: do cheap scores of layers tell where steering works? The causal sweep judges.

Over tasks of the *select* set: every cheap score of every behaviour (steerkit.layer_choice), and
the causal sweep, which writes chains with each layer pushed up and down by the same coefficient and
counts the behaviour's sentences. Agreement of a cheap score with the sweep is the rank correlation
over layers (mean over behaviours), and whether the layer that it would choose is among the
sweep's best two, beside the plain layer number and a layer drawn at random (layer_agreement.py).
Intervals are from resampling the sweep's tasks, all layers together; below 20 tasks there are none.
Results go to benchmarks/results/layers.{json,csv,md,png} and layers_tasks.csv, those of another
model than the bundled one to layers_NAME.*. --report makes pages again from the numbers kept there.

By default the bundled model at every layer, judged by the exact grammar. On a real model the chains
are the bundled ones in plain English and sentences are labelled by rules. What is done is kept in
out/layers, so an interrupted run goes on where it stopped (--fresh starts over). Before anything
is run it says how long each part will take; --minutes refuses what takes longer.

    python benchmarks/layers.py
    python benchmarks/layers.py --model ~/.cache/steerkit/qwen2.5-coder-1.5b-instruct \\
        --adapter qwen2.5-coder-1.5b-thinking --layers 5,9,13,16,19,22,25 \\
        --coefficient 0.2 --count 20 --tokens 100 --minutes 120
    python benchmarks/layers.py --report
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from layers_report import write_report
from real_measures import code_digest, machine
from reference import head
from resumable import budget, kept_table, open_state, progress

import steerkit as sk
from steerkit.adapters import Adapter
from steerkit.annotation import find_annotator
from steerkit.cli.parser import layers as layer_list
from steerkit.directions import DEFAULT_CONTRAST
from steerkit.errors import SteerkitError
from steerkit.evaluation.held_out import bundled_tasks
from steerkit.files import write_text_atomic
from steerkit.layer_choice.causal import shares_by_layer, shares_by_task
from steerkit.layer_choice.scores import score_layers
from steerkit.layer_choice.suggestion import CHAINS, DEFAULT_SCORE
from steerkit.tasks import split_of, task_hash

RESULTS = Path(__file__).parent / "results"
BUNDLED = "countdown-thinking"
PLAIN = ("deduction", "example-testing", "uncertainty-estimation", "backtracking")
"""Behaviours of a real model: the frequent ones, for every one more costs two rows a layer."""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Options, with the defaults that fit the bundled model or another one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default=BUNDLED, help="a bundled name or a folder")
    parser.add_argument("--adapter", help="of another model: a bundled name or a folder")
    parser.add_argument("--dtype", help="of the weights: float32, bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--traces", help="annotated chains (default: the bundled ones that fit)")
    parser.add_argument("--task-file", help="tasks whose select ones chains are written for")
    parser.add_argument("--annotator", help="grammar, rules, classifier or a file of one")
    parser.add_argument(
        "--behaviors", type=lambda text: text.split(","), help="separated by commas"
    )
    parser.add_argument("--layers", type=layer_list, help="such as 5,9,13-15 (default: all)")
    parser.add_argument("--count", type=int, help="select tasks that chains are written for")
    parser.add_argument("--tokens", type=int, help="new tokens of a chain")
    parser.add_argument("--coefficient", type=float, help="of the steps, in mean norms")
    parser.add_argument(
        "--chains",
        type=int,
        help="chains that slopes are taken from (default: of the bundled model as many as extract)",
    )
    parser.add_argument("--step-chains", type=int, help="chains that steps are taken on")
    parser.add_argument("--read", type=int, help="tokens read of each chain")
    parser.add_argument("--window", default="1,0", help="tokens of a span, as of steerkit extract")
    parser.add_argument("--contrast", default=DEFAULT_CONTRAST, help="as of steerkit extract")
    parser.add_argument("--batch-size", type=int, help="chains written side by side")
    parser.add_argument("--minutes", type=float, help="refuse to start on what takes longer")
    parser.add_argument("--budget", action="store_true", help="say how long it takes, no more")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument(
        "--report", action="store_true", help="make all pages again from the numbers kept"
    )
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("--state", type=Path, default=Path("out") / "layers")
    options = parser.parse_args(words)
    small = options.model == BUNDLED
    for name, bundled, other in (
        ("annotator", "grammar", "rules"),
        ("traces", str(sk.data("traces/countdown.jsonl")), str(sk.data("traces/reasoning.jsonl"))),
        ("task_file", None, str(sk.data("tasks/reasoning.jsonl"))),
        ("count", 40, 6),
        ("tokens", 448, 100),
        ("coefficient", 0.2, 0.3),
        ("chains", None, 16),
        ("step_chains", 48, 6),
        ("read", 384, 256),
        ("batch_size", 512, 32),
        ("behaviors", None, list(PLAIN)),
    ):
        if getattr(options, name) is None:
            setattr(options, name, bundled if small else other)
    return options


def speeds(model: sk.ThinkingModel, rows: int) -> tuple[float, float]:
    """Tokens a second when reading, and when writing ``rows`` chains side by side."""
    import torch

    prompt = "Why?"
    ids = torch.tensor([(model.render(prompt) * 128)[:128]], device=model.device)
    took = []
    with model.inference():
        for _ in range(2):
            started = time.perf_counter()
            model.hf.get_decoder()(input_ids=ids, use_cache=False)
            took.append(time.perf_counter() - started)
    seconds = []
    # the first call meets cold caches; counted, it made the second look free
    for steps in (2, 2, 10):
        started = time.perf_counter()
        model.generate([prompt] * rows, max_new_tokens=steps, batch_size=rows)
        seconds.append(time.perf_counter() - started)
    return 128 / took[-1], 8 * rows / max(seconds[2] - seconds[1], 1e-3)


def plan(
    model: sk.ThinkingModel,
    chains: sk.Traces,
    tasks: list[sk.Task],
    layers: list[int],
    options: argparse.Namespace,
) -> list[tuple[str, float, float]]:
    """What there is to do: (what, tokens, tokens a second)."""
    reading, writing = speeds(model, options.batch_size)
    names = len(options.behaviors or PLAIN)
    chains = sk.Traces(trace for trace in chains if trace.split != "evaluate")
    read = sum(len(model.align(trace).ids) for trace in chains)
    again = sum(len(model.align(trace).ids) for trace in chains.split("select"))
    rows = (1 + 2 * names * len(layers)) * len(tasks)
    prompts = sum(len(model.render(task.prompt)) for task in tasks)
    # a backward pass costs about what a forward pass does: weights are not trained
    each = read / len(chains)
    passes = 1 + (names + 1) + 1
    steps = 1 + (names + 2)
    return [
        ("extraction and areas", read + again, reading),
        ("slopes: gradient, published", options.chains * each * passes, reading),
        ("steps: gain, effect", options.step_chains * each * len(layers) * steps, reading),
        ("sweep: prompts", rows // len(tasks) * prompts, reading),
        (f"sweep: {rows} chains", rows * options.tokens, writing),
    ]


def written(
    model: sk.ThinkingModel,
    tasks: list[sk.Task],
    vectors: sk.SteeringVectors,
    layers: list[int],
    options: argparse.Namespace,
    state: Path,
) -> tuple[pd.DataFrame, sk.Traces]:
    """The sweep's table and chains; tasks that are in ``state`` are not written again."""
    conditions = 1 + 2 * len(vectors) * len(layers)
    size = max(options.batch_size // conditions, 1)
    tables, chains = [], sk.Traces()
    for first in range(0, len(tasks), size):
        table, traces = state / f"sweep_{first:03}.csv", state / f"sweep_{first:03}.jsonl"
        if not table.is_file():
            found = model.sweep(
                tasks[first : first + size],
                dict(vectors.items()),
                coefficients=(-options.coefficient, options.coefficient),
                layers=layers,
                max_new_tokens=options.tokens,
                batch_size=options.batch_size,
                on_interrupt="raise",
                progress=progress(f"tasks {first + 1} to {min(first + size, len(tasks))}"),
            )
            sk.write_traces(found.traces, traces)
            write_text_atomic(table, found.table.to_csv(index=False))
        tables.append(pd.read_csv(table))
        chains = chains + sk.read_traces(traces)
    return pd.concat(tables, ignore_index=True), chains


@contextmanager
def timed(path: Path, what: str) -> Iterator[None]:
    """Adds the seconds that it took to those in a file, over interruptions."""
    started = time.perf_counter()
    try:
        yield
    finally:
        spent = json.loads(path.read_text()) if path.is_file() else {}
        spent[what] = round(spent.get(what, 0.0) + time.perf_counter() - started, 1)
        write_text_atomic(path, json.dumps(spent))


def select_tasks(path: str, count: int) -> list[sk.Task]:
    """Select tasks of a file, in the order of their hashes: files go by category."""
    found = [task for task in sk.read_tasks(path) if split_of(task.prompt) == "select"]
    return sorted(found, key=lambda task: task_hash(task.prompt))[:count]


def command_of(options: argparse.Namespace, model: str) -> str:
    """The command that does the same again: every setting, for usual ones may change."""
    usual = arguments(["--model", options.model])
    names = ("traces", "task_file", "annotator", "dtype", "adapter", "behaviors", "layers", "count")
    names += ("tokens", "coefficient", "chains", "step_chains", "read", "window", "contrast")
    differ = [name for name in names if getattr(options, name) != getattr(usual, name)]
    if options.model == BUNDLED and not differ:
        return "make layers"
    words = ["python benchmarks/layers.py"]
    if options.model != BUNDLED:
        # with an adapter a model is named MODEL+ADAPTER
        words.append(f"--model ~/.cache/steerkit/{model.partition('+')[0]}")
    for name in names:
        value = getattr(options, name)
        # files and names stand where they are not the usual ones: paths are of one machine
        if value is None or (isinstance(value, str) and name not in differ):
            continue
        if isinstance(value, (list, tuple)):
            text = ",".join(map(str, value))
        else:
            text = Path(value).name if name in ("traces", "task_file") else str(value)
        words.append(f"--{name.replace('_', '-')} {text}")
    return " ".join(words)


def report_all(folder: Path) -> None:
    """Every page of a results folder, made again from the numbers that are kept beside it."""
    names = [path.stem for path in sorted(folder.glob("layers*.json"))]
    if not names:
        raise SteerkitError(
            "no results to report",
            expected="layers*.json, each with its .csv",
            found="none",
            where=str(folder),
        )
    for name in names:
        write_report(folder, name)
        print(folder / f"{name}.md")


def chains_of_slopes(vectors: sk.SteeringVectors, options: argparse.Namespace) -> int:
    """How many chains slopes are taken from: as many as extraction took, unless one says."""
    return int(options.chains or vectors.provenance["layer_choice"].get("chains", CHAINS))


def measured(
    model: sk.ThinkingModel,
    chains: sk.Traces,
    options: argparse.Namespace,
    layers: list[int],
    state: Path,
) -> tuple[sk.SteeringVectors, pd.DataFrame]:
    """Vectors and their cheap scores, stage by stage; what is in ``state`` is not done again."""
    clock, kept = state / "seconds.json", state / "vectors.safetensors"
    if not kept.is_file():
        with timed(clock, "extraction"):
            found = sk.extract(
                model,
                chains,
                behaviors=options.behaviors,
                layers=layers,
                contrast=options.contrast,
                window=sk.Window.parse(options.window),
                # the default says on how many chains it takes slopes, and so does extract's user
                choose_by="auroc" if options.chains else DEFAULT_SCORE,
                progress=progress("extract"),
            )
            found.save(kept)
    vectors = sk.read_vectors(kept)
    slopes_from = chains_of_slopes(vectors, options)

    def scored(what: tuple[str, ...], count: int, at: list[int]) -> pd.DataFrame:
        with timed(clock, " and ".join(what)):
            return score_layers(
                model,
                vectors,
                chains,
                scores=what,
                coefficient=options.coefficient,
                layers=at,
                chains=count,
                # the chains of another model are cut already, their prompts left whole
                tokens=options.read if options.model == BUNDLED else 10**6,
            )

    areas = kept_table(state / "auroc.csv", lambda: scored(("auroc",), 1, layers))
    slopes = kept_table(
        state / "slopes.csv", lambda: scored(("gradient", "published"), slopes_from, layers)
    )
    # steps are the dearest of the cheap scores: kept layer by layer
    steps = [
        kept_table(
            state / f"steps_{layer:02}.csv",
            lambda at=layer: scored(("gain", "effect"), options.step_chains, [at]),
        )
        for layer in layers
    ]
    table = pd.concat([areas, slopes, *steps], ignore_index=True)
    return vectors, table.sort_values(["score", "layer"], kind="stable", ignore_index=True)


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    if options.report:
        report_all(options.folder)
        return 0
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    bundled = options.model == BUNDLED
    model = sk.load(
        BUNDLED if bundled else Path(options.model).expanduser(),
        # an adapter says with which think strings it was trained
        think=None if bundled or options.adapter else ("<think>", "</think>"),
        dtype=options.dtype,
        adapter=Adapter.find(options.adapter).folder if options.adapter else None,
        device="cpu",
    )
    name = "layers" if bundled else f"layers_{model.name.partition('-')[0]}"
    name += "_thinking" if options.adapter else ""
    annotator = find_annotator(options.annotator)
    layers = list(options.layers or range(model.n_layers))
    chains = sk.read_traces(options.traces)
    if not bundled:
        chains = sk.Traces(head(trace, model, options.read) for trace in chains)
        tasks = select_tasks(options.task_file, options.count)
        lines, minutes = budget(plan(model, chains, tasks, layers, options))
        print(lines, file=sys.stderr)
        if options.minutes is not None and minutes > options.minutes:
            raise SteerkitError(
                "this would take too long",
                expected=f"at most {options.minutes:.0f} minutes",
                found=f"{minutes:.0f}",
                fix="fewer --layers, --count, --behaviors, --step-chains or --tokens take less",
            )
    if options.budget:
        return 0
    unsettling = ("annotator", "budget", "folder", "fresh", "minutes", "report", "state", "threads")
    settings = {
        "code": code_digest(),
        "model": [model.name, model.tokenizer_hash, str(model.dtype)],
        "options": {k: str(v) for k, v in vars(options).items() if k not in unsettling},
    }
    state = open_state(options.state / name, settings, options.fresh)
    vectors, cheap = measured(model, chains, options, layers, state)
    if bundled:
        tasks = bundled_tasks(model, vectors, "select")[: options.count]
    with timed(state / "seconds.json", "sweep"):
        swept, texts = written(model, tasks, vectors, layers, options, state)
    labelled = sk.annotate(texts, annotator)
    told = (swept, labelled, list(vectors), layers, options.coefficient)
    judge, shares = shares_by_layer(*told), shares_by_task(*told)
    judge.insert(2, "score", "sweep")
    table = pd.concat([cheap, judge], ignore_index=True)
    content = {
        "model": model.name,
        "tasks": len(tasks),
        "coefficient": options.coefficient,
        "annotator": annotator.name,
        "tokens": options.tokens,
        "chains": chains_of_slopes(vectors, options),
        "step_chains": options.step_chains,
        "read": options.read,
        "command": command_of(options, model.name),
        "seconds": json.loads((state / "seconds.json").read_text()),
        "code": code_digest()[:12],
        "machine": machine(),
    }
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
    for frame, file in ((table, f"{name}.csv"), (shares, f"{name}_tasks.csv")):
        write_text_atomic(folder / file, frame.to_csv(index=False, float_format="%.5g"))
    print(write_report(folder, name))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make layers: {problem}", file=sys.stderr)
        sys.exit(2)
