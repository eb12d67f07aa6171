"""``steerkit generate``: chains of a model, steered or not, shown side by side."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.chains import print_json, print_summary, print_traces, verdict
from steerkit.cli.parser import DEFAULT_VECTORS, add_model_options, add_verbosity, positive
from steerkit.cli.screen import progress, status, stdout
from steerkit.cli.sources import check_output, load_model, read_prompts
from steerkit.cli.steer import Variant, steer_option, step_window, variants
from steerkit.errors import GenerationError

if TYPE_CHECKING:
    from steerkit.models import ThinkingModel
    from steerkit.tasks import Task
    from steerkit.traces import Traces
    from steerkit.vectors import SteeringVectors

# of steerkit.places, steerkit.vectors, steerkit.terms and steerkit.stopping, without importing
# torch for them; the first is the default
WHERES = ("all", "prompt", "generated", "think", "answer", "sentences")
UNITS = ("norm", "paper", "raw", "one")
OPERATORS = ("add", "ablate", "center", "rotate")
UNTILS = ("end", "think", "answer")
SHOWN = 10
"""Prompts whose chains are all shown; of more, with --out, only the summary is."""

_log = logging.getLogger(__name__)

_DESCRIPTION = """\
Let the model think about prompts, with behaviours turned up or down.

Every --steer adds a behaviour's direction to the residual stream while the model reads
and writes. A coefficient of 1 is as long as the mean norm of that layer; effects usually
show between 0.1 and 0.3, and much more turns the text to noise. The same seed gives the
same randomness under every coefficient, so differences are due to steering."""

_EPILOG = """\
examples:
  steerkit generate "Use 3, 7, 8 to make 29."
  steerkit generate "Use 3, 7, 8 to make 29." --steer backtracking=-0.4,-0.2,0,0.2,0.4
  steerkit generate "Use 3, 7, 8 to make 29." --steer backtracking=-0.3 \\
      --steer uncertainty=0.2@4 --where think --stream
  steerkit generate --tasks tasks.jsonl --samples 4 --out out/chains.jsonl"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``generate`` to the commands."""
    parser = commands.add_parser(
        "generate",
        prog="steerkit generate",
        help="Let the model think about prompts, steered or not.",
        usage='steerkit generate "PROMPT"... [options]',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="What the model is asked; put each in quotes. The model's chat template is applied.",
    )
    parser.add_argument(
        "--tasks",
        metavar="FILE",
        help="A tasks file (JSON lines with id and prompt), or countdown for the bundled tasks. "
        "Its prompts come after those typed.",
    )
    add_model_options(parser)
    steering = parser.add_argument_group("steering")
    steering.add_argument(
        "--steer",
        action="append",
        default=[],
        type=steer_option,
        metavar="NAME=COEFFICIENT[,...][@LAYER[,...]]",
        help="Turn a behaviour up (positive) or down (negative), at its suggested layer or at the "
        "layers named after @. Can be given several times. One of them may have a list of "
        "coefficients: every prompt is then answered once for each, side by side, and the other "
        "terms apply to all. Without --steer the model is left as it is.",
    )
    steering.add_argument(
        "--vectors",
        metavar="FILE",
        help=f"The vectors file that steerkit extract wrote. Default: {DEFAULT_VECTORS}.",
    )
    steering.add_argument(
        "--where",
        choices=WHERES,
        help="Which tokens are steered, by the token that a position predicts: those of the "
        "prompt, of the thinking section, of the answer, the first of every sentence of the "
        f"thinking section, all that are generated, or all. Default: {WHERES[0]}.",
    )
    steering.add_argument(
        "--steps",
        type=step_window,
        metavar="START-STOP",
        help="Steer only these steps of the response, such as 0-50 or 20- (instead of --where).",
    )
    steering.add_argument(
        "--operator",
        choices=OPERATORS,
        help="What a coefficient c does. add: push by c units along the direction; ablate: take "
        "the share c of the direction out; center: move the share c of the way to the direction's "
        "mean over thinking positions; rotate: turn by c degrees toward the direction, the length "
        f"kept. Default: {OPERATORS[0]}.",
    )
    steering.add_argument(
        "--unit",
        choices=UNITS,
        help="What a coefficient of 1 stands for. norm: the mean norm of the layer's activations; "
        "paper: the norm of their mean, as in Venhoff et al. 2025; raw: the difference of means "
        f"as it is; one: length 1. Default: {UNITS[0]}, but paper for imported vectors that are "
        "not calibrated.",
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="Cut a chain off after so many tokens. Default: 1024, or what the model's context "
        "leaves if that is less.",
    )
    sampling.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="Temperature of sampling; 0 always takes the likeliest token. Default: %(default)s.",
    )
    sampling.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="Sample only from the likeliest tokens that together hold this probability.",
    )
    sampling.add_argument(
        "--top-k", type=positive, metavar="K", help="Sample only from the K likeliest tokens."
    )
    sampling.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help="Sample only tokens that are at least P times as likely as the likeliest.",
    )
    sampling.add_argument(
        "--until",
        choices=UNTILS,
        default=UNTILS[0],
        help="Where a chain ends: at the model's own end, after its thinking section, or with the "
        "first line of its answer (or a closed \\boxed{...}). Default: %(default)s.",
    )
    sampling.add_argument(
        "--thinking-budget",
        type=positive,
        metavar="N",
        help="Cut the thinking off after so many tokens.",
    )
    sampling.add_argument(
        "--force-answer",
        action="store_true",
        help="With --thinking-budget: close the thinking section for the model and let it answer, "
        "instead of cutting the chain off.",
    )
    sampling.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="Seed of the randomness; the same seed gives the same chain. Default: %(default)s.",
    )
    sampling.add_argument(
        "--samples",
        type=positive,
        default=1,
        metavar="N",
        help="Chains for every prompt and coefficient. Default: %(default)s.",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE",
        help="Also write the chains to a traces file (JSON lines), for steerkit annotate. With "
        f"more than {SHOWN} prompts only a summary is then shown.",
    )
    shown = output.add_mutually_exclusive_group()
    shown.add_argument(
        "--stream",
        action="store_true",
        help="Print the tokens as they come. For a single chain only.",
    )
    shown.add_argument(
        "--json",
        action="store_true",
        help="Print a JSON array of the chains, in the format of a traces file and in order: by "
        "prompt, then coefficient, then sample. Each says how it was steered under "
        "metadata.steering.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Generate, write the chains, show them."""
    if arguments.out is not None:
        check_output(Path(arguments.out))
    prompts = read_prompts(arguments.prompts, arguments.tasks)
    if not prompts:
        raise GenerationError(
            "no prompt to answer",
            expected="a prompt in quotes, or --tasks FILE",
            fix='for example: steerkit generate "Use 3, 7, 8 to make 29."',
        )
    vectors = _vectors(arguments)
    ways = [Variant("unsteered", None)]
    if vectors is not None:
        ways = variants(arguments.steer, vectors, **_placed(arguments))
    rows = len(prompts) * len(ways) * arguments.samples
    if arguments.stream and rows > 1:
        raise GenerationError(
            "--stream shows a single chain",
            expected="one prompt, one coefficient, one sample",
            found=f"{rows} chains",
            fix="leave --stream away to see them side by side",
        )
    model = load_model(arguments)
    if vectors is not None:
        vectors.check(model)
    _warn_of_unknown_words(model, prompts)
    traces = _generate(arguments, model, prompts, ways)
    if traces.interrupted:
        # sides cannot be told apart when some are missing: what is there is kept, no more
        if arguments.out is not None:
            from steerkit.traces import write_traces

            write_traces(traces, arguments.out)
            _log.warning("interrupted: %d of %d chains in %s", len(traces), rows, arguments.out)
        raise KeyboardInterrupt
    if arguments.out is not None:
        from steerkit.traces import write_traces

        write_traces(traces, arguments.out)
    if arguments.json:
        print_json(traces)
        return
    console = stdout()
    if arguments.stream:
        print()
        console.print(verdict(traces[0]))
    elif arguments.out is None or len(prompts) <= SHOWN:
        print_traces(console, traces, [way.title for way in ways], arguments.samples)
    if len(prompts) * arguments.samples > 1:
        print_summary(console, traces, [way.title for way in ways], arguments.samples)
    if arguments.out is not None:
        console.print(f"Chains: {arguments.out}", markup=False, soft_wrap=True)


def _vectors(arguments: argparse.Namespace) -> SteeringVectors | None:
    if not arguments.steer:
        for option in ("vectors", "where", "unit", "steps", "operator"):
            if getattr(arguments, option) is not None:
                _log.warning("--%s does nothing without --steer", option)
        return None
    with status("reading vectors"):
        from steerkit.vectors_file import read_vectors

        return read_vectors(arguments.vectors or DEFAULT_VECTORS)


def _placed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where, in which unit and how every term acts."""
    from steerkit.places import Steps

    if arguments.steps is not None and arguments.where is not None:
        raise GenerationError("--steps says where already", fix="leave --where away")
    where = arguments.where or WHERES[0]
    return {
        "where": where if arguments.steps is None else Steps(*arguments.steps),
        "unit": arguments.unit,
        "operator": arguments.operator or OPERATORS[0],
    }


def _generate(
    arguments: argparse.Namespace,
    model: ThinkingModel,
    prompts: Sequence[str | Task],
    ways: Sequence[Variant],
) -> Traces:
    options: dict[str, Any] = {
        # each prompt once for every way, all rows in one batch
        "steer": [way.terms for _ in prompts for way in ways],
        "samples": arguments.samples,
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "top_k": arguments.top_k,
        "min_p": arguments.min_p,
        "seed": arguments.seed,
        "until": arguments.until,
        "thinking_budget": arguments.thinking_budget,
        "force_answer": arguments.force_answer,
    }
    repeated = [prompt for prompt in prompts for _ in ways]
    if arguments.stream:
        return model.generate(
            repeated, on_token=lambda row, step, piece: print(piece, end="", flush=True), **options
        )
    with progress("generating", "chains") as report:
        return model.generate(repeated, progress=report, **options)


def _warn_of_unknown_words(model: ThinkingModel, prompts: Sequence[str | Task]) -> None:
    from steerkit.models import unknown_words

    texts = [prompt if isinstance(prompt, str) else prompt.prompt for prompt in prompts]
    unknown = dict.fromkeys(word.strip() for text in texts for word in unknown_words(model, text))
    if unknown:
        _log.warning(
            "%s does not know these words of the prompts and cannot read them: %s",
            model.name,
            ", ".join(map(repr, unknown)),
        )
