"""``steerkit evaluate``: does steering do what it says, more than chance, and at what cost?"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.behaviors import behavior
from steerkit.cli.claims import show, summary
from steerkit.cli.evaluate_options import FULL, SMALL, add_options
from steerkit.cli.parser import DEFAULT_MODEL, DEFAULT_VECTORS
from steerkit.cli.screen import progress, say, status
from steerkit.cli.sources import (
    chain_names,
    chains_note,
    check_output,
    declare_all,
    fitting,
    is_bundled,
    load_model,
    read_chains,
    read_prompts,
)
from steerkit.errors import EvaluationError
from steerkit.tasks import Task, split_of

if TYPE_CHECKING:
    from steerkit.evaluation.record import Evaluation
    from steerkit.models import ThinkingModel
    from steerkit.traces import Traces
    from steerkit.vectors import SteeringVectors

_DESCRIPTION = """\
Try to refute what steering is said to do, and write down what came of it.

Chains are written for held-out tasks without steering and under every behaviour at every
coefficient, with the same noise; and, at the two headline coefficients of each behaviour,
under random directions and directions of shuffled labels of the same length. A claim holds
when the change is too large for chance, larger than that of every control, at least four
times as large as theirs on average, and the text is still fluent."""

_EPILOG = """\
the tables, one row for a behaviour amplified and one for it suppressed:
  at                 coefficient and layer
  from %, to %       share of sentences that are the behaviour, unsteered and steered
  ratio              of the two, with its 95 % interval over tasks
  p                  sign-flip test over tasks, Holm-adjusted over all rows
  random, shuffled   control directions whose effect is smaller, of all that ran
  accuracy, length   change in points of right answers, and in tokens of thinking

