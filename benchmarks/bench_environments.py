"""Environments of peers whose pins conflict with ours: one venv each, under out/bench/envs.

A peer is installed beside the PyTorch of this environment's version, so that what differs is the
peer and the transformers it allows. Measuring never installs anything: ``--prepare`` does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from bench_cases import Unavailable

ENVIRONMENTS = Path("out") / "bench" / "envs"
PEERS: Mapping[str, tuple[str, ...]] = {
    "steering-vectors": ("steering-vectors==0.12.2",),
    "repeng": ("repeng==0.4.0",),
    "bridge": ("transformer-lens==4.3.0", "transformers==5.23.0"),
}
"""Peers in environments of their own, and what is installed for them after PyTorch.

steering-vectors wants transformers < 5 and repeng numpy < 2. TransformerLens's bridge writes other
tokens under transformers 5.24, where its cached steps do not see the cache (and are quicker for
it): it gets the version before.
"""
STAMP = "made-from.json"

Run = Callable[[Sequence[str]], str]
"""Runs a command; what it printed. Raises :class:`Unavailable` with its last line if it fails."""


def run(command: Sequence[str]) -> str:
    """As :data:`Run` says, without this process's PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    if found.returncode:
        lines = [line for line in found.stderr.strip().splitlines() if "notice" not in line]
        raise Unavailable(lines[-1] if lines else f"{command[0]} failed without a word")
    return found.stdout


def torch_requirement() -> str:
    """PyTorch as it is here, whatever the processor it was built for."""
    return f"torch=={version('torch').partition('+')[0]}"


def python_of(name: str, pythons: Mapping[str, Path], root: Path = ENVIRONMENTS) -> Path:
    """The interpreter that has a peer; :class:`Unavailable` where it was not prepared."""
    if name in pythons:
        return pythons[name]
    folder = root / name
    if _made_from(folder) == _requirements(name):
        return folder / "bin" / "python"
    failed = root / f"{name}.failed"
    if failed.is_file():
        raise Unavailable(f"cannot be installed: {failed.read_text().strip()}")
    raise Unavailable("no environment: python benchmarks/bench.py --prepare makes it")


def prepare(name: str, root: Path = ENVIRONMENTS, run: Run = run) -> Path:
    """Make a peer's environment if it is not there; what went wrong is noted beside it."""
    folder, failed, wanted = root / name, root / f"{name}.failed", _requirements(name)
    python = folder / "bin" / "python"
    if _made_from(folder) == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        run([sys.executable, "-m", "venv", str(folder)])
        run([*pip, wanted[0]])
        run([*pip, *wanted])
    except Unavailable as problem:
        failed.write_text(f"{problem}\n")
        raise
    (folder / STAMP).write_text(json.dumps(wanted) + "\n")
    return python


def _requirements(name: str) -> list[str]:
    return [torch_requirement(), *PEERS[name]]


def _made_from(folder: Path) -> list[str] | None:
    try:
        return list(json.loads((folder / STAMP).read_text()))
    except (OSError, json.JSONDecodeError):
        return None
