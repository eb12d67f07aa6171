"""Writes docs/help.md, the help of every command, from the parsers; run it after changing one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from steerkit.cli import build_parser
from steerkit.files import write_text_atomic

PAGE = Path(__file__).with_name("help.md")
WIDTH = 100
_HEAD = """# The command line

What `steerkit --help` and the help of every command say. This page is made by
`python docs/generate_help.py`; do not edit it by hand.
"""


def page() -> str:
    """The page as Markdown, wrapped at :data:`WIDTH` columns on any terminal."""
    # newer Pythons colour help on a terminal, and measure the terminal for usage lines
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ |= {"COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    try:
        parts = [
            f"## {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```\n"
            for parser in _parsers(build_parser(WIDTH))
        ]
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return "\n".join([_HEAD, *parts])


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands, depth first."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _parsers(command)


if __name__ == "__main__":
    write_text_atomic(PAGE, page())
