"""What commands read and write: models, chains, prompts, and the places for results."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.behaviors import Behavior, behaviors, declare
from steerkit.errors import ResourceError, TraceError
from steerkit.resources import data

if TYPE_CHECKING:
    from steerkit.annotation import Unplaced
    from steerkit.models import ThinkingModel
    from steerkit.tasks import Task
    from steerkit.traces import Trace, Traces

UNDEFINED = "declared on the command line"
"""Definition of a behaviour of which only the name was given."""

# colours of behaviours declared on the command line, in the order of their declaration
_COLORS = ("#56B4E9", "#882255", "#332288", "#999933", "#44AA99", "#661100")


def load_model(arguments: argparse.Namespace) -> ThinkingModel:
    """The model that ``--model`` and its companions ask for."""
    from steerkit.cli.screen import status

    with status(f"loading {arguments.model}"):
        from transformers.utils import logging

        from steerkit.loading import load

        if not arguments.verbose:
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        return load(
            arguments.model,
            think=tuple(arguments.think) if arguments.think else None,
            device=arguments.device,
            dtype=arguments.dtype,
            device_map=arguments.device_map,
            revision=arguments.revision,
        )


def declare_all(texts: Iterable[str]) -> None:
    """Declare behaviours, each as NAME or NAME=DEFINITION; those known already stay as they are."""
    for text in texts:
        name, _, definition = text.partition("=")
        known = [b.name for b in behaviors()]
        if name not in known:
            color = _COLORS[(len(known) - 6) % len(_COLORS)]
            declare(Behavior(name, definition.strip() or UNDEFINED, color))


def read_chains(paths: Sequence[str]) -> tuple[Traces, list[Unplaced]]:
    """Chains of traces files and of tagged text, and the tagged parts that are no spans.

    Raises :class:`ResourceError` and :class:`TraceError`, the latter also for a chain's id
    that occurs in two files.
    """
    from steerkit.annotation import read_tagged
    from steerkit.traces import Traces, read_traces

    chains: list[Trace] = []
    unplaced: list[Unplaced] = []
    seen: dict[str, str] = {}
    for path in paths:
        if is_tagged(path):
            found, lost = read_tagged(path)
            unplaced += lost
        else:
            found = read_traces(path)
        for trace in found:
            if trace.id in seen:
                raise TraceError(
                    f"trace id {trace.id!r} occurs twice (first in {seen[trace.id]})",
                    where=path,
                    fix="give every chain an id of its own, and name every file once",
                )
            seen[trace.id] = path
        chains += found
    return Traces(chains), unplaced


def is_tagged(path: str) -> bool:
    """Whether a file holds tagged text: a JSON list, or lines with ``annotated_response``."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as lines:
        line = next((line for line in lines if line.strip()), b"").strip()
    if line.startswith(b"["):
        return True
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False  # the reader of traces files says what is wrong, and where
    return isinstance(record, dict) and "annotated_response" in record


def read_prompts(prompts: Sequence[str], tasks: str | None) -> list[str | Task]:
    """Prompts as typed, then the tasks of a tasks file or of a bundled set by name."""
    from steerkit.tasks import read_tasks

    listed: list[str | Task] = list(prompts)
    if tasks is not None:
        bundled = not Path(tasks).exists() and Path(tasks).name == tasks and "." not in tasks
        listed += read_tasks(data(f"tasks/{tasks}.jsonl") if bundled else tasks)
    return listed


def check_output(path: Path) -> None:
    """Refuse a place that cannot be written to before any work is done for it."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    problem = None
    if path.is_dir():
        problem = "it is a folder"
    elif not folder.is_dir():
        problem = f"{folder} is no folder"
    elif not os.access(folder, os.W_OK):
        problem = f"no permission to write in {folder}"
    if problem:
        raise ResourceError(
            "cannot write here", found=problem, where=path, fix="choose another path"
        )
