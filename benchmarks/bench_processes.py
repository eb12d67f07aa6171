"""The other end of bench_worker.py: start a process, ask it, read its answer, end it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench_cases import Unavailable

SCRIPT = Path(__file__).parent / "bench_worker.py"
LONGEST = 3600.0
"""Seconds after which a process that does not answer counts as stuck."""


class Process:
    """A worker process; use it in a ``with``.

    Parameters
    ----------
    name:
        What it is called in messages.
    python:
        The interpreter it runs in. Ours keeps PYTHONPATH; another environment's must not see it.
    script, longest:
        What it runs, and how long an answer may take.
    """

    def __init__(
        self,
        name: str,
        python: Path | str = sys.executable,
        script: Path = SCRIPT,
        longest: float = LONGEST,
    ) -> None:
        self.name, self.longest = name, longest
        environment = dict(os.environ)
        if str(python) != sys.executable:
            environment.pop("PYTHONPATH", None)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """The answer to one command.

        Raises :class:`Unavailable` for an error, a process that has ended, and one that is stuck.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps({"do": do, **more}) + "\n")
            stdin.flush()
        except (BrokenPipeError, ValueError):
            raise Unavailable(f"{self.name}: {self._last_words()}") from None
        # one question, one line: nothing is left in the buffer that select would not see
        if not select.select([stdout], [], [], self.longest)[0]:
            self._process.kill()
            raise Unavailable(f"{self.name}: no answer to {do!r} in {self.longest:.0f} s")
        line = stdout.readline()
        if not line:
            raise Unavailable(f"{self.name}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(f"{self.name}: {answer['error']}")
        return answer

    def run(self, contender: str, job: str) -> tuple[float, list[list[int]]]:
        """Seconds of one run, and what was written."""
        answer = self.ask("run", contender=contender, job=job)
        return float(answer["seconds"]), answer["rows"]

    def close(self) -> None:
        """Ask it to end by closing its stdin; end it if it does not."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _last_words(self) -> str:
        self._process.wait(timeout=30)
        self._errors.seek(0)
        lines: Sequence[str] = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"ended with status {self._process.returncode}"
