"""``steerkit annotate``: chains in, the same chains with labelled spans out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.behaviors import UNPARSED, behaviors
from steerkit.cli.chains import print_json
from steerkit.cli.judging import add_judge_options, agreed, given_options, judge_from, show_report
from steerkit.cli.parser import add_declare_option, add_verbosity, positive
from steerkit.cli.screen import progress, say, status, stderr, stdout
from steerkit.cli.sources import chain_file, check_output, declare_all, read_chains
from steerkit.cli.tables import count, percent, table
from steerkit.errors import AnnotationError

if TYPE_CHECKING:
    from rich.console import Console

    from steerkit.annotation import Annotator
    from steerkit.traces import Traces

_DESCRIPTION = """\
Label the sentences of reasoning chains with behaviours.

The annotator grammar is exact: it knows every sentence of the chains that the bundled
models were trained on, and nothing else. rules and classifier label plain English:
rules by marker phrases from a file that you can read and edit, classifier by a model of
words and context that is fitted on labelled chains. What an annotator does not know gets
the label unparsed and is never guessed at."""

_EPILOG = """\
examples:
  steerkit generate --tasks countdown --out out/chains.jsonl
  steerkit annotate out/chains.jsonl
  steerkit annotate chains.jsonl --annotator classifier --threshold 0.6
  steerkit annotate chains.jsonl --annotator classifier --fit labelled.jsonl --save mine.safetensors
  steerkit annotate labelled.jsonl --annotator classifier --folds 10 --keep-spans --out again.jsonl
  steerkit annotate chains.jsonl --annotator judge --judge-model gpt-4.1-mini --price 0.40 1.60
  steerkit annotate chains.jsonl --annotator judge --judge-model qwen3:8b \\
      --base-url http://localhost:11434/v1 --yes
  steerkit agree labelled.jsonl again.jsonl --unit spans"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``annotate`` to the commands."""
    parser = commands.add_parser(
        "annotate",
        prog="steerkit annotate",
        help="Label the sentences of chains with behaviours.",
        usage="steerkit annotate FILE [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="Chains: a traces file (JSON lines), tagged text, a chat log or plain text.",
    )
    parser.add_argument(
        "--annotator",
        default="grammar",
        metavar="NAME",
        help="Who labels: grammar, the exact annotator of the bundled models' chains; rules, "
        "marker phrases; classifier, fitted on the bundled chains in plain English; judge, a "
        "language model; or a file, of rules (TOML) or a saved classifier (safetensors). "
        "Default: %(default)s.",
    )
    parser.add_argument(
        "--keep-spans",
        action="store_true",
        help="Label the spans that the chains have anew, instead of finding sentences. "
        "Not for grammar.",
    )
    add_declare_option(parser)
    fitting = parser.add_argument_group("classifier")
    fitting.add_argument(
        "--fit",
        nargs="+",
        metavar="FILE",
        help="Fit the classifier on these labelled chains (traces files or tagged text).",
    )
    fitting.add_argument(
        "--folds",
        type=positive,
        metavar="N",
        help="Cross-validate: fit on FILE itself, N times, and label every chain by a classifier "
        "that saw none of its task.",
    )
    fitting.add_argument(
        "--threshold",
        type=_share,
        metavar="P",
        help="Abstain, with the label unparsed, where no label has at least this probability, "
        "0 to 1. Default: that of the classifier, 0 for a new one.",
    )
    fitting.add_argument(
        "--save", metavar="FILE", help="Write the fitted classifier, in safetensors format."
    )
    add_judge_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE",
        help="The traces file to write; - prints it. Labels that were there before are replaced. "
        "Default: FILE with the ending .annotated.jsonl.",
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="Print the labelled chains as a JSON array; write a file only if --out names one. "
        "The table of counts then goes to stderr, as it does with --out -.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Annotate, write or print the chains, show what was found."""
    from steerkit.traces import write_traces

    _check(arguments)
    out = None
    if arguments.out not in (None, "-"):
        out = Path(arguments.out)
    elif arguments.out is None and not arguments.json:
        out = Path(arguments.file).with_suffix(".annotated.jsonl")
    _check_places(arguments, out)
    declare_all(arguments.declare)
    chains, unplaced = read_chains([arguments.file])
    judge = judge_from(arguments) if arguments.annotator == "judge" else None
    if judge is not None and not agreed(arguments, judge, chains):
        return
    try:
        traces = _annotated(arguments, chains, judge)
    except KeyboardInterrupt:
        if judge is not None and judge.cache is not False:
            say("answers that came are kept: the same command goes on from here")
        raise
    if out is not None:
        write_traces(traces, out)
    if arguments.json:
        print_json(traces)
    elif arguments.out == "-":
        for trace in traces:
            print(json.dumps(trace.to_json(), allow_nan=False))
    printed = arguments.json or arguments.out == "-"
    if printed and arguments.quiet:
        return
    console = stderr() if printed else stdout()
    _show_counts(console, traces)
    if unplaced and arguments.keep_spans:
        console.print(f"{count(len(unplaced), 'tagged part')} could not be placed")
    if arguments.annotator != "grammar" and len(traces):
        console.print(f"Annotator: {traces[0].annotator}", markup=False, soft_wrap=True)
    if judge is not None:
        show_report(console, judge)
    if arguments.save:
        console.print(f"Classifier: {arguments.save}", markup=False, soft_wrap=True)
    if out is not None:
        console.print(f"Chains: {out}", markup=False, soft_wrap=True)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    kind = Path(arguments.annotator).suffix or arguments.annotator
    classifier = kind in ("classifier", ".safetensors")
    wrong = [
        f"--{name}"
        for name in ("fit", "folds", "threshold", "save")
        if getattr(arguments, name) is not None and not classifier
    ]
    if arguments.annotator != "judge":
        wrong += given_options(arguments)
    if wrong:
        raise AnnotationError(
            f"{', '.join(wrong)}: not for the annotator {arguments.annotator}",
            fix="name another one with --annotator",
        )
    sources = [
        option
        for option, given in (
            (f"--annotator {arguments.annotator}", kind == ".safetensors"),
            ("--fit", arguments.fit),
            ("--folds", arguments.folds),
        )
        if given
    ]
    if len(sources) > 1:
        raise AnnotationError(f"{' and '.join(sources)} exclude each other")
    if arguments.save and not arguments.fit:
        raise AnnotationError("--save writes what --fit has fitted", fix="give --fit as well")


