"""`make bench`: how fast steerkit is, against targets set beforehand.

Eight questions, one file each (bench_*.py): generation, peers, sweep, collection, sampling,
startup, memory, and bandwidth on a GPU. Contenders of one case take turns (A B C A B C ...), nine
times unless a case says fewer, and every figure is the median of ratios within a round, with its
quartiles. Results go to benchmarks/results/bench.{json,csv,md,png}; a run replaces the figures
that it measured and keeps the others. Cases that are done are kept in out/bench/state, so an
interrupted run goes on where it stopped (--fresh starts over). --quick runs everything on tiny
sizes and writes to out/bench instead: its figures mean nothing.

    python benchmarks/bench.py --prepare        # models and peers' environments; needs a network
    python benchmarks/bench.py
    python benchmarks/bench.py --only sweep --only peers
    python benchmarks/bench.py --device cuda
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import bench_bandwidth
import bench_collection
import bench_environments
import bench_generation
import bench_memory
import bench_peers
import bench_sampling
import bench_smollm2
import bench_startup
import bench_sweep
import pandas as pd
import real_model
from bench_cases import Case, Context, Unavailable, mark, rows
from bench_report import draw, markdown
from real_measures import code_digest, load_at_start, machine

from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic
from steerkit.plots import save_figure

QUESTIONS: tuple[ModuleType, ...] = (
    bench_generation,
    bench_peers,
    bench_sweep,
    bench_collection,
    bench_sampling,
    bench_startup,
    bench_memory,
    bench_bandwidth,
)
DEVICES = ("cpu", "cuda")
RESULTS = Path(__file__).parent / "results"
OUT = Path("out") / "bench"


def planned(devices: Sequence[str], quick: bool, repetitions: int) -> list[Case]:
    """Every case of every question."""
    return [
        case
        for question in QUESTIONS
        for device in devices
        for case in question.cases(device, quick, repetitions)
    ]


def question_of(case: Case) -> ModuleType:
    """The module that measures a case."""
    return next(question for question in QUESTIONS if case.question == question.NAME)


def this_machine(context: Context) -> dict[str, Any]:
    """:func:`real_measures.machine`, with the threads of this run and the GPU."""
    found = {**machine(), "threads": context.threads}
    if context.device != "cpu":
        import torch

        found["gpu"] = torch.cuda.get_device_name(context.device)
        found["cuda"] = torch.version.cuda
    return found


def what_measures() -> str:
    """SHA-256 of the package's code and of the files that measure; pages and figures aside."""
    digest = hashlib.sha256(code_digest().encode())
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if path.name != "bench_report.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def commit() -> str:
    """The git commit that is checked out, ``+`` after it where files differ; empty without git."""
    folder = Path(__file__).parent
    try:
        found, changed = (
            subprocess.run(
                ["git", *words], cwd=folder, check=True, capture_output=True, text=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{found}+" if changed else found


def measured(case: Case, context: Context, state: Path, fresh: bool) -> dict[str, Any]:
    """What a case gave: of an earlier run with the same code and setting, or of now."""
    here, code = this_machine(context), what_measures()
    digest, path = mark(case, code, here), state / f"{case.key}.json"
    if path.is_file() and not fresh:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["mark"] == digest:
            return found
    started, load = time.perf_counter(), load_at_start()
    print(f"{case.key}: {case.repetitions} repetitions", file=sys.stderr, flush=True)
    made = question_of(case).measure(case, context)
    result = {
        **made.to_json(),
        "mark": digest,
        "code": made.code or code[:12],
        # what was measured before was not measured by what is checked out now
        "commit": "" if made.code else commit(),
        "setting": dict(case.setting),
        "machine": here,
        "load_average_at_start": load,
        "took": round(time.perf_counter() - started, 1),
    }
    write_text_atomic(path, json.dumps(result, indent=1) + "\n")
    return result


def command(case: Case, quick: bool) -> str:
    """What measures a case that was not measured."""
    parts = ["python benchmarks/bench.py", f"--only {case.question}"]
    parts += [f"--device {case.device}"] if case.device != "cpu" else []
    parts += ["--long"] if case.skipped else []
    parts += ["--quick"] if quick else []
    return " ".join(parts)


def gathered(
    cases: Sequence[Case], results: dict[str, Any], reasons: dict[str, str], quick: bool
) -> list[dict[str, Any]]:
    """Rows of all cases; the measured ones say by which code, the others how to measure them."""
    listed = []
    for case in cases:
        found = results.get(case.key)
        reason = reasons.get(case.key) or case.skipped or f"`{command(case, quick)}`"
        for row in rows(case, found, "" if found else reason):
            row["code"] = found["code"] if found else ""
            listed.append(row)
    return listed


def write(folder: Path, content: dict[str, Any]) -> None:
    """bench.{json,csv,md,png}; prints the page."""
    # a figure that was not measured is null: NaN is no JSON
    clean = [{k: None if v != v else v for k, v in row.items()} for row in content["rows"]]
    text = json.dumps({**content, "rows": clean}, indent=1)
    write_text_atomic(folder / "bench.json", text + "\n")
    table = pd.DataFrame(content["rows"])
    write_text_atomic(folder / "bench.csv", table.to_csv(index=False, float_format="%.5g"))
    page = markdown(content)
    write_text_atomic(folder / "bench.md", page)
    save_figure(draw(content), folder / "bench.png")
    print(page)


def prepare() -> None:
    """Get the models and make the peers' environments; what fails is said, and the rest goes on."""
    tasks = {"SmolLM2": bench_smollm2.make, "Qwen2.5-Coder-1.5B": real_model.model_folder}
    for name in bench_environments.PEERS:
        tasks[name] = lambda name=name: bench_environments.prepare(name)
    for name, task in tasks.items():
        try:
            print(f"{name}: {task()}")
        except (Unavailable, SteerkitError) as problem:
            print(f"{name}: {problem}", file=sys.stderr)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = [question.NAME for question in QUESTIONS]
    parser.add_argument("--only", action="append", choices=names, help="this question; repeatable")
    parser.add_argument("--model", action="append", help="this model only; repeatable")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--long", action="store_true", help="also what takes an hour by itself")
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="the large model's shape with random weights where its own are missing",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="interpreter that has a peer, in place of the environment that --prepare makes",
    )
    parser.add_argument("--prepare", action="store_true", help="get models and peers, and stop")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, into out/bench")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument(
        "--report", action="store_true", help="only write page and figure of the last results again"
    )
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.prepare:
        prepare()
        return 0
    import torch

    folder = OUT if options.quick else RESULTS
    repetitions = min(options.repetitions, 3) if options.quick else options.repetitions
    before = folder / "bench.json"
    kept = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else {}
    results: dict[str, Any] = kept.get("cases", {})
    reasons: dict[str, str] = {}
    context = Context(
        device=options.device,
        threads=options.threads or torch.get_num_threads(),
        quick=options.quick,
        out=OUT,
        pythons={name: Path(path) for name, path in (p.split("=", 1) for p in options.python)},
        random_weights=options.random_weights,
    )
    everything = planned(DEVICES, options.quick, repetitions)
    state = OUT / ("state-quick" if options.quick else "state")
    there = options.device == "cpu" or torch.cuda.is_available()
    if not there and not options.report:
        print("make bench: no GPU is at hand, nothing is measured", file=sys.stderr)
    for case in everything if there and not options.report else ():
        wanted = (
            case.device == options.device
            and (not options.only or case.question in options.only)
            and (not options.model or case.model in options.model)
            and (not case.skipped or options.long)
        )
        if not wanted:
            continue
        try:
            results[case.key] = measured(case, context, state, options.fresh)
        except Unavailable as problem:
            reasons[case.key] = str(problem)
            print(f"{case.key}: not measured: {problem}", file=sys.stderr)
    keys = {case.key for case in everything}
    content = {
        "questions": {question.NAME: question.TITLE for question in QUESTIONS},
        "quick": options.quick,
        "rows": gathered(everything, results, reasons, options.quick),
        "cases": {key: found for key, found in results.items() if key in keys},
    }
    write(folder, content)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerkitError as problem:
        print(f"make bench: {problem}", file=sys.stderr)
        sys.exit(2)
