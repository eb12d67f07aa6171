"""``steerkit agree``: two annotations of the same chains, compared."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from steerkit.cli.parser import add_declare_option, add_verbosity, positive
from steerkit.cli.screen import status, stdout
from steerkit.cli.sources import declare_all, load_tokenizer, read_chains
from steerkit.cli.tables import MISSING, count, number, table
from steerkit.errors import ResourceError

if TYPE_CHECKING:
    from steerkit.annotation import Agreement
    from steerkit.annotation.agreement import Tokenize

_DESCRIPTION = """\
How far two annotations of the same chains agree: Cohen's kappa, F1 of every label, and
which labels are taken for which.

A is what B is measured by. Chains are matched by their ids. Text that is unparsed or in no
span counts as unparsed; where neither labels anything it is left out."""

_EPILOG = """\
the tables, with 95 % intervals over tasks:
  kappa        agreement beyond chance: 1 is perfect, 0 is chance
  macro F1     mean F1 over A's labels
  labelled     over what both label, so that abstaining costs nothing
  coverage     how much of what A labels B labels as well

examples:
  steerkit annotate chains.jsonl --annotator rules --out rules.jsonl
  steerkit agree chains.jsonl rules.jsonl
  steerkit agree chains.jsonl rules.jsonl --unit tokens --tokenizer MODEL_FOLDER"""

_NAMES = {
    "kappa": "kappa",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "kappa_labelled": "kappa, labelled",
    "accuracy_labelled": "accuracy, labelled",
    "coverage": "coverage",
}


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``agree`` to the commands."""
    parser = commands.add_parser(
        "agree",
        prog="steerkit agree",
        help="Compare two annotations of the same chains.",
        usage="steerkit agree A B [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("a", metavar="A", help="Annotated chains: a traces file or tagged text.")
    parser.add_argument("b", metavar="B", help="The same chains, labelled by somebody else.")
    parser.add_argument(
        "--unit",
        action="append",
        choices=("sentences", "spans", "characters", "tokens"),
        help="What is compared one by one; can be given several times. spans: those of A, for an "
        "annotator that was given their bounds; characters: those other than white space; "
        "tokens: those of --tokenizer. Default: sentences and characters.",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="Whose tokens to compare: a bundled model, a folder, or a name on the Hugging Face "
        "Hub.",
    )
    add_declare_option(parser)
    parser.add_argument(
        "--resamples",
        type=positive,
        default=2000,
        metavar="N",
        help="Bootstrap resamples of the tasks behind the intervals. Default: %(default)s.",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of the tables: annotators, counts, summary, labels "
        "and confusion.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Compare the two files; print tables or the JSON object."""
    declare_all(arguments.declare)
    units = list(dict.fromkeys(arguments.unit or ("sentences", "characters")))
    if ("tokens" in units) != bool(arguments.tokenizer):
        raise ResourceError(
            "tokens are compared with --unit tokens and --tokenizer together",
            fix="give both, or neither",
        )
    with status("comparing"):
        from steerkit.annotation import agree

        tokenize = _tokenizer(arguments.tokenizer) if arguments.tokenizer else None
        (a, lost_a), (b, lost_b) = (read_chains([path]) for path in (arguments.a, arguments.b))
        found = agree(a, b, units=units, tokenize=tokenize, resamples=arguments.resamples)
    if arguments.json:
        unplaced = {"unplaced": {"a": len(lost_a), "b": len(lost_b)}}
        print(json.dumps({**found.to_json(), **unplaced}, allow_nan=False))
        return
    console = stdout()
    for unit in units:
        console.print(f"{unit}", style="bold")
        for part in (_summary(found, unit), _labels(found, unit), _confusion(found, unit)):
            console.print(part)
            console.print()
    facts = found.counts
    console.print(
        f"A: {arguments.a} ({found.annotators[0]}). B: {arguments.b} ({found.annotators[1]}).",
        markup=False,
        soft_wrap=True,
    )
    left_out = ", ".join(f"{n:,} {unit}" for unit, n in facts["unlabelled"].items())
    console.print(
        f"{count(facts['chains'], 'chain')} of {count(facts['tasks'], 'task')} in both, "
        f"{facts['only_a']:,} only in A, {facts['only_b']:,} only in B; "
        f"left out because neither labels them: {left_out}; tagged parts that could not be "
        f"placed: {len(lost_a):,} of A, {len(lost_b):,} of B",
        markup=False,
        soft_wrap=True,
    )


def _tokenizer(name: str) -> Tokenize:
    tokenizer = load_tokenizer(name)

    def tokenize(text: str) -> list[tuple[int, int]]:
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [(int(first), int(last)) for first, last in encoded["offset_mapping"]]

    return tokenize


def _summary(found: Agreement, unit: str) -> Any:
    rows = found.summary[found.summary["unit"] == unit].to_dict("records")
    return table(
        ("measure", "value", "low", "high", "units"),
        [
            (
                _NAMES[str(row["measure"])],
                *(number(row[key]) for key in ("value", "low", "high")),
                f"{row['count']:,}",
            )
            for row in rows
        ],
    )


def _labels(found: Agreement, unit: str) -> Any:
    rows = found.labels[found.labels["unit"] == unit].to_dict("records")
    numbers = ("precision", "recall", "f1", "f1_low", "f1_high")
    return table(
        ("label", "in A", "in B", "precision", "recall", "F1", "low", "high"),
        [
            (
                str(row["label"]),
                f"{row['count_a']:,}",
                f"{row['count_b']:,}",
                *(number(row[key]) for key in numbers),
            )
            for row in rows
        ],
    )


def _confusion(found: Agreement, unit: str) -> Any:
    matrix = found.matrix(unit)
    return table(
        ("A below, B beside", *(_short(str(name)) for name in matrix.columns)),
        [
            (str(name), *(f"{int(n):,}" if n else MISSING for n in row))
            for name, row in zip(matrix.index, matrix.to_numpy(), strict=True)
        ],
    )


def _short(label: str) -> str:
    """The first part of a label's name, so that a matrix fits on a screen."""
    return label.split("-")[0][:11]
