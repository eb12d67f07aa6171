"""The options of the annotator judge, what it will cost and what it did, on the screen."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from steerkit.behaviors import behavior
from steerkit.cli.parser import positive
from steerkit.cli.screen import stderr
from steerkit.cli.sources import UNDEFINED
from steerkit.cli.tables import count, table
from steerkit.errors import AnnotationError

if TYPE_CHECKING:
    from rich.console import Console

    from steerkit.annotation import Judge
    from steerkit.annotation.judge_cost import Estimate
    from steerkit.traces import Traces

# by the names of the judge's attributes
_PASSED = {
    "base_url": "base_url",
    "key_variable": "key_variable",
    "judge_behaviors": "behaviors",
    "sentences": "sentences",
    "context": "context",
    "max_tokens": "max_tokens",
    "concurrency": "concurrency",
    "requests_per_minute": "requests_per_minute",
    "tokens_per_minute": "tokens_per_minute",
    "timeout": "timeout",
    "attempts": "attempts",
    "cache": "cache",
}
_OTHERS = ("judge_model", "temperature", "price", "no_cache", "yes", "dry_run")
_FAILURES_SHOWN = 10


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Everything about the language model that is asked, and about asking it."""
    group = parser.add_argument_group("judge: a language model behind an OpenAI-compatible address")
    group.add_argument(
        "--judge-model", metavar="NAME", help="The model to ask, by the name that its server knows."
    )
    group.add_argument(
        "--base-url",
        metavar="URL",
        help="Address of the server, mostly ending in /v1: of vLLM, Ollama, llama.cpp or a "
        "service. Default: the environment variable OPENAI_BASE_URL, else OpenAI's.",
    )
    group.add_argument(
        "--key-variable",
        metavar="NAME",
        help="Environment variable that holds the key, which is never written anywhere. Default: "
        "OPENAI_API_KEY, but no key at all where --base-url is given.",
    )
    group.add_argument(
        "--judge-behaviors",
        nargs="+",
        metavar="NAME",
        help="Behaviours to choose from. Default: all that are built in or declared.",
    )
    group.add_argument(
        "--price",
        nargs=2,
        type=_amount,
        metavar=("PROMPT", "ANSWER"),
        help="What a million tokens of prompts and of answers cost, in your currency, so that the "
        "cost can be told.",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="Show what it would take, ask nothing, and stop."
    )
    group.add_argument(
        "--yes", action="store_true", help="Begin without asking back; needed without a terminal."
    )
    group.add_argument(
        "--sentences",
        type=positive,
        metavar="N",
        help="Most sentences to a request; longer chains are sent in parts. Default: 50.",
    )
    group.add_argument(
        "--context",
        type=_whole,
        metavar="N",
        help="Sentences before a part that are shown with it, and half as many behind. Default: 8.",
    )
    group.add_argument(
        "--temperature",
        type=_temperature,
        metavar="T",
        help="Sampling temperature; none sends no temperature. Default: 0.",
    )
    group.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help="Limit of an answer's tokens. Default: none of ours.",
    )
    group.add_argument(
        "--concurrency", type=positive, metavar="N", help="Requests under way at once. Default: 4."
    )
    group.add_argument(
        "--requests-per-minute",
        type=_amount,
        metavar="N",
        help="Most requests a minute. Default: no limit but what the server asks for.",
    )
    group.add_argument(
        "--tokens-per-minute",
        type=_amount,
        metavar="N",
        help="Most tokens a minute, prompts and answers, as estimated. Default: no limit.",
    )
    group.add_argument(
        "--timeout",
        type=_amount,
        metavar="SECONDS",
        help="Seconds without a sign of the server after which a request has failed. Default: 120.",
    )
    group.add_argument(
        "--attempts",
        type=positive,
        metavar="N",
        help="How often a request is sent until a reply comes, with growing pauses. Default: 6.",
    )
    group.add_argument(
        "--cache",
        metavar="FOLDER",
        help="Where answers are kept, by content, so that nothing is asked twice and a killed run "
        "goes on. Default: steerkit/answers in the user's folder of caches.",
    )
    group.add_argument("--no-cache", action="store_true", help="Neither use nor keep answers.")


def given_options(arguments: argparse.Namespace) -> list[str]:
    """The judge's options that were given, as they are typed."""
    names = (*_PASSED, *_OTHERS)
    return [
        f"--{name.replace('_', '-')}"
        for name in names
        if getattr(arguments, name) is not None and getattr(arguments, name) is not False
    ]


