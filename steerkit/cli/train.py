"""``steerkit train sft``: the supervised training of the bundled model."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

from steerkit.cli.parser import add_verbosity, positive
from steerkit.cli.sources import check_output

_log = logging.getLogger(__name__)

_DESCRIPTION = """\
Train the bundled models again, from nothing."""

_SFT = """\
Train a small thinking model for Countdown on chains that a program writes.

Without options this is the recipe of countdown-thinking; it takes about an hour on two
cores. Every five minutes a checkpoint is written. After an interruption the same command
goes on from there, to the same weights."""

_SFT_EPILOG = """\
examples:
  steerkit train sft --out out/my-model
  steerkit generate "Use 3, 7, 8 to make 29." --model out/my-model"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``train`` and what can be trained to the commands."""
    parser = commands.add_parser(
        "train",
        prog="steerkit train",
        help="Train the bundled models again.",
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
        help="Supervised training on program-written chains: the model countdown-thinking.",
        usage="steerkit train sft --out DIR [options]",
        description=_SFT,
        epilog=_SFT_EPILOG,
        formatter_class=formatter,
    )
    sft.set_defaults(run=run)
    sft.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="The folder that gets the model in Hugging Face format, with its checkpoint and "
        "log.csv.",
    )
    sft.add_argument(
        "--tokens",
        type=positive,
        metavar="N",
        help="Tokens to train on. Default: those of the recipe.",
    )
    sft.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="Processor threads to use. Default: PyTorch's choice, all cores.",
    )
    sft.add_argument(
        "--fresh",
        action="store_true",
        help="Remove the checkpoint in DIR, if there is one, and begin anew.",
    )
    add_verbosity(sft)


def run(arguments: argparse.Namespace) -> None:
    """Train, logging a line now and then on stderr."""
    out = Path(arguments.out)
    check_output(out / "log.csv")
    import torch

    from steerkit.training import sft
    from steerkit.training.config import SFTConfig

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    config = SFTConfig()
    if arguments.tokens is not None:
        config = dataclasses.replace(config, tokens=arguments.tokens)
    log = logging.getLogger("steerkit")
    if not arguments.quiet:
        log.setLevel(min(log.level, logging.INFO))
    _log.info("training on %s tokens into %s", f"{config.tokens:,}", out)
    sft.train_sft(out, config, resume=not arguments.fresh)
    print(f"Model: {out}")
