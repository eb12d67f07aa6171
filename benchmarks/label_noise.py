"""`make noise`: how good does an annotator have to be?

On the bundled model, whose chains are labelled exactly: a share of the labels is replaced by
wrong ones, directions are taken anew from the same chains, and compared with those of the true
labels: by cosine, and by what they do when they steer. Wrong labels come in two kinds.

- ``random``: of every label the same share of spans is wrong; each gets another label, drawn by
  how frequent the others are in the chains.
- ``confused``: which labels are mistaken, and for which, is as in the confusion matrix of the
  classifier, cross-validated on the bundled chains in plain English; all rates of error are
  multiplied by one number, so that the share in question is wrong (no label more than wholly).

Beside them stand the bundled annotators for plain English, ``rules`` and ``classifier``, as they
label these spans, which they were not made for: spans that they call unparsed are left out.

The chains are read once: a direction is a difference of means over span means
(steerkit.span_means), whatever the labels are. Cosines are over 20 draws of the wrong labels;
steering is by the directions of the first draws (three) on held-out *select* tasks, both signs of
one coefficient, same noise, scored by the exact grammar. Layers are those that ``gradient``
chooses for the true labels. Results go to benchmarks/results/label_noise.{csv,json,md,png};
chains that are done are kept in out/label_noise, so an interrupted run goes on where it stopped.

    python benchmarks/label_noise.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from label_noise_report import DEFAULTS, draw, markdown
from noisy_labels import (
    NONE,
    Labelling,
    Read,
    aligned,
    confused_flow,
    corrupted,
    cosines,
    mean_directions,
    random_flow,
    read_means,
)
from pushes import drawn_rate, pushed, task_weights
from real_measures import code_digest, machine

import steerkit as sk
from steerkit.annotation import agree, cross_annotate
from steerkit.directions import DEFAULT_CONTRAST
from steerkit.errors import SteerkitError
from steerkit.evaluation.held_out import bundled_tasks
from steerkit.files import write_text_atomic
from steerkit.plots import save_figure

RESULTS = Path(__file__).parent / "results"
SHARES = (0.05, 0.1, 0.2, 0.4)
KINDS = ("random", "confused")
ANNOTATORS = ("rules", "classifier")
STEERED = ("backtracking", "uncertainty-estimation", "example-testing")
DRAWS = 20
"""Draws of wrong labels for every kind and share."""


def labellings(read: Read, confusion: pd.DataFrame, chains: sk.Traces) -> list[Labelling]:
    """All labels that are compared: the true ones, the corrupted ones, those of annotators."""
    truth, size = read.labels, len(read.names)
    flows = {"random": random_flow(truth, size), "confused": confused_flow(confusion, read.names)}
    found = [Labelling("exact", 0.0, seed, truth) for seed in range(DRAWS)]
    found += [
        Labelling(kind, share, seed, corrupted(truth, share, flows[kind], seed))
        for kind in KINDS
        for share in SHARES
        for seed in range(DRAWS)
    ]
    for name in ANNOTATORS:
        said = aligned(read.spans, chains, sk.annotate(chains, name, keep_spans=True))
        labels = np.array([read.names.index(s) if s in read.names else NONE for s in said])
        labelled = labels != NONE
        share = round(float((labels != truth)[labelled].mean()), 4)
        found += [Labelling(name, share, seed, labels) for seed in range(DRAWS)]
    return found


def steered_directions(
    read: Read, labelling: Labelling, vectors: sk.SteeringVectors
) -> dict[str, sk.Direction]:
    """Directions of the behaviours that are steered, under these labels, in the true ones' units.

    A behaviour that no span was labelled with has none.
    """
    tensors = mean_directions(read, labelling.labels, DEFAULT_CONTRAST).float()
    found = {}
    for name in STEERED:
        tensor = tensors[read.names.index(name)].contiguous()
        if float(tensor.norm()) > 0:
            found[name] = replace(vectors[name], tensor=tensor)
    return found


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """One row a kind, share and behaviour: what steering does to the behaviour's rate.

    ``up`` and ``down``: its sentences over all, as a ratio of sums over tasks and draws;
    ``effect`` is their difference and ``kept`` that over the one of the true labels, both with
    95 % bootstrap intervals over tasks; ``parsed`` and ``correct`` are means of both signs.
    """
    tasks = sorted(table.task.unique())
    weights = task_weights(len(tasks))
    drawn: dict[tuple[str, float, str], np.ndarray] = {}
    rows = []
    parts = table.groupby(["kind", "share", "behavior"], sort=False)
    for key, part in sorted(parts, key=lambda entry: entry[0][0] != "exact"):
        down, up = (
            drawn_rate(part[part.sign == sign], tasks, weights, "own", "sentences")
            for sign in (-1, 1)
        )
        kind, share, name = key
        drawn[key] = change = up - down
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = change / drawn["exact", 0.0, name]
        row: dict[str, Any] = {"kind": kind, "share": share, "behavior": name}
        row |= {"up": up[0], "down": down[0]}
        for what, values in (("effect", change), ("kept", kept)):
            low, high = np.quantile(values[1:], [0.025, 0.975])
            row |= {what: values[0], f"{what}_low": low, f"{what}_high": high}
        row["parsed"] = 1 - part.unparsed.sum() / max(part.sentences.sum(), 1)
        row["correct"] = part.correct.mean()
        rows.append(row)
    return pd.DataFrame(rows)


def summarised(table: pd.DataFrame) -> pd.DataFrame:
    """Cosines over draws: mean, and the ends of what 95 % of the draws lie between."""
    rows = []
    for key, part in table.groupby(["kind", "share", "chains", "behavior", "layer"], sort=False):
        row = dict(zip(("kind", "share", "chains", "behavior", "layer"), key, strict=True))
        row |= {"draws": len(part), "kappa": part.kappa.mean()}
        for what in ("cosine", "others"):
            low, high = part[what].quantile([0.025, 0.975])
            row |= {what: part[what].mean(), f"{what}_low": low, f"{what}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, help="select tasks to steer on")
    parser.add_argument("--steered-draws", type=int)
    parser.add_argument("--few", type=int, help="chains of the small set")
    parser.add_argument("--coefficient", type=float, help="used at both signs")
    parser.add_argument("--tokens", type=int, help="new tokens of a chain")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument("--report", action="store_true", help="only write page and figure again")
    parser.set_defaults(**DEFAULTS)
    return parser.parse_args()


def state_folder(options: argparse.Namespace, model: sk.ThinkingModel) -> Path:
    """Where chains that are done are counted; emptied where they were made otherwise."""
    sources = [
        Path(__file__).with_name(n) for n in ("noisy_labels.py", "bare_vectors.py", "pushes.py")
    ]
    made_from = [code_digest(), *(path.read_text() for path in sources), model.revision]
    mark = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    state = Path("out") / "label_noise"
    stamp = state / "made-from.sha256"
    if options.fresh or not stamp.is_file() or stamp.read_text() != mark:
        shutil.rmtree(state, ignore_errors=True)
        write_text_atomic(stamp, mark)
    return state


def write_pages(content: dict[str, Any], table: pd.DataFrame, folder: Path) -> None:
    """label_noise.md and label_noise.png; prints the page."""
    page = markdown(content, table)
    write_text_atomic(folder / "label_noise.md", page)
    save_figure(draw(content, table), folder / "label_noise.png")
    print(page)


def main() -> int:
    options, started = arguments(), time.perf_counter()
    folder = options.folder
    if options.report:
        table = pd.read_csv(folder / "label_noise.csv", dtype={"chains": str})
        write_pages(json.loads((folder / "label_noise.json").read_text()), table, folder)
        return 0
    model = sk.load("countdown-thinking", device="cpu")
    traces = sk.read_traces(sk.data("traces/countdown.jsonl"))
    state = state_folder(options, model)
    matrix = state / "confusion.csv"
    if not matrix.is_file():
        gold = sk.read_traces(sk.data("traces/reasoning.jsonl"))
        found = agree(gold, cross_annotate(gold, folds=5, keep_spans=True), units=("spans",))
        write_text_atomic(matrix, found.matrix("spans").to_csv())
    confusion = pd.read_csv(matrix, index_col=0)
    read, vectors = read_means(model, traces, DEFAULT_CONTRAST, state)
    layers = {name: int(direction.layer or 0) for name, direction in vectors.items()}
    chains = traces.split("extract")
    every = labellings(read, confusion, chains)
    compared = state / f"cosines-{options.few}.csv"
    if not compared.is_file():
        found = summarised(cosines(read, every, layers, DEFAULT_CONTRAST, options.few))
        write_text_atomic(compared, found.to_csv(index=False))
        print(f"cosines after {time.perf_counter() - started:.0f} s", file=sys.stderr)
    table = pd.read_csv(compared, dtype={"chains": str})

    tasks = bundled_tasks(model, vectors, "select")[: options.tasks]
    once = ("exact", *ANNOTATORS)
    chosen = [e for e in every if e.seed < (1 if e.kind in once else options.steered_draws)]
    asked = f"{options.coefficient:g}-{options.tokens}-{len(tasks)}"
    parts = []
    for number, labelling in enumerate(chosen):
        path = state / f"{labelling.name}-{asked}.csv"
        if not path.is_file():
            directions = steered_directions(read, labelling, vectors)
            terms = {name: options.coefficient * d for name, d in directions.items()}
            counts = pushed(model, terms, tasks, options.tokens)
            write_text_atomic(path, counts.to_csv(index=False))
            seconds = time.perf_counter() - started
            done = f"{number + 1}/{len(chosen)}"
            print(f"{done}: {labelling.name}, {seconds:.0f} s", file=sys.stderr)
        part = pd.read_csv(path)
        part.insert(0, "kind", labelling.kind)
        part.insert(1, "share", labelling.share)
        parts.append(part)
    moved = effects(pd.concat(parts, ignore_index=True)).assign(chains="all")
    table = table.merge(moved, how="left", on=["kind", "share", "chains", "behavior"])
    content = {
        "model": model.name,
        "revision": model.revision,
        "contrast": DEFAULT_CONTRAST,
        "layers": layers,
        "chains": len(chains),
        "spans": len(read.spans),
        "shares": {n: float((read.labels == i).mean()) for i, n in enumerate(read.names)},
        "confusion": confusion.to_dict("index"),
        "draws": DRAWS,
        "steered": list(STEERED),
        "steered_draws": options.steered_draws,
        "few": options.few,
        "tasks": len(tasks),
        "coefficient": options.coefficient,
        "tokens": options.tokens,
        "coverage": {e.kind: float((e.labels != NONE).mean()) for e in every if e.seed == 0},
        "code": code_digest()[:12],
        "machine": machine(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / "label_noise.json", json.dumps(content, indent=1) + "\n")
    rounded = table.to_csv(index=False, float_format="%.5g")
    write_text_atomic(folder / "label_noise.csv", rounded)
    write_pages(content, table, folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make noise: {problem}", file=sys.stderr)
        sys.exit(2)
