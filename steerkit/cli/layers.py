"""``steerkit layers``: which layer, and how strong; stored in the vectors file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.parser import (
    DEFAULT_VECTORS,
    add_model_options,
    add_verbosity,
    layers,
    positive,
)
from steerkit.cli.screen import progress, status, stdout
from steerkit.cli.sources import (
    chain_names,
    chains_note,
    check_output,
    is_bundled,
    load_model,
    read_chains,
    read_prompts,
)
from steerkit.cli.tables import clean, count, number, table
from steerkit.errors import ExtractionError
from steerkit.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.annotation import Annotator
    from steerkit.layer_choice.choice import LayerChoice
    from steerkit.vectors import SteeringVectors

CHEAP = ("auroc", "gradient", "gain", "effect", "published")
# steerkit.layer_choice.scores.CHEAP, without importing torch for it

_DESCRIPTION = """\
Choose a layer for every behaviour, and find how far it can be pushed there.

Cheap scores look at chains that are written already: how well a direction foretells its
behaviour (auroc), and how it would move the first tokens of its sentences (gradient, gain).
The causal sweep writes chains with every layer steered up and down and counts. Everything
is done on tasks of the select set, which neither extraction nor evaluation uses. The choice
and the ranges are stored in the vectors file."""

_EPILOG = """\
examples:
  steerkit layers
  steerkit layers --by gradient --no-sweep
  steerkit layers --model MODEL --vectors out/mine.safetensors --traces mine.jsonl \\
      --annotator rules --max-new-tokens 300 --batch-size 32
  steerkit layers --scores auroc,gradient,gain,effect,published --coefficient 0.1"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``layers`` to the commands."""
    parser = commands.add_parser(
        "layers",
        prog="steerkit layers",
        help="Choose the layer of every behaviour, and find how strong to steer.",
        usage="steerkit layers [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    add_model_options(parser)
    source = parser.add_argument_group("vectors and chains")
    source.add_argument(
        "--vectors",
        metavar="FILE",
        default=DEFAULT_VECTORS,
        help="The vectors file that steerkit extract wrote. Default: %(default)s.",
    )
    source.add_argument(
        "--traces",
        nargs="+",
        metavar="FILE",
        help="Annotated chains: the files that were extracted from, of which the select tasks are "
        "read; or reasoning or countdown, as for steerkit extract. Default: the one of these two "
        "that fits --model.",
    )
    source.add_argument(
        "--tasks",
        metavar="FILE",
        help="A tasks file (or countdown, or reasoning) whose select tasks chains are written for. "
        "Default: the prompts of the chains.",
    )
    scoring = parser.add_argument_group("scores")
    scoring.add_argument(
        "--scores",
        type=_scores,
        default=("gradient", "auroc"),
        metavar="LIST",
        help="Cheap scores, separated by commas: auroc, gradient, gain, effect, published. "
        "Default: gradient,auroc.",
    )
    scoring.add_argument(
        "--no-sweep",
        action="store_true",
        help="Write no chains with every layer steered, and choose by a cheap score.",
    )
    scoring.add_argument(
        "--by",
        metavar="SCORE",
        help="The score to choose by. Default: sweep, or with --no-sweep the first of --scores.",
    )
    scoring.add_argument(
        "--coefficient",
        type=float,
        default=0.2,
        metavar="C",
        help="How strong the layers are steered, in the unit of the vectors: mean norms, or norms "
        "of the mean until steerkit calibrate. Default: %(default)s.",
    )
    scoring.add_argument(
        "--layers", type=layers, metavar="LAYERS", help="Layers to score, such as 3,5-9."
    )
    scoring.add_argument(
        "--count",
        type=positive,
        default=32,
        metavar="N",
        help="Select tasks that chains are written for. Default: %(default)s.",
    )
    scoring.add_argument(
        "--annotator",
        metavar="NAME",
        help="Who labels the chains that are written: grammar, the exact annotator of the bundled "
        "models; rules or classifier, for plain English; or a file, of rules (TOML) or a saved "
        "classifier (safetensors). Default: the one of these that labelled the chains which the "
        "vectors are of, or else grammar for the bundled models and classifier for any other.",
    )
    scoring.add_argument(
        "--batch-size",
        type=positive,
        default=256,
        metavar="N",
        help="Chains that are written side by side. Less needs less memory. Default: %(default)s.",
    )
    scoring.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="Cut a chain off after so many tokens. Default: as steerkit generate does.",
    )
    scoring.add_argument(
        "--no-ranges",
        action="store_true",
        help="Do not look for the fluent and the free range of coefficients.",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE",
        help="The vectors file to write. Default: --vectors, which is replaced.",
    )
    output.add_argument(
        "--figure",
        metavar="FILE",
        help="The figure (png, svg or pdf). Default: --out with the ending .layers.png.",
    )
    output.add_argument("--json", action="store_true", help="Print one JSON object, no tables.")
    add_verbosity(parser)


