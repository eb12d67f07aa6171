"""The command line: ``steerkit extract``, ``generate``, ``annotate``, ``import`` and others.

Only this package prints. Whatever is slow to import is imported inside the commands, so
that ``steerkit --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from steerkit.cli.parser import build_parser
from steerkit.cli.screen import messages, say
from steerkit.errors import SteerkitError

__all__ = ["build_parser", "main"]

FAILED, INTERRUPTED, BROKEN_PIPE = 2, 130, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``argv`` is by default that of the process.

    0 is success, 2 an error that was explained on stderr, 130 an interrupt, 1 a reader of
    the output that went away. Exceptions that are not explained here are defects of
    steerkit and pass through.
    """
    try:
        try:
            arguments = build_parser().parse_args(argv)
            # what makes a result again is written down with it
            arguments.typed = list(sys.argv[1:] if argv is None else argv)
        except SystemExit as stop:  # argparse has printed help, version or an error
            sys.stdout.flush()
            return int(stop.code or 0)
        with messages(verbose=arguments.verbose, quiet=arguments.quiet) as log:
            try:
                arguments.run(arguments)
            except (SteerkitError, OSError) as problem:
                if isinstance(problem, BrokenPipeError):
                    raise
                log.debug("the error in full", exc_info=True)
                say(str(problem))
                return FAILED
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # the interpreter flushes stdout once more on its way out; give it somewhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0
