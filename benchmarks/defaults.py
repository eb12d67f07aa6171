"""`make defaults`: which contrast, method and window should be the default?

On the bundled model: directions of three behaviours by methods, contrasts and windows (the tokens
of a span that are averaged; 1,0 is the token before it alone;
:data:`default_candidates.KINDS`), from the same chains of *extract* tasks, each pushed at both
signs on held-out *select* tasks, one chain a task, all with the same noise, scored by the
exact grammar. All candidates are pushed at the same layers, those that ``gradient`` chooses for
the default of today: if layers favour anyone, then that one. The *evaluate* tasks stay untouched.

Two strengths. *Equal length*: 0.2 mean norms. *Equal side effect*: the coefficient at which the
predictions on unsteered text move as far, KL(unsteered || steered), as by 0.2 mean norms of the
default of today, behaviour by behaviour.

*Swing* is (rate at plus - rate at minus) / unsteered rate of the behaviour's sentences, mean over
the behaviours; *lost* is unsteered accuracy minus that of the pushed chains, mean over behaviours
and signs, in points.

The rule, written before anything was run (windows other than 1,10 were added to the candidates
later, after a look at 40 of the 200 select tasks):

1. A candidate counts if its directions are reliable (cosine between halves of the tasks at least
   0.9 for every behaviour) and text stays whole at equal side effect (at most 5 points fewer
   chains closed than unsteered, at least 95 % of the sentences known to the grammar; means over
   behaviours and signs).
2. On the first tasks all candidates are screened. The three that count with the largest swing
   at equal side effect, and the default of today, go on to other tasks, where nothing was chosen.
3. There, one takes the default's place if its swing at equal side effect is larger than the
   default's, by a paired bootstrap interval over tasks of 98.3 % (95 % for three rivals together)
   that excludes zero, and its accuracy is not lower (95 % interval of the difference not wholly
   below zero). Of several the one with the largest swing. Otherwise the default stays.

Results go to benchmarks/results/defaults.{csv,json,md,png}; chains that are done are kept in
out/defaults, so an interrupted run goes on where it stopped.

    python benchmarks/defaults.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from default_candidates import BEHAVIORS, Candidate, Kind, SideEffect, candidates
from defaults_report import draw, markdown
from pushes import drawn_rate, pushed, task_weights, unpushed
from real_measures import code_digest, machine

import steerkit as sk
from steerkit.directions import DEFAULT_CONTRAST
from steerkit.errors import SteerkitError
from steerkit.evaluation.held_out import bundled_tasks
from steerkit.files import write_text_atomic
from steerkit.methods import DEFAULT_METHOD
from steerkit.plots import save_figure

RESULTS = Path(__file__).parent / "results"
STRENGTHS = ("length", "side effect")
RIVALS = 3
RELIABLE, CLOSED, PARSED = 0.9, 0.05, 0.95
Drawn = Mapping[str, np.ndarray]


def measured(table: pd.DataFrame, plain: pd.DataFrame) -> dict[str, np.ndarray]:
    """Of all tasks, then of every resample: ``[1 + resample]``.

    ``swing``, ``swing NAME`` of every behaviour, ``lost`` (points), ``closed`` and ``parsed``
    (shares) and ``unclosed`` (points fewer chains closed than unsteered).
    """
    tasks = sorted(plain.task.unique())
    weights = task_weights(len(tasks))
    found: dict[str, np.ndarray] = {}
    for name in BEHAVIORS:
        mine, base = table[table.behavior == name], plain[plain.behavior == name]
        down, up = (
            drawn_rate(mine[mine.sign == sign], tasks, weights, "own", "sentences")
            for sign in (-1, 1)
        )
        rate = drawn_rate(base, tasks, weights, "own", "sentences")
        found[f"swing {name}"] = (up - down) / np.maximum(rate, 1e-9)
    found["swing"] = np.mean([found[f"swing {name}"] for name in BEHAVIORS], axis=0)
    for what, column in (("lost", "correct"), ("unclosed", "closed")):
        before, after = (drawn_rate(rows, tasks, weights, column) for rows in (plain, table))
        found[what] = 100 * (before - after)
    found["closed"] = drawn_rate(table, tasks, weights, "closed")
    found["parsed"] = 1 - drawn_rate(table, tasks, weights, "unparsed", "sentences")
    return found


def row_of(found: Drawn) -> dict[str, float]:
    """Values and 95 % intervals, and swing per point of accuracy lost."""
    row: dict[str, float] = {}
    for name in ("swing", *(f"swing {b}" for b in BEHAVIORS), "lost"):
        low, high = np.quantile(found[name][1:], [0.025, 0.975])
        row |= {name: found[name][0], f"{name} low": low, f"{name} high": high}
    row["per point"] = found["swing"][0] / found["lost"][0] if found["lost"][0] > 0 else np.nan
    return row | {name: found[name][0] for name in ("closed", "unclosed", "parsed")}


def counts(candidate_facts: Mapping[str, Mapping[str, float]], row: Mapping[str, float]) -> str:
    """Why a candidate does not count, by the first part of the rule; empty where it does."""
    least = float(np.min([facts["split_half"] for facts in candidate_facts.values()]))
    if not least >= RELIABLE:
        return f"halves agree by {least:.2f}"
    if row["unclosed"] > 100 * CLOSED:
        return f"{row['unclosed']:.0f} points fewer chains closed"
    if row["parsed"] < PARSED:
        return f"{100 * row['parsed']:.0f} % of sentences known"
    return ""


def rivals(screened: Mapping[str, float], today: str) -> list[str]:
    """The default of today, then those with the largest swing of the candidates that count."""
    others = sorted((name for name in screened if name != today), key=lambda n: -screened[n])
    return [today, *others[:RIVALS]]


def verdict(found: Mapping[str, Drawn], today: str) -> tuple[str, list[dict[str, Any]]]:
    """The default by the third part of the rule, and how every rival differs from today's."""
    rows, better = [], []
    edge = 0.05 / RIVALS / 2
    for name, drawn in found.items():
        if name == today:
            continue
        swing = drawn["swing"] - found[today]["swing"]
        lost = drawn["lost"] - found[today]["lost"]
        low, high = np.quantile(swing[1:], [edge, 1 - edge])
        least, most = np.quantile(lost[1:], [0.025, 0.975])
        row: dict[str, Any] = {"candidate": name, "swing": swing[0], "low": low, "high": high}
        row |= {"lost": lost[0], "lost low": least, "lost high": most}
        row["better"] = bool(low > 0 and least <= 0)
        rows.append(row)
        if row["better"]:
            better.append((float(drawn["swing"][0]), name))
    return (max(better)[1] if better else today), rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--screen", type=int, default=50, help="select tasks of the screening")
    parser.add_argument("--tasks", type=int, default=200, help="other select tasks, for rivals")
    parser.add_argument("--coefficient", type=float, default=0.2, help="used at both signs")
    parser.add_argument("--tokens", type=int, default=640, help="longest chain")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument("--report", action="store_true", help="only write page and figure again")
    return parser.parse_args()


