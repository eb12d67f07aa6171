"""`make real-defaults`: do the defaults found on the bundled model hold on a real one?

Directions of uncertainty-estimation and backtracking in Qwen2.5-Coder-1.5B-Instruct (see
real_model.py) by the difference of means, under several windows and contrasts, from every second
of the chains in plain English that come with steerkit, at layer 17, which no task decided. Each is
pushed by the same length at both signs, in the model with the bundled adapter that makes it think,
on *select* tasks, one chain a task, all with the same noise. The *evaluate* tasks stay untouched.

Sentences are labelled by the classifier and by the rules. *Swing* as of `make defaults`. Chains are
cut off at a limit that many of them reach, so that *closed* tells how much longer thinking gets.

Results go to benchmarks/results/real_defaults.{csv,json,md}; what is done is kept in
out/real-defaults, so an interrupted run goes on where it stopped. About 40 minutes on two cores
that compute in bfloat16.

    python benchmarks/real_defaults.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import real_model
from bare_vectors import mean_differences
from pushes import drawn_rate, task_weights
from real_directions import own_chains
from real_evaluation import BEHAVIORS, THINK, tasks_of
from real_measures import code_digest, machine
from reference import LAYER
from resumable import open_state, progress

import steerkit as sk
from steerkit.adapters import Adapter
from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic
from steerkit.repetition import zlib_ratio
from steerkit.resources import bundled_adapters

RESULTS = Path(__file__).parent / "results"
KINDS = (
    ("rest", "1,10"),
    ("balanced", "1,0"),
    ("rest", "1,0"),
    ("overall", "1,10"),
    ("balanced", "1,10"),
)
"""Contrasts and windows, the more telling first: a run may be stopped early."""
ANNOTATORS = ("classifier", "rules")
PLAIN = ("none", "none", "none", 0)
Key = tuple[str, str, str, int]
"""Contrast, window, behaviour and sign."""


def directions(model: sk.ThinkingModel, chains: sk.Traces, state: Path) -> dict[Key, sk.Direction]:
    """By contrast, window and behaviour, sign 1; one pass over the chains a window."""
    found: dict[Key, sk.Direction] = {}
    for window in dict.fromkeys(window for _, window in KINDS):
        wanted = [contrast for contrast, other in KINDS if other == window]
        paths = {name: state / f"vectors-{name}-{window}.safetensors" for name in wanted}
        if not all(path.is_file() for path in paths.values()):
            told = progress(f"window {window}")
            read = {"layers": [LAYER], "window": sk.Window.parse(window), "progress": told}
            moments = sk.collect(model, chains, **read)
            for name, path in paths.items():
                _vectors(model, moments, name).save(path)
        for name, path in paths.items():
            vectors = sk.read_vectors(path)
            found |= {(name, window, behavior, 1): vectors[behavior] for behavior in BEHAVIORS}
    return found


def _vectors(model: sk.ThinkingModel, moments: sk.Moments, contrast: str) -> sk.SteeringVectors:
    found = mean_differences(model, moments, contrast)
    made = {name: replace(found[name], layer=LAYER) for name in BEHAVIORS}
    return sk.SteeringVectors(made, {"contrast": contrast})


def counted(traces: sk.Traces, key: Key) -> pd.DataFrame:
    """One row a chain and annotator: its sentences by behaviour, closed or not, how repetitive."""
    rows = []
    for annotator in ANNOTATORS:
        for trace in sk.annotate(traces, annotator):
            labels = [span.label for span in trace.spans]
            rows.append(
                dict(zip(("contrast", "window", "behavior", "sign"), key, strict=True))
                | {name: labels.count(name) for name in BEHAVIORS}
                | {
                    "annotator": annotator,
                    "task": trace.task_id,
                    "sentences": len(labels),
                    "closed": trace.closed,
                    "zlib": zlib_ratio(trace.response),
                }
            )
    return pd.DataFrame(rows)


def compared(chains: pd.DataFrame) -> pd.DataFrame:
    """One row an annotator, contrast, window and behaviour; ``behavior`` is ``both`` for the mean.

    ``swing`` with 95 % bootstrap intervals over tasks; ``unsteered``, ``down`` and ``up`` (shares
    of sentences), ``closed down``, ``closed up``, ``zlib down`` and ``zlib up``. Contrasts and
    windows of which a push is missing have no row.
    """
    rows = []
    for annotator, mine in chains.groupby("annotator", sort=False):
        plain = mine[mine["sign"] == 0]
        tasks = sorted(plain["task"].unique())
        weights = task_weights(len(tasks))
        for contrast, window in KINDS:
            own = mine[(mine["contrast"] == contrast) & (mine["window"] == window)]
            parts = {
                (name, sign): own[(own["behavior"] == name) & (own["sign"] == sign)]
                for name in BEHAVIORS
                for sign in (-1, 1)
            }
            if any(part.empty for part in parts.values()):
                continue
            known = {"annotator": annotator, "contrast": contrast, "window": window}
            swings = []
            for name in BEHAVIORS:
                down, up = (
                    drawn_rate(parts[name, sign], tasks, weights, name, "sentences")
                    for sign in (-1, 1)
                )
                rate = drawn_rate(plain, tasks, weights, name, "sentences")
                swings.append((up - down) / np.maximum(rate, 1e-9))
                row = known | {"behavior": name} | _interval(swings[-1])
                row |= {"unsteered": rate[0], "down": down[0], "up": up[0]}
                for what in ("closed", "zlib"):
                    for sign, word in ((-1, "down"), (1, "up")):
                        row[f"{what} {word}"] = float(parts[name, sign][what].mean())
                rows.append(row)
            rows.append(known | {"behavior": "both"} | _interval(np.mean(swings, axis=0)))
    return pd.DataFrame(rows)


def _interval(drawn: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(drawn[1:], [0.025, 0.975])
    return {"swing": float(drawn[0]), "low": float(low), "high": float(high)}


def markdown(content: Mapping[str, object], chains: pd.DataFrame) -> str:
    """The results as a page."""
    table, plain = compared(chains), chains[chains["sign"] == 0]
    head = ["contrast, window", "annotator", "swing"]
    for name in BEHAVIORS:
        head += [f"{name}: down, unsteered, up", "closed: down, up"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (contrast, window, annotator), rows in table.groupby(
        ["contrast", "window", "annotator"], sort=False
    ):
        by = rows.set_index("behavior")
        both = by.loc["both"]
        swing = f"{both['swing']:.2f} ({both['low']:.2f} to {both['high']:.2f})"
        cells = [f"`{contrast}, {window}`", str(annotator), swing]
        for name in BEHAVIORS:
            row = by.loc[name]
            rates = (row["down"], row["unsteered"], row["up"])
            cells.append(", ".join(f"{100 * rate:.1f} %" for rate in rates))
            cells.append(f"{100 * row['closed down']:.0f} %, {100 * row['closed up']:.0f} %")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"{content['model']}, pushed at layer {content['layer']} by {content['coefficient']:g} "
            f"mean norms down and up, directions of the plain model from {content['chains']} "
            f"chains; {content['tasks']} *select* tasks, one chain each of at most "
            f"{content['tokens']} tokens at temperature 0.6, the same noise under every condition. "
            "Swing: (rate pushed up - rate pushed down) / unsteered rate, mean of both behaviours, "
            "95 % bootstrap interval over tasks. Rates are shares of sentences. Unsteered, "
            f"{100 * plain['closed'].mean():.0f} % of the chains close within the limit. Made by "
            "`make real-defaults`.",
            "",
        ]
    )


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=16, help="select tasks, 37 at most")
    parser.add_argument("--coefficient", type=float, default=0.2, help="used at both signs")
    parser.add_argument("--tokens", type=int, default=320, help="new tokens of a chain")
    parser.add_argument("--batch-size", type=int, default=64, help="chains side by side")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument("--report", action="store_true", help="only write the page again")
    parser.add_argument(
        "--done", action="store_true", help="write no more chains, and the page of those there are"
    )
    return parser.parse_args(words)


def written(options: argparse.Namespace, state: Path) -> pd.DataFrame:
    """Counts of all chains, condition by condition; what is in ``state`` is not written again."""
    folder = str(real_model.model_folder())
    plain = sk.load(folder, think=THINK, dtype="auto", device="cpu")
    found = directions(plain, sk.Traces(list(own_chains())[::2]), state)
    del plain
    adapter = Adapter.find(next(iter(bundled_adapters()))).folder
    model = sk.load(folder, adapter=adapter, dtype="auto", device="cpu")
    tasks = tasks_of("select")[: options.tasks]
    pushes: dict[Key, sk.Term | None] = {PLAIN: None}
    for kind in KINDS:
        for behavior in BEHAVIORS:
            for sign in (-1, 1):
                term = sign * options.coefficient * found[*kind, behavior, 1]
                pushes[*kind, behavior, sign] = term
    paths = {key: state / f"{'-'.join(map(str, key))}.csv" for key in pushes}
    missing = [] if options.done else [key for key in paths if not paths[key].is_file()]
    started, size = time.perf_counter(), max(options.batch_size // len(tasks), 1)
    for first in range(0, len(missing), size):
        part = missing[first : first + size]
        traces = model.generate(
            tasks * len(part),
            steer=[pushes[key] for key in part for _ in tasks],
            temperature=0.6,
            max_new_tokens=options.tokens,
            batch_size=options.batch_size,
            on_interrupt="raise",
        )
        for number, key in enumerate(part):
            mine = traces[number * len(tasks) : (number + 1) * len(tasks)]
            write_text_atomic(paths[key], counted(mine, key).to_csv(index=False))
        seconds = time.perf_counter() - started
        done = first + len(part)
        print(f"{done} of {len(missing)} conditions, {seconds:.0f} s", file=sys.stderr)
    there = [path for path in paths.values() if path.is_file()]
    return pd.concat([pd.read_csv(path) for path in there], ignore_index=True)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if options.report:
        content = json.loads((RESULTS / "real_defaults.json").read_text())
        chains = pd.read_csv(RESULTS / "real_defaults.csv")
    else:
        made_from = {
            "code": code_digest(),
            "options": [options.tasks, options.coefficient, options.tokens],
            "chains": real_model.sha256_of(sk.data("traces/reasoning.jsonl")),
        }
        state = open_state(Path("out") / "real-defaults", made_from, options.fresh)
        chains = written(options, state)
        content = {
            "model": f"qwen2.5-coder-1.5b-instruct with {next(iter(bundled_adapters()))}",
            "layer": LAYER,
            "coefficient": options.coefficient,
            "tasks": options.tasks,
            "tokens": options.tokens,
            "chains": len(list(own_chains())[::2]),
            "machine": machine(),
        }
        write_text_atomic(RESULTS / "real_defaults.csv", chains.to_csv(index=False))
        text = json.dumps(content, indent=1) + "\n"
        write_text_atomic(RESULTS / "real_defaults.json", text)
    page = markdown(content, chains)
    write_text_atomic(RESULTS / "real_defaults.md", page)
    print(page)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make real-defaults: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("make real-defaults: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
