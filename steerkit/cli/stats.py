"""``steerkit stats``: how often behaviours occur, what follows what, and where in the chain."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.parser import add_declare_option, add_verbosity, positive
from steerkit.cli.screen import status, stdout
from steerkit.cli.sources import check_output, declare_all, read_chains
from steerkit.cli.tables import MISSING, count, number, table
from steerkit.errors import ResourceError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from steerkit.chain_statistics import ChainStatistics

_DESCRIPTION = """\
Count behaviours in labelled chains: their shares, what follows what, and where in the
chain they stand. Several files, such as the chains of several models, stand side by side."""

_EPILOG = """\
the tables, with 95 % intervals over tasks:
  how often     share of the spans and of the characters of thinking sections, and of the
                chains that have the behaviour at all
  where         where spans begin, from 0, start, to 1, end of the thinking section
  what follows  share of what comes after the behaviour of the row, and how often

Unparsed text is part of every denominator. Of chains that the token limit cut off,
positions and ends are not known; they are left out there, and counted.

examples:
  steerkit stats chains.jsonl
  steerkit stats base.jsonl thinking.jsonl --plot out/behaviours.png"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``stats`` to the commands."""
    parser = commands.add_parser(
        "stats",
        prog="steerkit stats",
        help="Count behaviours: shares, transitions, positions.",
        usage="steerkit stats FILE [FILE ...] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="Labelled chains: a traces file (JSON lines) or tagged text. Every file is a group.",
    )
    add_declare_option(parser)
    parser.add_argument(
        "--resamples",
        type=positive,
        default=2000,
        metavar="N",
        help="Bootstrap resamples of the tasks behind the intervals. Default: %(default)s.",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--plot",
        metavar="FILE",
        help="Draw the tables; the ending says how: .png, .svg or .pdf.",
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of the tables: counts, shares, transitions, positions "
        "and plot.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Count, draw, print the tables or the JSON object."""
    if arguments.plot is not None:
        check_output(
            Path(arguments.plot),
            over=arguments.files,
            refusal="the figure would overwrite the chains that are read",
            option="--plot",
        )
    declare_all(arguments.declare)
    with status("counting"):
        from steerkit.chain_statistics import describe_chains

        names = group_names(arguments.files)
        read = [read_chains([path]) for path in arguments.files]
        groups = {name: chains for name, (chains, _) in zip(names, read, strict=True)}
        found = describe_chains(groups, resamples=arguments.resamples)
    lost = {name: len(parts) for name, (_, parts) in zip(names, read, strict=True)}
    if arguments.plot is not None:
        with status("drawing"):
            from steerkit.chain_statistics_plot import plot_chain_statistics
            from steerkit.plots import save_figure

            save_figure(plot_chain_statistics(found), arguments.plot)
    if arguments.json:
        summary = {**found.to_json(), "unplaced": lost, "plot": arguments.plot}
        print(json.dumps(summary, allow_nan=False))
        return
    console = stdout()
    for group in found.groups:
        if len(found.groups) > 1:
            console.print(group, style="bold", markup=False)
        console.print(_shares(found, group))
        console.print()
        console.print(_positions(found, group))
        console.print()
        whole, brief = (_transitions(found, group, counts=counts) for counts in (True, False))
        _print_fitting(console, whole, brief)
        console.print()
        for line in _notes(found, group, lost[group]):
            console.print(line, style="dim", markup=False, soft_wrap=True)
        console.print()
    if len(found.groups) > 1:
        console.print("side by side", style="bold")
        whole, brief = (_beside(found, intervals=intervals) for intervals in (True, False))
        _print_fitting(console, whole, brief)
        console.print()
    if arguments.plot is not None:
        console.print(f"Figure: {arguments.plot}", markup=False, soft_wrap=True)


def group_names(files: Sequence[str]) -> list[str]:
    """A name for every file: its own without the ending, or its path where two are the same.

    A file that is named twice is an error: :class:`ResourceError`.
    """
    if len(set(files)) < len(files):
        raise ResourceError("a file is named twice", fix="name every file once")
    stems = [Path(file).stem for file in files]
    return [
        str(file) if stems.count(stem) > 1 else stem
        for file, stem in zip(files, stems, strict=True)
    ]


def _print_fitting(console: Console, wide: Table, narrow: Table) -> None:
    """Print what fits: the wide table, or on a terminal too narrow for it the other one.

    Where stdout is no terminal nothing is cut.
    """
    from rich.measure import Measurement

    needed = Measurement.get(console, console.options.update(max_width=1000), wide).maximum
    if not console.is_terminal:
        console.width = max(console.width, needed)
    console.print(wide if needed <= console.width else narrow)


def _shares(found: ChainStatistics, group: str) -> Table:
    """Shares of a group, a row a behaviour."""
    shares = found.shares[found.shares["group"] == group]
    rows = []
    for name in dict.fromkeys(shares["behavior"]):
        spans, text, chains = (
            shares[(shares["behavior"] == name) & (shares["unit"] == unit)].iloc[0]
            for unit in ("spans", "characters", "chains")
        )
        rows.append(
            (
                name,
                f"{spans['count']:,}",
                _percent(spans["share"]),
                _interval(spans["low"], spans["high"]),
                _percent(text["share"]),
                _percent(chains["share"]),
            )
        )
    return table(("how often", "count", "of spans", "95 %", "of text", "of chains"), rows)


def _positions(found: ChainStatistics, group: str) -> Table:
    """Where a group's spans begin, a row a behaviour."""
    places = found.positions[found.positions["group"] == group]
    columns = ("mean", "low", "high", "lower_quartile", "median", "upper_quartile")
    return table(
        ("where, from 0 to 1", "count", "mean", "low", "high", "25 %", "median", "75 %"),
        [
            (row["behavior"], f"{row['count']:,}", *(number(row[key]) for key in columns))
            for row in places.to_dict("records")
        ],
    )


def _transitions(found: ChainStatistics, group: str, *, counts: bool) -> Table:
    """What follows what: percent of the row, and the count of each cell or of the row."""
    from steerkit.chain_statistics import END

    shares, times = found.matrix(group), found.matrix(group, "count")
    # names of columns would not fit on a screen: they are the numbers of the rows
    numbers = {name: str(n) for n, name in enumerate(shares.columns, start=1) if name != END}
    rows = []
    for name in shares.index:
        cells = [
            MISSING
            if not n
            else f"{100 * share:.0f} ({int(n):,})"
            if counts
            else f"{100 * share:.0f}"
            for share, n in zip(shares.loc[name], times.loc[name], strict=True)
        ]
        whole = [] if counts else [f"{int(times.loc[name].sum()):,}"]
        rows.append((f"{numbers[name]} {name}" if name in numbers else str(name), *whole, *cells))
    heads = [numbers.get(name, str(name)) for name in shares.columns]
    return table(("what follows, in %", *([] if counts else ["count"]), *heads), rows)


def _beside(found: ChainStatistics, *, intervals: bool) -> Table:
    """Shares of spans of all groups, a column a group."""
    shares = found.shares[found.shares["unit"] == "spans"]
    rows = []
    for name in dict.fromkeys(shares["behavior"]):
        here = shares[shares["behavior"] == name].set_index("group")
        cells = []
        for row in (here.loc[group] for group in found.groups):
            interval = f" {_interval(row['low'], row['high'])}" if intervals else ""
            cells.append(_percent(row["share"]) + interval)
        rows.append((name, *cells))
    return table(("share of spans", *found.groups), rows)


def _notes(found: ChainStatistics, group: str, lost: int) -> list[str]:
    row = found.counts[found.counts["group"] == group].iloc[0]
    lines = [
        f"{count(int(row['spans']), 'span')} in {count(int(row['chains']), 'chain')} of "
        f"{count(int(row['tasks']), 'task')}, {row['unlabelled']:,} chains without any; models: "
        f"{row['models']}; annotators: {row['annotators']}",
        f"left out: {row['outside']:,} spans outside the thinking section; positions and ends of "
        f"{row['truncated']:,} chains cut off; {lost:,} tagged parts that could not be placed. "
        f"Transitions across text in no span: {row['gaps']:,}",
    ]
    if row["tasks"] < 20:
        lines.append("fewer than twenty tasks: the intervals are too narrow")
    return lines


def _percent(share: float) -> str:
    return MISSING if share != share else f"{100 * share:.1f} %"


def _interval(low: float, high: float) -> str:
    return MISSING if low != low else f"{100 * low:.1f} to {100 * high:.1f}"
