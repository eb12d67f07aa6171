"""What commands read and write: models, chains, prompts, and the places for results."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steerkit.behaviors import Behavior, behaviors, declare
from steerkit.cli.screen import say
from steerkit.errors import ResourceError, TraceError
from steerkit.resources import bundled_models, data

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
            adapter=arguments.adapter,
            think=tuple(arguments.think) if arguments.think else None,
            device=arguments.device,
            dtype=arguments.dtype,
            device_map=arguments.device_map,
            revision=arguments.revision,
        )


def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of a bundled model, a folder, or a model on the Hub."""
    from steerkit.loading import read_tokenizer

    tokenizer = read_tokenizer(str(bundled_models().get(name, name)))
    if not tokenizer.is_fast:
        raise ResourceError(
            "the tokenizer does not tell where its tokens stand",
            expected="a fast tokenizer",
            where=name,
        )
    return tokenizer


def declare_all(texts: Iterable[str]) -> None:
    """Declare behaviours, each as NAME or NAME=DEFINITION; those known already stay as they are."""
    for text in texts:
        name, _, definition = text.partition("=")
        known = [b.name for b in behaviors()]
        if name not in known:
            color = _COLORS[(len(known) - 6) % len(_COLORS)]
            declare(Behavior(name, definition.strip() or UNDEFINED, color))


def is_bundled(model: str) -> bool:
    """Whether what ``--model`` names is called as a model that comes with steerkit."""
    named = Path(model).resolve().name if Path(model).is_dir() else model
    return named in bundled_models()


def fitting(model: str) -> str:
    """Name of the bundled chains, and of the tasks, that are written in what a model reads.

    ``countdown`` for the bundled models, whose vocabulary is that of the puzzles; plain
    English, ``reasoning``, for any other.
    """
    return "countdown" if is_bundled(model) else "reasoning"


def chain_file(name: str) -> Path:
    """The file of this path, or the bundled chains of this name if there is no such file."""
    return _bundled_chains(name) or Path(name)


def chain_names(arguments: argparse.Namespace) -> list[str]:
    """What ``--traces`` names, or the bundled chains that fit ``--model``."""
    return list(arguments.traces or [fitting(arguments.model)])


def chains_note(arguments: argparse.Namespace) -> str:
    """Which chains were read, in a line."""
    said = [
        f"{name} (bundled)" if _bundled_chains(name) else name for name in chain_names(arguments)
    ]
    return f"Chains:  {', '.join(said)}"


def _bundled_chains(name: str) -> Path | None:
    if Path(name).exists():
        return None
    return next((path for path in data("traces").glob("*.jsonl") if path.stem == name), None)


def read_chains(paths: Sequence[str]) -> tuple[Traces, list[Unplaced]]:
    """Chains of files in any format, and the parts of tagged text that are no spans.

    Bundled chains can be named without their folder and ending (:func:`chain_file`).
    Formats are told apart by :func:`chain_format`. What a chat log holds beside chains is
    counted in a warning. Raises :class:`ResourceError` and :class:`TraceError`, the latter also
    for a chain's id that occurs in two files.
    """
    from steerkit.annotation import read_tagged
    from steerkit.chat_log import read_chat_log
    from steerkit.plain_chains import read_plain_chains
    from steerkit.traces import Traces, read_traces

    chains: list[Trace] = []
    unplaced: list[Unplaced] = []
    seen: dict[str, str] = {}
    for path in map(str, map(chain_file, paths)):
        match chain_format(path):
            case "tagged":
                found, lost = read_tagged(path)
                unplaced += lost
            case "chat":
                found, _ = read_chat_log(path)
            case "plain":
                found = read_plain_chains(path)
            case _:
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


def chain_format(path: str) -> Literal["traces", "tagged", "chat", "plain"]:
    """The format of a file of chains, by its name and its first record.

    ``plain``: a name that ends in .txt or .md, or JSON strings. ``chat``: records with
    messages or completions. ``tagged``: records with ``annotated_response``, or a JSON list of
    records that are nothing else. ``traces``: whatever remains; its reader says what is wrong.
    """
    from steerkit.chat_messages import is_chat_record

    file = Path(path)
    if file.suffix.lower() in (".txt", ".md"):
        return "plain"
    if not file.is_file():
        return "traces"
    first, listed = _first_record(file)
    if isinstance(first, str):
        return "plain"
    if is_chat_record(first):
        return "chat"
    if listed or (isinstance(first, dict) and "annotated_response" in first):
        return "tagged"
    return "traces"


def _first_record(file: Path) -> tuple[Any, bool]:
    """The first JSON value of a file of lines, or of a list; and whether it is a list."""
    from steerkit.chat_messages import is_chat_record

    with file.open("rb") as lines:
        said = (line.removeprefix(b"\xef\xbb\xbf") for line in lines if line.strip())
        # a streamed answer as it came: comments and events' names, then data: {...}
        line = next((line for line in said if not line.startswith((b":", b"event:"))), b"")
        line = line.removeprefix(b"data:")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            if line.strip()[:1] not in (b"[", b"{"):
                return None, False
            try:  # one value over many lines
                value = json.loads(line + lines.read())
            except (ValueError, RecursionError):
                return None, line.strip().startswith(b"[")
    if isinstance(value, list) and not is_chat_record(value):
        return (value[0] if value else None), True
    return value, False


def read_prompts(prompts: Sequence[str], tasks: str | None) -> list[str | Task]:
    """Prompts as typed, then the tasks of a tasks file or of a bundled set by name."""
    from steerkit.tasks import read_tasks

    listed: list[str | Task] = list(prompts)
    if tasks is not None:
        bundled = not Path(tasks).exists() and Path(tasks).name == tasks and "." not in tasks
        listed += read_tasks(data(f"tasks/{tasks}.jsonl") if bundled else tasks)
    return listed


def announce_samples(
    model: ThinkingModel,
    traces: Traces,
    methods: Sequence[str],
    layers: Sequence[int] | None,
) -> None:
    """Say on stderr how large the temporary file of span means will be, if a method needs one."""
    from steerkit.methods import METHODS
    from steerkit.span_means import bytes_of_means

    if not any(METHODS[name].samples for name in methods if name in METHODS):
        return
    known = {found.name for found in behaviors()}
    spans = sum(s.label in known for trace in traces.split("extract") for s in trace.spans)
    size = bytes_of_means(model.n_layers if layers is None else len(layers), spans, model.d_model)
    say(f"the means of {spans:,} spans go to a temporary file of {size / 2**20:,.1f} MiB")


def check_output(
    path: Path, *, over: Iterable[str | Path] = (), refusal: str = "", option: str = "--out"
) -> None:
    """Refuse a place that cannot be written to before any work is done for it.

    ``over`` are files that are read: to write over one of them is refused with ``refusal``.
    """
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
    if any(_same_file(path, Path(other)) for other in over):
        raise ResourceError(refusal, where=path, fix=f"name another file with {option}")


def _same_file(one: Path, other: Path) -> bool:
    there = one.exists() and other.exists()
    return one.samefile(other) if there else one.resolve() == other.resolve()
