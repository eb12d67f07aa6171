"""``steerkit train``: the two stages in which the bundled models were made, and adapters."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

from steerkit.cli import train_adapter
from steerkit.cli.parser import above_zero, add_verbosity, positive
from steerkit.cli.sources import check_output
from steerkit.training.config import BASE

_log = logging.getLogger(__name__)

_DESCRIPTION = """\
Train the bundled models again, from nothing, in two stages as large thinking models are; or
an adapter that makes a chat model of any size think."""

_SFT = """\
Train a small thinking model on chains of thought that a program writes: the first stage.

Without options this is the recipe of countdown-base; it takes about an hour on two
cores. Every five minutes a checkpoint is written. After an interruption the same command
goes on from there, to the same weights."""

_SFT_EPILOG = """\
examples:
  steerkit train sft --out out/my-base
  steerkit generate "Use 3, 7, 8 to make 29." --model out/my-base"""

_RL = """\
Train a thinking model by reinforcement learning with verified answers: the second stage.

The model writes chains for new tasks; those with a correct answer become more likely, those
without less, and nothing else is rewarded but a well-formed end. Without options this is
the recipe of countdown-thinking; it takes about 40 minutes on two cores. Every five minutes a
checkpoint is written. After an interruption the same command goes on from there, to the
same weights."""

_RL_EPILOG = """\
examples:
  steerkit train rl --out out/my-model
  steerkit train rl --base out/my-base --out out/my-model --steps 100"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``train`` and what can be trained to the commands."""
    parser = commands.add_parser(
        "train",
        prog="steerkit train",
        help="Train the bundled models again, or an adapter that makes a chat model think.",
        usage="steerkit train RECIPE [options]",
        description=_DESCRIPTION,
        epilog="Every recipe explains its options: steerkit train RECIPE --help.",
        formatter_class=formatter,
    )
    recipes = parser.add_subparsers(
        title="recipes", metavar="RECIPE", dest="recipe", required=True, parser_class=type(parser)
    )
    sft = recipes.add_parser(
        "sft",
        prog="steerkit train sft",
        help="Supervised training on program-written chains: the model countdown-base.",
        usage="steerkit train sft --out DIR [options]",
        description=_SFT,
        epilog=_SFT_EPILOG,
        formatter_class=formatter,
    )
    sft.set_defaults(run=run_sft)
    _add_out(sft)
    sft.add_argument(
        "--tokens",
        type=positive,
        metavar="N",
        help="Tokens to train on. Default: those of the recipe.",
    )
    _add_machine(sft)
    add_verbosity(sft)
    rl = recipes.add_parser(
        "rl",
        prog="steerkit train rl",
        help="Reinforcement learning with verified answers: the model countdown-thinking.",
        usage="steerkit train rl --out DIR [options]",
        description=_RL,
        epilog=_RL_EPILOG,
        formatter_class=formatter,
    )
    rl.set_defaults(run=run_rl)
    _add_out(rl)
    rl.add_argument(
        "--base",
        default=BASE,
        metavar="MODEL",
        help="The model to begin with: a bundled name, or a folder that train sft made. "
        "Default: %(default)s.",
    )
    rl.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="Optimizer steps, each on new chains. Default: those of the recipe.",
    )
    rl.add_argument(
        "--learning-rate",
        type=above_zero,
        metavar="R",
        help="The peak rate. Default: that of the recipe.",
    )
    _add_machine(rl)
    add_verbosity(rl)
    train_adapter.add_recipe(recipes, formatter, _add_machine)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="The folder that gets the model in Hugging Face format, with its checkpoint, "
        "log.csv and training.png.",
    )


def _add_machine(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="Processor threads to use. Default: PyTorch's choice, all cores.",
    )
    if device:
        parser.add_argument(
            "--device",
            metavar="DEVICE",
            help="Where to train: cpu, cuda, cuda:1, mps. Default: a CUDA GPU if there is one, "
            "else the CPU.",
        )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="Remove the checkpoint in DIR, if there is one, and begin anew.",
    )


def run_sft(arguments: argparse.Namespace) -> None:
    """Train, logging a line now and then on stderr."""
    out = prepare(arguments)
    from steerkit.training import sft
    from steerkit.training.config import SFTConfig

    config = SFTConfig()
    if arguments.tokens is not None:
        config = dataclasses.replace(config, tokens=arguments.tokens)
    _log.info("training on %s tokens into %s", f"{config.tokens:,}", out)
    sft.train_sft(out, config, device=arguments.device, resume=not arguments.fresh)
    print(f"Model: {out}")


def run_rl(arguments: argparse.Namespace) -> None:
    """Train, logging a line a step on stderr."""
    out = prepare(arguments)
    from steerkit.training import rl
    from steerkit.training.config import RLConfig

    config = RLConfig()
    for name in ("steps", "learning_rate"):
        if getattr(arguments, name) is not None:
            config = dataclasses.replace(config, **{name: getattr(arguments, name)})
    _log.info("training %s for %d steps into %s", arguments.base, config.steps, out)
    rl.train_rl(
        out, config, base=arguments.base, device=arguments.device, resume=not arguments.fresh
    )
    print(f"Model: {out}")


def prepare(arguments: argparse.Namespace) -> Path:
    """What both stages begin with: the folder checked, threads set, the log let through."""
    out = Path(arguments.out)
    check_output(out / "log.csv")
    import torch

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if not arguments.verbose:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    log = logging.getLogger("steerkit")
    if not arguments.quiet:
        log.setLevel(min(log.level, logging.INFO))
    return out