def _scores(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in CHEAP:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(CHEAP)}, found {name!r}")
    return names


def run(arguments: argparse.Namespace) -> None:
    """Score, choose, find ranges, write, show."""
    out = Path(arguments.out or arguments.vectors)
    figure = Path(arguments.figure or out.with_suffix(".layers.png"))
    for path in (out, figure):
        check_output(path)
    wanted = (*arguments.scores, *(() if arguments.no_sweep else ("sweep",)))
    by = arguments.by or wanted[-1 if "sweep" in wanted else 0]
    if by not in wanted:
        raise ExtractionError(f"layers are not scored by {by!r}", expected=", ".join(wanted))
    with status("reading vectors and chains"):
        from steerkit.layer_choice.choice import choose_layers, select_tasks, with_ranges
        from steerkit.layer_choice.scores import joined, score_layers
        from steerkit.vectors_file import read_vectors

        vectors = read_vectors(arguments.vectors)
        traces, _ = read_chains(chain_names(arguments))
        named = [task for task in read_prompts([], arguments.tasks) if isinstance(task, Task)]
        tasks: list[Task] = []
        if "sweep" in wanted or not arguments.no_ranges:
            tasks = select_tasks(vectors, traces, named, arguments.count)
        if "sweep" in wanted and len(tasks) < 2:
            raise ExtractionError(
                "one select task gives a causal sweep no interval",
                expected="two select tasks or more",
                found=count(len(tasks), "task"),
                fix="allow more (--count), name a file with more (--tasks), or --no-sweep",
            )
        annotator = _annotator(arguments.annotator, vectors, arguments.model)
    model = load_model(arguments)
    options = {
        "max_new_tokens": arguments.max_new_tokens,
        "batch_size": arguments.batch_size,
    }
    common: dict[str, Any] = {"coefficient": arguments.coefficient, "layers": arguments.layers}
    with progress("scoring layers", "steps") as report:
        scores = score_layers(
            model, vectors, traces, scores=arguments.scores, progress=report, **common
        )
    if "sweep" in wanted:
        with progress("steering every layer", "chains") as report:
            swept = score_layers(
                model,
                vectors,
                traces,
                scores=("sweep",),
                tasks=tasks,
                annotate=annotator,
                progress=report,
                **common,
                **options,
            )
        scores = joined([scores, swept])
    facts = {"coefficient": arguments.coefficient, "tasks": len(tasks)}
    choice = choose_layers(vectors, scores, by, facts)
    if not arguments.no_ranges:
        with status("looking for the fluent range"):
            choice = with_ranges(choice, model, tasks, annotator, **options)
    choice.vectors.save(out)
    with status("drawing"):
        from steerkit.layer_plot import plot_layer_scores
        from steerkit.plots import save_figure
        from steerkit.vectors import weaknesses

        caption = f"{model.name}, {count(len(tasks), 'select task')}, step {arguments.coefficient}."
        weak = weaknesses(choice.vectors)
        drawn = plot_layer_scores(scores, choice.layers, score=by, caption=caption, weak=weak)
        save_figure(drawn, figure)
    if arguments.json:
        summary = _summary(scores, choice, out, figure, annotator.name if tasks else None)
        summary["traces"] = chain_names(arguments)
        print(json.dumps(summary, allow_nan=False))
        return
    _show(scores, choice, vectors)
    console = stdout()
    if tasks:
        console.print(f"Labels:  by {annotator.name}", markup=False, soft_wrap=True)
    note = chains_note(arguments)
    console.print(note, markup=False, soft_wrap=True)
    console.print(f"Vectors: {out}", markup=False, soft_wrap=True)
    console.print(f"Figure:  {figure}", markup=False, soft_wrap=True)


