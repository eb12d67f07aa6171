"""What goes to the terminal: results on stdout; messages, warnings and progress on stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LOG = logging.getLogger("steerkit")
_LEVELS = {logging.WARNING: "warning: ", logging.ERROR: "error: "}


def say(message: str) -> None:
    """One line of our own on stderr."""
    print(f"steerkit: {message}", file=sys.stderr)


class _Handler(logging.Handler):
    """Logs to whatever stderr is at the time, so that a progress bar can stand below."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        say(_LEVELS.get(record.levelno, "") + text)


@contextmanager
def messages(*, verbose: bool, quiet: bool) -> Iterator[logging.Logger]:
    """Within it steerkit's log goes to stderr, and other libraries keep quiet."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    handler, before, passes = _Handler(), _LOG.level, _LOG.propagate
    _LOG.addHandler(handler)
    _LOG.setLevel(level)
    _LOG.propagate = False
    try:
        with warnings.catch_warnings():
            if not verbose:
                _silence()
                # warnings that steerkit's own code causes are defects and stay
                warnings.filterwarnings("ignore", module=r"(?!steerkit)")
            yield _LOG
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(before)
        _LOG.propagate = passes


def _silence() -> None:
    """No chatter from transformers, the Hub's client and TransformerLens."""
    # read when these libraries are imported, which happens later
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("transformers", "transformer_lens", "huggingface_hub", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


def stdout() -> Console:
    """The console of results."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


def stderr() -> Console:
    """The console of progress."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)


@contextmanager
def status(doing: str) -> Iterator[None]:
    """A spinner while something of unknown length runs, on a terminal only."""
    console = stderr()
    if not console.is_terminal or not _LOG.isEnabledFor(logging.WARNING):
        yield
        return
    with console.status(doing):
        yield


@contextmanager
def progress(doing: str, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar fed by calls with done and total, counted in ``what``; on a terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeRemaining

    console = stderr()
    shown = console.is_terminal and _LOG.isEnabledFor(logging.WARNING)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(what),
        TimeRemaining(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(doing, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report
