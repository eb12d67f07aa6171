"""The parser of all commands, and the options and types that several of them share."""

from __future__ import annotations

import argparse
import functools
import math
from typing import Any, NoReturn

from steerkit import __version__

DEFAULT_MODEL = "countdown-thinking"
DEFAULT_VECTORS = "out/vectors.safetensors"

_DESCRIPTION = """\
Find the directions in a thinking model's residual stream that carry its reasoning
behaviours (backtracking, uncertainty, testing examples ...), and turn them up or down
while the model reasons."""

_EPILOG = """\
a first session, with the bundled model and its bundled annotated chains:
  steerkit extract
  steerkit generate "Use 3, 7, 8 to make 29." --steer backtracking=-0.3,0,0.3

Every command explains its options: steerkit COMMAND --help."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and a pointer to the help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **options)
        self.add_argument("-h", "--help", action="help", help="Show this text and exit.")

    def error(self, message: str) -> NoReturn:
        """Print the error in one line and leave with code 2."""
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def build_parser(width: int | None = None) -> argparse.ArgumentParser:
    """The parser of ``steerkit``; help is wrapped at ``width`` columns, or the terminal's."""
    from steerkit.cli import (
        agree,
        annotate,
        calibrate,
        compare,
        evaluate,
        extract,
        generate,
        importing,
        inspect,
        layers,
        methods,
        report,
        show,
        stats,
        train,
    )

    formatter: Any = argparse.RawDescriptionHelpFormatter
    if width is not None:
        formatter = functools.partial(formatter, width=width)
    parser = Parser(
        prog="steerkit",
        usage="steerkit COMMAND [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, parser_class=Parser
    )
    for module in (
        extract,
        methods,
        layers,
        inspect,
        generate,
        evaluate,
        annotate,
        agree,
        show,
        stats,
        importing,
        calibrate,
        compare,
        report,
        train,
    ):
        module.add_command(commands, formatter)
    parser.add_argument(
        "--version",
        action="version",
        version=f"steerkit {__version__}",
        help="Print the version and exit.",
    )
    add_verbosity(parser, default=False)
    return parser


def add_verbosity(parser: argparse.ArgumentParser, default: Any = argparse.SUPPRESS) -> None:
    """--verbose and --quiet, which may stand before or after the command."""
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--verbose",
        action="store_true",
        default=default,
        help="Log what is done in detail, on stderr; an error shows where it was raised.",
    )
    group.add_argument(
        "--quiet",
        action="store_true",
        default=default,
        help="Show no progress and no warnings, only results and errors.",
    )


def add_model_options(
    parser: argparse.ArgumentParser, *, model: str | None = DEFAULT_MODEL, adapter: bool = True
) -> None:
    """The options that say which model is loaded, where and how; see :func:`load_model`.

    ``model`` is the default; ``adapter`` is whether one can be named.
    """
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=model,
        metavar="MODEL",
        help="The model: a bundled name, a folder in Hugging Face format, or a name on "
        "the Hugging Face Hub such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B. "
        f"Default: {model or 'none'}.",
    )
    if adapter:
        group.add_argument(
            "--adapter",
            metavar="ADAPTER",
            help="A LoRA adapter to merge into the model: a bundled name, a folder such as "
            "steerkit train adapter makes, or a name on the Hub. Needs the extra: pip install "
            "'steerkit-thinking[adapter]'. Default: none.",
        )
    else:
        parser.set_defaults(adapter=None)
    group.add_argument(
        "--revision",
        metavar="REVISION",
        help="A commit, branch or tag of a model on the Hub. Default: its main branch.",
    )
    group.add_argument(
        "--device",
        metavar="DEVICE",
        help="Where the model runs: cpu, cuda, cuda:1, mps. Default: a CUDA GPU if there is one, "
        "else the CPU.",
    )
    group.add_argument(
        "--dtype",
        metavar="DTYPE",
        help="Number format of the weights: float32, bfloat16, float16 or auto. Default: auto, "
        "that of the checkpoint; but float32 on a CPU for float16, and for bfloat16 too if the "
        "processor has no instructions for it and there is room.",
    )
    group.add_argument(
        "--device-map",
        metavar="MAP",
        help="Spread the model over several devices, as accelerate does with this value, such as "
        "auto. Excludes --device.",
    )
    group.add_argument(
        "--think",
        nargs=2,
        metavar=("OPEN", "CLOSE"),
        help="The strings between which the model thinks, where its tokenizer does not tell; "
        "plain text will do. Default: <think> and </think>.",
    )


def add_sample_option(parser: argparse._ActionsContainer) -> None:
    """--sample-gib, for methods that are fitted to the means of single spans."""
    parser.add_argument(
        "--sample-gib",
        type=above_zero,
        default=8.0,
        metavar="N",
        help="Largest temporary file of span means, in GiB, that lda, probe and pca may write; its "
        "size is said beforehand. Default: %(default)g.",
    )


def add_declare_option(parser: argparse._ActionsContainer) -> None:
    """--declare NAME[=DEFINITION], for labels that are not built in."""
    parser.add_argument(
        "--declare",
        action="append",
        default=[],
        metavar="NAME[=DEFINITION]",
        help="Make a behaviour of your own known under this name, so that labels in the chains "
        "may use it; a language model that is to label needs its definition too. Can be given "
        "several times.",
    )


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return value


def above_zero(text: str) -> float:
    """An argument that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def layer_number(text: str) -> int:
    """An argument that is one layer, counted from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a layer (counted from 0), found {text!r}")
    return int(text)


def layers(text: str) -> tuple[int, ...]:
    """Layers from text such as ``3,5-9``: numbers and ranges, both ends included."""
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(
                f"expected layers such as 3,5-9 (counted from 0), found {text!r}"
            )
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers:
            raise argparse.ArgumentTypeError(f"the range {part.strip()!r} runs backwards")
        chosen += numbers
    return tuple(dict.fromkeys(chosen))
