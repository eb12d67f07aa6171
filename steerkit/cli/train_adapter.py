"""``steerkit train adapter``: a LoRA adapter that makes a chat model think."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.parser import above_zero, add_model_options, add_verbosity, positive
from steerkit.cli.sources import load_model, read_chains
from steerkit.resources import data

if TYPE_CHECKING:
    from collections.abc import Callable

BASE_MODEL = "Qwen/Qwen2.5-Coder-1.5B-Instruct"
CHAINS = ("traces/reasoning.jsonl", "traces/short.jsonl")

_log = logging.getLogger(__name__)

_DESCRIPTION = """\
Fit a LoRA adapter that makes a chat model think before it answers.

The adapter learns from chains of thought with their answers, so that the model also learns to
end its thinking. The weights of the model stay as they are: with the adapter and without
it they are a pair, one that thinks aloud and one that does not. Speed is measured first and
the time estimated; a 1.5B model takes about an hour on two cores that compute in bfloat16.
Every five minutes a checkpoint is written. After an interruption the same command goes on from
there, to the same weights."""

_EPILOG = """\
The adapter needs the package peft: pip install 'steerkit-thinking[adapter]'.

examples:
  steerkit train adapter --out out/adapter
  steerkit train adapter --model HuggingFaceTB/SmolLM2-135M-Instruct --minutes 10 --out out/adapter
  steerkit generate "How many odd numbers are below 40?" \\
      --model Qwen/Qwen2.5-Coder-1.5B-Instruct --adapter out/adapter"""


def add_recipe(recipes: Any, formatter: Any, add_machine: Callable[..., None]) -> None:
    """Add ``adapter`` to what can be trained; ``add_machine`` adds --threads and --fresh."""
    parser = recipes.add_parser(
        "adapter",
        prog="steerkit train adapter",
        help="A LoRA adapter on chains of thought: makes any chat model think.",
        usage="steerkit train adapter --out DIR [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="The folder that gets the adapter in peft's format, with its checkpoint, log.csv and "
        "training.png.",
    )
    add_model_options(parser, model=BASE_MODEL, adapter=False)
    chains = parser.add_argument_group("chains")
    chains.add_argument(
        "--traces",
        nargs="+",
        metavar="FILE",
        help="Chains with prompt, thinking section and answer, annotated or not: traces files, "
        "or tagged text. Default: the bundled chains in plain English, "
        + " and ".join(CHAINS)
        + ".",
    )
    chains.add_argument(
        "--longest",
        type=positive,
        metavar="N",
        help="Leave out chains of more tokens than this, prompt and answer included; they are "
        "counted. Default: 800.",
    )
    chains.add_argument(
        "--held-out",
        type=_count,
        metavar="N",
        help="Tasks kept out of the training, to measure the loss on before and after. Default: 8.",
    )
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--rank", type=positive, metavar="N", help="Rank of the LoRA matrices. Default: 8."
    )
    recipe.add_argument(
        "--targets",
        type=_names,
        metavar="NAME[,...]",
        help="Linear layers to adapt. Default: q_proj, k_proj, v_proj, o_proj, gate_proj and "
        "up_proj, as far as the model has them.",
    )
    recipe.add_argument(
        "--learning-rate", type=above_zero, metavar="R", help="The peak rate. Default: 0.0004."
    )
    recipe.add_argument(
        "--chains", type=positive, metavar="N", help="Chains in an optimizer step. Default: 4."
    )
    recipe.add_argument(
        "--passes", type=positive, metavar="N", help="Passes over the chains. Default: 2."
    )
    recipe.add_argument(
        "--steps", type=positive, metavar="N", help="Optimizer steps, instead of passes."
    )
    recipe.add_argument(
        "--minutes",
        type=above_zero,
        metavar="M",
        help="Cut the plan to what the measured speed allows in this time; how much is cut is "
        "said. Default: no limit.",
    )
    recipe.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="Tokens in one forward and backward pass. Less needs less memory. Default: 768 on a "
        "CPU, else 4096.",
    )
    recipe.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="Seed of the first matrices and of the order of the chains. Default: 0.",
    )
    recipe.add_argument(
        "--base-name",
        metavar="NAME",
        help="What the adapter calls its base, such as its name on the Hub. Default: the name of "
        "the model.",
    )
    add_machine(parser, device=False)
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train, logging a line a step on stderr."""
    from steerkit.adapters import import_peft
    from steerkit.cli.train import prepare

    import_peft()
    out = prepare(arguments)
    from steerkit.training.adapter import train_adapter
    from steerkit.training.adapter_config import AdapterConfig

    options = (
        *("longest", "held_out", "rank", "targets", "learning_rate", "chains", "passes"),
        *("steps", "batch_tokens", "seed"),
    )
    given = {n: getattr(arguments, n) for n in options if getattr(arguments, n) is not None}
    config = AdapterConfig(**given)
    chains, unplaced = read_chains(arguments.traces or [str(data(name)) for name in CHAINS])
    if unplaced:
        _log.info("%d tagged parts are no spans; the adapter needs none", len(unplaced))
    # a chat model that does not think yet has no think strings of its own
    arguments.think = arguments.think or ["<think>", "</think>"]
    model = load_model(arguments)
    _log.info("training an adapter of %s in %s into %s", model.name, model.dtype, out)
    names = [Path(name).name for name in arguments.traces or CHAINS]
    train_adapter(
        out,
        model,
        chains,
        config,
        minutes=arguments.minutes,
        base_name=arguments.base_name,
        chains_name=", ".join(names),
        resume=not arguments.fresh,
    )
    print(f"Adapter: {out}")


def _count(text: str) -> int:
    return int(text) if text == "0" else positive(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names such as q_proj,v_proj, found {text!r}")
    return names
