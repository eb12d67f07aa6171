"""The options of ``steerkit evaluate``, and what is done where none is given."""

from __future__ import annotations

import argparse
from typing import Any

from steerkit.cli.generate import UNITS, WHERES
from steerkit.cli.parser import (
    DEFAULT_VECTORS,
    add_declare_option,
    add_model_options,
    add_verbosity,
    positive,
)

DEFAULT_FOLDER = "out/evaluation"
SMALL: dict[str, Any] = {
    "behavior": ["uncertainty-estimation", "example-testing", "backtracking"],
    "coefficients": [-0.3, -0.2, -0.1, 0.1, 0.2, 0.3],
    "count": 40,
    "control_tasks": 20,
    "random": 10,
    "shuffled": 10,
}
"""What is done unless more is asked for: minutes, and too few controls to be sure."""
FULL: dict[str, Any] = {
    "behavior": None,
    "coefficients": [-0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    "count": 240,
    "control_tasks": 120,
    "random": 39,
    "shuffled": 39,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """All options of ``steerkit evaluate``."""
    add_model_options(parser)
    source = parser.add_argument_group("vectors, chains, tasks")
    source.add_argument(
        "--vectors",
        metavar="FILE",
        default=DEFAULT_VECTORS,
        help="The vectors file that steerkit extract wrote; ranges that are found are stored in "
        "it. If the default is not there, it is made of the bundled chains. Default: %(default)s.",
    )
    source.add_argument(
        "--traces",
        nargs="+",
        metavar="FILE",
        help="The annotated chains that the vectors were extracted from, for directions of "
        "shuffled labels; or reasoning or countdown, as for steerkit extract. Default: the one of "
        "these two that fits --model.",
    )
    source.add_argument(
        "--tasks",
        metavar="FILE",
        help="A tasks file, or a bundled one by name: its evaluate tasks, by the hash of their "
        "prompts, are evaluated on, ranges are found on its select tasks. Default: puzzles that "
        "the bundled model was not trained on; for any other model reasoning, the bundled tasks "
        "in plain English.",
    )
    add_declare_option(source)
    plan = parser.add_argument_group("what is written")
    plan.add_argument(
        "--full",
        action="store_true",
        help="Do everything: all behaviours, coefficients up to 0.6, 240 tasks, 39 random and 39 "
        "shuffled directions on 120 of them. The options below change single parts.",
    )
    plan.add_argument(
        "--behavior",
        action="append",
        metavar="NAME",
        help="Steer this behaviour; can be given several times. Default: "
        + ", ".join(SMALL["behavior"])
        + "; with --full all.",
    )
    plan.add_argument(
        "--coefficients",
        nargs="+",
        type=float,
        metavar="C",
        help="Coefficients of the curves. Default: 0.1, 0.2 and 0.3 of both signs.",
    )
    plan.add_argument(
        "--headline",
        nargs="+",
        type=_headline,
        metavar="C",
        help="Where claims are tested: one coefficient below zero and one above, such as -0.2 0.3, "
        "or for single behaviours backtracking=-0.2,0.3. Default: for each behaviour the largest "
        "coefficients at which text stays fluent, found on other tasks.",
    )
    plan.add_argument(
        "--find-range",
        action="store_true",
        help="Find how far text stays fluent although the vectors file knows.",
    )
    plan.add_argument(
        "--unit", choices=[u for u in UNITS if u != "raw"], help="Unit of coefficients."
    )
    plan.add_argument(
        "--where",
        choices=WHERES,
        default=WHERES[0],
        help="Which positions are steered, as for steerkit generate; controls are pushed at the "
        "same ones. Default: %(default)s.",
    )
    plan.add_argument(
        "--samples",
        type=positive,
        default=1,
        metavar="N",
        help="Chains for each task. Default: %(default)s.",
    )
    plan.add_argument("--count", type=positive, metavar="N", help="Tasks at most. Default: 40.")
    plan.add_argument(
        "--control-tasks",
        type=positive,
        metavar="N",
        help="Tasks that controls run on. Default: 20.",
    )
    for kind in ("random", "shuffled"):
        plan.add_argument(
            f"--{kind}",
            type=_whole,
            metavar="N",
            help=f"Directions of {'random numbers' if kind == 'random' else 'shuffled labels'} "
            "for each headline coefficient. Default: 10.",
        )
    plan.add_argument(
        "--no-prompt",
        action="store_true",
        help="Write no chains for prompts that ask for the behaviour.",
    )
    plan.add_argument(
        "--no-divergence",
        action="store_true",
        help="Do not measure KL to the unsteered model and perplexity.",
    )
    plan.add_argument(
        "--force",
        action="store_true",
        help="Use tasks that the vectors have seen; the report says so.",
    )
    judging = parser.add_argument_group("labelling and sampling")
    judging.add_argument(
        "--annotator",
        action="append",
        metavar="NAME",
        help="Who labels the chains: grammar, rules or classifier, or a file, of rules (TOML) or "
        "a saved classifier (safetensors); can be given several times. Default: grammar for the "
        "bundled models, else classifier and rules.",
    )
    judging.add_argument(
        "--seed", type=int, default=0, metavar="N", help="Seed of the noise. Default: %(default)s."
    )
    judging.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="Default: %(default)s."
    )
    judging.add_argument("--top-p", type=float, metavar="P", help="Default: 1.")
    judging.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="Cut a chain off after so many tokens. Default: as steerkit generate does.",
    )
    judging.add_argument(
        "--batch-size", type=positive, metavar="N", help="Chains that are written side by side."
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        default=DEFAULT_FOLDER,
        metavar="FOLDER",
        help="Where everything goes. Chains that are there already, under the same settings, are "
        "not written again. Default: %(default)s.",
    )
    output.add_argument("--no-report", action="store_true", help="Write no report.html.")
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of the table: folder, report, settings, verdicts.",
    )
    add_verbosity(parser)


def _headline(text: str) -> tuple[str, list[float]]:
    name, equals, numbers = text.rpartition("=")
    try:
        found = [float(part) for part in numbers.split(",")]
    except ValueError:
        found = []
    if not found or bool(equals) != bool(name):
        raise argparse.ArgumentTypeError(f"expected -0.3 or NAME=-0.3,0.3, found {text!r}")
    return name, found


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)