def state_folder(options: argparse.Namespace, model: sk.ThinkingModel) -> Path:
    """Where chains that are done are counted; emptied where they were made otherwise."""
    sources = [
        Path(__file__).with_name(n)
        for n in ("default_candidates.py", "bare_vectors.py", "pushes.py")
    ]
    made_from = [code_digest(), *(path.read_text() for path in sources), model.revision]
    mark = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    state = Path("out") / "defaults"
    stamp = state / "made-from.sha256"
    if options.fresh or not stamp.is_file() or stamp.read_text() != mark:
        shutil.rmtree(state, ignore_errors=True)
        write_text_atomic(stamp, mark)
    return state


class Runs:
    """Counts of pushed chains; those that an earlier run has made are read."""

    def __init__(self, model: sk.ThinkingModel, state: Path, tokens: int) -> None:
        self._model, self._state, self._tokens = model, state, tokens
        self._started = time.perf_counter()

    def _asked(self, tasks: Sequence[sk.Task]) -> str:
        ids = " ".join(task.id for task in tasks).encode()
        return f"{self._tokens}-{hashlib.sha256(ids).hexdigest()[:8]}"

    def plain(self, stage: str, tasks: Sequence[sk.Task]) -> pd.DataFrame:
        path = self._state / f"{stage}-plain-{self._asked(tasks)}.csv"
        if not path.is_file():
            table = unpushed(self._model, BEHAVIORS, tasks, self._tokens)
            write_text_atomic(path, table.to_csv(index=False))
        return pd.read_csv(path)

    def pushed(
        self,
        stage: str,
        candidate: Candidate,
        coefficients: Mapping[str, float],
        tasks: Sequence[sk.Task],
    ) -> pd.DataFrame:
        steps = "-".join(f"{coefficients[name]:g}" for name in BEHAVIORS)
        made = candidate.name.replace(", ", "-")
        name = f"{stage}-{made}-{steps}-{self._asked(tasks)}.csv"
        path = self._state / name
        if not path.is_file():
            terms = {n: coefficients[n] * d for n, d in candidate.directions.items()}
            table = pushed(self._model, terms, tasks, self._tokens)
            write_text_atomic(path, table.to_csv(index=False))
            seconds = time.perf_counter() - self._started
            print(f"{stage}: {candidate.name} at {steps}, {seconds:.0f} s", file=sys.stderr)
        return pd.read_csv(path)