def judge_from(arguments: argparse.Namespace) -> Judge:
    """The judge that the options describe."""
    from steerkit.annotation import Judge, Price

    if not arguments.judge_model:
        raise AnnotationError(
            "the judge is a language model, and none is named",
            fix="name it with --judge-model, and its server with --base-url",
        )
    if arguments.cache and arguments.no_cache:
        raise AnnotationError("--cache and --no-cache exclude each other")
    options = {
        name: getattr(arguments, option)
        for option, name in _PASSED.items()
        if getattr(arguments, option) is not None
    }
    if arguments.no_cache:
        options["cache"] = False
    if arguments.temperature is not None:
        options["temperature"] = None if arguments.temperature == "none" else arguments.temperature
    if arguments.price:
        options["price"] = Price(*arguments.price)
    judge = Judge(arguments.judge_model, **options)
    for name in judge.labels:
        if behavior(name).definition == UNDEFINED:
            raise AnnotationError(
                f"the judge cannot know what {name} means",
                fix=f"define it: --declare {name}='DEFINITION', or leave it out of those to choose "
                "from with --judge-behaviors",
            )
    return judge


def agreed(arguments: argparse.Namespace, judge: Judge, chains: Traces) -> bool:
    """Show what it will take and have it confirmed; ``False`` after a dry run.

    Raises :class:`AnnotationError` where the answer is no, and where nobody can be asked and
    ``--yes`` is not given.
    """
    found = judge.estimate(chains, keep=arguments.keep_spans)
    if arguments.dry_run and arguments.json:
        print(json.dumps({"annotator": judge.name, **found.to_json()}))
        return False
    if arguments.dry_run or not arguments.quiet or not arguments.yes:
        _show_estimate(stderr(), judge, found)
    if arguments.dry_run:
        return False
    if not found.requests or arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise AnnotationError(
            f"{count(found.requests, 'request')} would be sent, and nobody can be asked",
            fix="add --yes to begin, or --dry-run to see the estimate alone",
        )
    print("Begin? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AnnotationError("nothing was sent")
    return True


def show_report(console: Console, judge: Judge) -> None:
    """What became of a run: requests, tokens, cost, and sentences without a label."""
    report = judge.report
    said = [
        count(report.requests, "request"),
        f"{report.cached:,} of {report.pieces:,} kept before",
    ]
    if report.requests:
        said.append(f"{report.prompt_tokens:,} + {report.answer_tokens:,} tokens")
        if report.cost is not None:
            said.append(f"cost {report.cost:,.4f}")
        if report.malformed:
            said.append(count(report.malformed, "unusable answer"))
    console.print("; ".join(said), markup=False, soft_wrap=True)
    others = [name for name in report.served if name != judge.model]
    if others:
        console.print(f"Answered by {', '.join(others)}", markup=False, soft_wrap=True)
    for failure in report.failures[:_FAILURES_SHOWN]:
        console.print(f"left unparsed: {failure}", markup=False, soft_wrap=True)
    more = len(report.failures) - _FAILURES_SHOWN
    if more > 0:
        console.print(f"... and {count(more, 'part')} more", markup=False, soft_wrap=True)
    if report.failures:
        console.print("The same command asks for these again, and for nothing else.")


def _show_estimate(console: Console, judge: Judge, found: Estimate) -> None:
    cost = "unknown: give --price" if found.cost is None else f"{found.cost:,.4f}"
    rows = [
        ("chains", f"{found.chains:,}"),
        ("sentences", f"{found.sentences:,}"),
        ("requests to send", f"{found.requests:,}"),
        ("answers kept already", f"{found.cached:,}"),
        ("prompt tokens, about", f"{found.prompt_tokens:,}"),
        ("answer tokens, about", f"{found.answer_tokens:,}"),
        ("cost, about", cost),
    ]
    console.print(table((judge.name, ""), rows))
    console.print(f"Based on {found.basis}.", soft_wrap=True, markup=False)


def _amount(text: str) -> float:
    """An argument that is a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, found {text!r}")
    return value


def _whole(text: str) -> int:
    """An argument that is a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text!r}")
    return int(text)


def _temperature(text: str) -> float | str:
    """An argument that is a number of at least 0, or the word none."""
    return text if text == "none" else _amount(text)
