"""A process that holds contenders of `make bench` and runs one when told to.

Started by bench_processes.py with the interpreter of a contender's environment, so that
contenders whose packages exclude each other can still take turns. One JSON object a line:

    {"do": "load", "contenders": [...], "folder": ..., "dtype": ..., "device": ..., "threads": n}
    {"do": "render", "texts": [...]}                      -> {"ids": [[...], ...]}
    {"do": "mixed", "words": [...], "lengths": [...]}     -> {"texts": [...]}
    {"do": "job", "name": ..., "job": {...}}              -> {}
    {"do": "run", "contender": ..., "job": name}          -> {"seconds": s, "rows": [[...], ...]}

comes in on stdin, and an answer goes out on stdout; ``{"error": ...}`` says what went wrong. The
process ends with its stdin. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

PACKAGES = ("torch", "transformers", "transformer-lens", "steering-vectors", "repeng", "numpy")

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def serve(commands: dict[str, Answer], lines: TextIO, out: TextIO) -> None:
    """Answer one line after another until there are no more."""
    for line in lines:
        try:
            asked = json.loads(line)
            answer = commands[asked["do"]](asked)
        except Exception as problem:  # told to who asked: it decides what becomes of it
            told = (str(problem).strip().splitlines() or [""])[0]
            answer = {"error": f"{type(problem).__name__}: {told}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


class Worker:
    """The commands, on real models."""

    def __init__(self) -> None:
        self.contenders: dict[str, Any] = {}
        self.model: Any = None
        self.jobs: dict[str, Any] = {}
        self.settle: Callable[[], Any] = lambda: None

    def load(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Read the model and open the contenders; the versions that are at work."""
        import torch
        from bench_contenders import open_contenders

        torch.set_num_threads(asked["threads"])
        if asked["device"].startswith("cuda"):
            self.settle = torch.cuda.synchronize
        made = open_contenders(
            asked["contenders"], asked["folder"], asked["dtype"], asked["device"]
        )
        self.contenders, self.model = made
        return {"versions": versions()}

    def render(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Token ids of texts through the model's chat template."""
        return {"ids": [self.model.render(text) for text in asked["texts"]]}

    def mixed(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Texts that render to the wanted lengths."""
        from bench_subjects import mixed

        return {"texts": mixed(self.model.render, asked["words"], asked["lengths"])}

    def job(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Note a job under a name."""
        from bench_contenders import Job

        self.jobs[asked["name"]] = Job(**asked["job"])
        return {}

    def run(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Run a contender on a job; seconds and what it wrote."""
        write, job = self.contenders[asked["contender"]], self.jobs[asked["job"]]
        self.settle()
        started = time.perf_counter()
        rows = write(job)
        self.settle()
        seconds = time.perf_counter() - started
        wrong = [len(row) for row in rows if len(row) != job.new_tokens]
        if wrong:
            raise ValueError(f"rows of {wrong} tokens instead of {job.new_tokens}")
        return {"seconds": seconds, "rows": rows}


def versions() -> dict[str, str]:
    """Of those packages that are in this environment."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    # libraries print to stdout as they please: answers go out by a descriptor of their own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    names = ("load", "render", "mixed", "job", "run")
    serve({name: getattr(worker, name) for name in names}, sys.stdin, answers)


if __name__ == "__main__":
    main()