def write_pages(content: dict[str, Any], table: pd.DataFrame) -> None:
    """benchmarks/results/defaults.{md,png}; prints the page."""
    page = markdown(content, table)
    write_text_atomic(RESULTS / "defaults.md", page)
    save_figure(draw(content, table), RESULTS / "defaults.png")
    print(page)


def main() -> int:
    options = arguments()
    if options.report:
        content = json.loads((RESULTS / "defaults.json").read_text())
        write_pages(content, pd.read_csv(RESULTS / "defaults.csv", keep_default_na=True))
        return 0
    model = sk.load("countdown-thinking", device="cpu")
    state = state_folder(options, model)
    traces = sk.read_traces(sk.data("traces/countdown.jsonl"))
    kept = traces.split("select")
    current = Kind(DEFAULT_METHOD, DEFAULT_CONTRAST, sk.Window())
    every = {c.name: c for c in candidates(model, traces, current, state)}
    today = current.name

    side = SideEffect(model, sorted(kept, key=lambda trace: trace.task_key)[:12])
    length = dict.fromkeys(BEHAVIORS, options.coefficient)
    target = {n: side.of(options.coefficient * every[today].directions[n]) for n in BEHAVIORS}
    steps: dict[str, dict[str, dict[str, float]]] = {}
    for name, candidate in every.items():
        found = {n: side.matched(d, target[n]) for n, d in candidate.directions.items()}
        steps[name] = {"length": length, "side effect": length if name == today else found}

    found = bundled_tasks(model, every[today].directions, "select")
    tasks = found[: options.screen + options.tasks]
    stages = {"screen": tasks[: options.screen], "final": tasks[options.screen :]}
    runs = Runs(model, state, options.tokens)
    rows: list[dict[str, Any]] = []
    drawn: dict[tuple[str, str, str], Drawn] = {}

    def run(stage: str, names: Sequence[str], strengths: Sequence[str]) -> None:
        plain = runs.plain(stage, stages[stage])
        for name in names:
            for strength in strengths:
                table = runs.pushed(stage, every[name], steps[name][strength], stages[stage])
                found = drawn[stage, name, strength] = measured(table, plain)
                row = {"stage": stage, "candidate": name, "strength": strength} | row_of(found)
                facts = every[name].facts()
                for what in ("auroc", "split_half", "shuffled"):
                    row[what] = float(np.mean([f[what] for f in facts.values()]))
                row["seconds"] = every[name].seconds
                row |= {f"coefficient {n}": c for n, c in steps[name][strength].items()}
                rows.append(row)

    run("screen", list(every), STRENGTHS)
    out = {
        row["candidate"]: counts(every[row["candidate"]].facts(), row)
        for row in rows
        if row["strength"] == "side effect"
    }
    swings = {n: float(drawn["screen", n, "side effect"]["swing"][0]) for n in every if not out[n]}
    chosen = rivals(swings, today)
    run("final", chosen, ("side effect",))
    winner, differences = verdict({n: drawn["final", n, "side effect"] for n in chosen}, today)
    content = {
        "model": model.name,
        "revision": model.revision,
        "today": today,
        "winner": winner,
        "rivals": chosen,
        "left_out": {name: why for name, why in out.items() if why},
        "differences": differences,
        "layers": {n: d.layer for n, d in every[today].directions.items()},
        "facts": {name: candidate.facts() for name, candidate in every.items()},
        "divergence": target,
        "coefficient": options.coefficient,
        "tasks": {stage: len(part) for stage, part in stages.items()},
        "code": code_digest()[:12],
        "machine": machine(),
    }
    table = pd.DataFrame(rows)
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text_atomic(
        RESULTS / "defaults.json",
        json.dumps(content, indent=1, default=lambda value: np.asarray(value).item()) + "\n",
    )
    write_text_atomic(RESULTS / "defaults.csv", table.to_csv(index=False, float_format="%.5g"))
    write_pages(content, table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make defaults: {problem}", file=sys.stderr)
        sys.exit(2)