def _check_places(arguments: argparse.Namespace, out: Path | None) -> None:
    """Refuse to write over anything that is read, and two things into one file."""
    save = Path(arguments.save) if arguments.save else None
    read = {
        "the output would overwrite the chains that are read": [chain_file(arguments.file)],
        "the output would overwrite the labelled chains that the classifier is fitted on": [
            chain_file(name) for name in arguments.fit or ()
        ],
    }
    if Path(arguments.annotator).suffix:  # a file, and not a name
        read["the output would overwrite the annotator"] = [Path(arguments.annotator)]
    for option, written in (("--out", out), ("--save", save)):
        if written is None:
            continue
        for refusal, files in read.items():
            check_output(written, over=files, refusal=refusal, option=option)
    if out is not None and save is not None:
        refusal = "the classifier would overwrite the labelled chains"
        check_output(save, over=[out], refusal=refusal, option="--save")


def _annotated(
    arguments: argparse.Namespace, chains: Traces, annotator: Annotator | None = None
) -> Traces:
    from steerkit.annotation import annotate, cross_annotate

    if arguments.folds:
        with progress("fitting and labelling", "folds") as report:
            return cross_annotate(
                chains,
                folds=arguments.folds,
                threshold=arguments.threshold or 0.0,
                keep_spans=arguments.keep_spans,
                progress=report,
            )
    annotator = annotator or _annotator(arguments)
    with progress("labelling", "chains") as report:
        return annotate(chains, annotator, keep_spans=arguments.keep_spans, progress=report)


def _annotator(arguments: argparse.Namespace) -> Annotator:
    """The annotator that was asked for: bundled, from a file, or fitted now."""
    from steerkit.annotation import Classifier, find_annotator, fit_classifier

    if not arguments.fit:
        found = find_annotator(arguments.annotator)
        if isinstance(found, Classifier):
            return found.with_threshold(arguments.threshold)
        return found
    labelled, _ = read_chains(arguments.fit)
    with status("fitting the classifier"):
        fitted = fit_classifier(labelled, threshold=arguments.threshold or 0.0)
    if arguments.save:
        fitted.save(arguments.save)
    return fitted


def _share(text: str) -> float:
    """An argument that is a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


def _show_counts(console: Console, traces: Traces) -> None:
    counts = traces.counts()
    total = sum(counts.values())
    chains = {
        name: sum(any(span.label == name for span in trace.spans) for trace in traces)
        for name in counts
    }
    names = [b.name for b in behaviors() if b.name in counts]
    rows = [
        (
            name,
            f"{counts.get(name, 0):,}",
            percent(counts.get(name, 0), total),
            f"{chains.get(name, 0):,}",
        )
        for name in (*names, UNPARSED)
    ]
    console.print(table(("label", "spans", "share", "chains"), rows))
    without = sum(not trace.spans for trace in traces)
    console.print(
        f"\n{count(total, 'span')} in {count(len(traces), 'chain')}, {without:,} without any; "
        f"{percent(counts.get(UNPARSED, 0), total)} of spans unparsed"
    )