def _show(scores: pd.DataFrame, choice: LayerChoice, before: SteeringVectors) -> None:
    console = stdout()
    names = list(dict.fromkeys(scores.score))
    for behavior, part in scores.groupby("behavior", sort=False):
        by_score = {name: part[part.score == name].set_index("layer") for name in names}
        rows = []
        for layer in sorted(set(part.layer)):
            cells = [f"{layer}" + (" *" if choice.layers.get(str(behavior)) == layer else "")]
            for name in names:
                row = by_score[name].loc[layer] if layer in by_score[name].index else None
                cells.append(
                    "-"
                    if row is None
                    else f"{number(row.value, 3)} ({number(row.low, 3)} to {number(row.high, 3)})"
                )
            rows.append(cells)
        weak = choice.vectors[str(behavior)].weakness
        console.print(f"\n{behavior}{'*' * bool(weak)}", markup=False, style="bold")
        console.print(table(["layer", *names], rows))
    console.print()
    for name in (n for n in before if n in set(scores.behavior)):
        line = f"{name}: {_found(name, scores, choice, before[name].layer)}"
        ranges = choice.ranges.get(name)
        if ranges is not None:
            line += f". Fluent from {ranges.fluent.low:+g} to {ranges.fluent.high:+g}"
            if ranges.free is not None:
                line += f", accuracy kept from {ranges.free.low:+g} to {ranges.free.high:+g}"
        if weak := choice.vectors[name].weakness:
            line += f". * Not to be trusted yet: {weak}"
        console.print(line + ".", markup=False, soft_wrap=True)


def _found(name: str, scores: pd.DataFrame, choice: LayerChoice, before: int | None) -> str:
    """The layer of a behaviour and why it is that, or why there is none."""
    if name not in choice.layers:
        why = "raised at no layer" if choice.score == "sweep" else "not scored"
        kept = "it has no layer" if before is None else f"it keeps layer {before}"
        return f"{why} by {choice.score}; {kept}"
    layer, mine = choice.layers[name], scores[scores.behavior == name]
    value = mine[(mine.score == choice.score) & (mine.layer == layer)].iloc[0].value
    line = f"layer {layer}, where {choice.score} is largest ({value:.3f})"
    return line + ("" if before == layer else f"; it was {'none' if before is None else before}")


def _annotator(named: str | None, vectors: SteeringVectors, model: str) -> Annotator:
    """The one that was named, or the bundled one that labelled the chains of the vectors.

    Where people or others labelled them, as the bundled chains in plain English: the classifier,
    which is fitted on those, and for chains of the bundled models the grammar.
    """
    from steerkit.annotation import ANNOTATORS, find_annotator

    if named is not None:
        return find_annotator(named)
    before = vectors.provenance.get("annotators", [])
    kind = str(before[0]).partition("@")[0] if len(before) == 1 else ""
    if kind in ANNOTATORS:
        found = find_annotator(kind)
        if found.name in before:
            return found
    return find_annotator("grammar" if is_bundled(model) else "classifier")


def _summary(
    scores: pd.DataFrame, choice: LayerChoice, out: Path, figure: Path, annotator: str | None
) -> dict[str, Any]:
    columns = ["behavior", "layer", "score", "value", "low", "high"]
    rows = scores[columns].to_dict("records")
    return {
        "vectors": str(out),
        "figure": str(figure),
        "score": choice.score,
        "annotator": annotator,
        "layers": dict(choice.layers),
        "notes": {name: d.weakness for name, d in choice.vectors.items()},
        "ranges": {
            name: {"fluent": list(r.fluent), "free": None if r.free is None else list(r.free)}
            for name, r in choice.ranges.items()
        },
        "scores": [
            {k: clean(v) if k in ("value", "low", "high") else v for k, v in row.items()}
            for row in rows
        ],
    }