examples:
  steerkit evaluate
  steerkit evaluate --full --behavior backtracking --out out/backtracking
  steerkit evaluate --model MODEL --vectors out/mine.safetensors --traces chains.jsonl \\
      --tasks tasks.jsonl --annotator classifier --annotator rules"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``evaluate`` to the commands."""
    parser = commands.add_parser(
        "evaluate",
        prog="steerkit evaluate",
        help="Test what steering does against controls, and what it costs.",
        usage="steerkit evaluate [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    add_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, store the ranges, write the report, show the verdicts."""
    folder = Path(arguments.out)
    check_output(folder / "settings.json")
    declare_all(arguments.declare)
    chosen = {
        name: value if (given := getattr(arguments, name)) is None else given
        for name, value in (FULL if arguments.full else SMALL).items()
    }
    names = arguments.behavior and [behavior(name).name for name in arguments.behavior]
    with status("reading chains and tasks"):
        from steerkit.annotation import find_annotator
        from steerkit.evaluation.experiment import evaluate

        traces, _ = read_chains(chain_names(arguments))
        file = arguments.tasks or (
            None if is_bundled(arguments.model) else fitting(arguments.model)
        )
        tasks, select = _tasks(file)
        annotators = [find_annotator(name) for name in arguments.annotator or ()]
    model = load_model(arguments)
    vectors = _vectors(arguments, model, traces)
    if names is None and chosen["behavior"]:
        names = [name for name in chosen["behavior"] if name in vectors] or None
    options = {
        key: getattr(arguments, key)
        for key in ("samples", "seed", "temperature", "top_p", "max_new_tokens", "batch_size")
    }

    def tell(text: str) -> None:
        if not arguments.quiet:
            say(text)

    tell(chains_note(arguments))
    if file is not None:
        tell(f"Tasks:   {file}" + ("" if arguments.tasks else " (bundled)"))
    with progress("writing chains", "chains") as report:
        made = evaluate(
            model,
            vectors,
            _first(model, vectors, tasks, chosen["count"]),
            traces=traces,
            select=_select(model, vectors, select, tasks is None),
            behaviors=names,
            coefficients=chosen["coefficients"],
            headline=_headlines(arguments.headline, names or list(vectors)),
            find_range=True if arguments.find_range else None,
            control_tasks=chosen["control_tasks"],
            random=chosen["random"],
            shuffled=chosen["shuffled"],
            prompt=not arguments.no_prompt,
            divergence=not arguments.no_divergence,
            annotators=annotators or None,
            unit=arguments.unit,
            where=arguments.where,
            out=folder,
            force=arguments.force,
            command=shlex.join(["steerkit", *arguments.typed]),
            tell=tell,
            progress=report,
            **options,
        )
    stored = _store_ranges(arguments, vectors, made)
    page = None
    if not arguments.no_report:
        with status("writing the report"):
            page = made.report()
    if arguments.json:
        print(json.dumps(summary(made, page), allow_nan=False))
        return
    show(made, page, stored)


def _vectors(
    arguments: argparse.Namespace, model: ThinkingModel, traces: Traces
) -> SteeringVectors:
    """The vectors file, made first where all is as it comes and nobody has made it yet."""
    from steerkit.vectors_file import read_vectors

    bundled = arguments.model == DEFAULT_MODEL and arguments.traces is None
    path = Path(arguments.vectors)
    if not (bundled and arguments.vectors == DEFAULT_VECTORS) or path.is_file():
        return read_vectors(path)
    from steerkit.extraction import extract

    if not arguments.quiet:
        say(f"{path} is not there: extracting it from the bundled chains (steerkit extract)")
    with progress("reading activations", "chains") as report:
        made = extract(model, traces, progress=report)
    made.save(path)
    return made


def _tasks(file: str | None) -> tuple[list[Task] | None, list[Task] | None]:
    """Evaluate and select tasks of a tasks file."""
    if file is None:
        return None, None
    named = [task for task in read_prompts([], file) if isinstance(task, Task)]
    parts = {
        name: [t for t in named if split_of(t.prompt) == name] for name in ("evaluate", "select")
    }
    if not parts["evaluate"]:
        raise EvaluationError(
            "no evaluate task among them",
            expected="a quarter of a file's tasks, by the hash of their prompts",
            found=f"{len(named)} tasks",
            where=file,
            fix="name a file with more tasks",
        )
    return parts["evaluate"], parts["select"]


def _first(
    model: ThinkingModel, vectors: SteeringVectors, tasks: list[Task] | None, most: int
) -> list[Task]:
    from steerkit.evaluation.held_out import bundled_tasks, by_hash

    return by_hash(bundled_tasks(model, vectors, "evaluate") if tasks is None else tasks)[:most]


def _select(
    model: ThinkingModel, vectors: SteeringVectors, tasks: list[Task] | None, bundled: bool
) -> list[Task]:
    from steerkit.evaluation.held_out import bundled_tasks

    return bundled_tasks(model, vectors, "select") if bundled else tasks or []


def _headlines(
    typed: list[tuple[str, list[float]]] | None, names: list[str]
) -> dict[str, list[float]] | None:
    """Headline coefficients by behaviour: those of all, unless a behaviour has its own."""
    if typed is None:
        return None
    common = [c for name, several in typed if not name for c in several]
    own = {behavior(name).name: several for name, several in typed if name}
    return {name: own.get(name, common) for name in names}


def _store_ranges(
    arguments: argparse.Namespace, vectors: SteeringVectors, made: Evaluation
) -> bool:
    """Keep ranges that were found in the vectors file, in the unit that is meant there."""
    from steerkit.evaluation.headline import storable_ranges, with_ranges

    settings = made.settings
    kept = storable_ranges(settings["ranges"], vectors, settings["unit"], settings["where"])
    # a border where the search ended would keep a wider search from going on
    found = {
        name: found
        for name, found in kept.items()
        if found["found_on"] is not None and max(map(abs, found["fluent"])) < found["looked_to"]
    }
    if not found:
        return False
    with_ranges(vectors, found).save(arguments.vectors)
    return True
