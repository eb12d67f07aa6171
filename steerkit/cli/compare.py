"""``steerkit compare``: two vectors files, how far their directions agree, and a figure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.parser import add_verbosity, layers
from steerkit.cli.screen import status, stdout
from steerkit.cli.sources import check_output
from steerkit.cli.tables import clean, number, table
from steerkit.errors import VectorsError

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.vectors import SteeringVectors

DEFAULT_FIGURE = "out/comparison.png"

_DESCRIPTION = """\
Compare the directions of two vectors files of the same width, layer by layer.

A and B are of a model and what was trained from it, of two sets of chains, or of two
methods. The axes of unrelated models have nothing to do with each other, and neither
have their directions."""

_EPILOG = """\
the table, one row a behaviour that both files have, at one layer:
  layer      that of --layer; else the one that A, or else B, suggests; else the middle one
  cosine     between the two directions
  low, high  bounds of the cosine that unlimited data would give, as far as the files tell
  corrected  the cosine without what too little data take from it
  others     the cosine of A's direction with other behaviours of B that is furthest from 0
  shuffled   the cosine that labels shuffled within chains give (--shuffled)

Below the table stands why a direction of A or of B with an * should not be trusted yet.
If others or shuffled are as large as the cosine, the files do not share the behaviour.

examples:
  steerkit compare out/base.safetensors out/thinking.safetensors
  steerkit extract --shuffle-labels 0 --out out/shuffled.safetensors
  steerkit compare out/vectors.safetensors out/r1_rest.safetensors --layer 17 \\
      --shuffled out/shuffled.safetensors --out out/comparison.svg"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``compare`` to the commands."""
    parser = commands.add_parser(
        "compare",
        prog="steerkit compare",
        help="Compare the directions of two vectors files.",
        usage="steerkit compare A B [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="A vectors file.")
    method = parser.add_argument_group("method")
    method.add_argument(
        "--behavior",
        action="append",
        metavar="NAME",
        help="Compare only this behaviour; can be given several times. Default: all.",
    )
    method.add_argument(
        "--layers",
        type=layers,
        metavar="LAYERS",
        help="Layers to compare, counted from 0, such as 3,5-9. Default: all that both files have.",
    )
    method.add_argument(
        "--layer",
        type=int,
        metavar="LAYER",
        help="The layer that the table shows. Default: the one that A suggests, or else B.",
    )
    method.add_argument(
        "--shuffled",
        metavar="FILE",
        help="A control: the vectors that steerkit extract --shuffle-labels makes of the chains "
        "of A. They are compared with B as well.",
    )
    method.add_argument(
        "--force", action="store_true", help="Compare files of different contrasts as well."
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        default=DEFAULT_FIGURE,
        metavar="FILE",
        help="The figure to write: .png, .svg or .pdf. Default: %(default)s.",
    )
    output.add_argument("--no-figure", action="store_true", help="Write no figure.")
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of the table: figure, a, b, d_model, chance, and rows "
        "and shuffled: every pair of behaviours at every layer.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Compare, draw, print the table or the JSON object."""
    figure = None if arguments.no_figure else Path(arguments.out)
    if figure is not None:
        check_output(figure)
    with status("comparing"):
        from steerkit.comparison import compare_directions
        from steerkit.vectors_file import read_vectors

        a, b = read_vectors(arguments.a), read_vectors(arguments.b)
        options: dict[str, Any] = {
            "behaviors": arguments.behavior,
            "layers": arguments.layers,
            "force": arguments.force,
        }
        found = compare_directions(a, b, **options)
        shuffled = None
        if arguments.shuffled is not None:
            shuffled = compare_directions(read_vectors(arguments.shuffled), b, **options)
    at = _places(found, a, b, arguments.layer)
    if figure is not None:
        with status("drawing"):
            from steerkit.comparison_plot import plot_comparison
            from steerkit.plots import save_figure

            save_figure(plot_comparison(found, shuffled=shuffled), figure)
    if arguments.json:
        summary = {
            "figure": None if figure is None else str(figure),
            **found.attrs,
            "chance": clean(float(found["chance"].iloc[0])),
            "rows": _records(found),
            "shuffled": None if shuffled is None else _records(shuffled),
        }
        print(json.dumps(summary, allow_nan=False))
        return
    from steerkit.comparison_plot import weak_sides
    from steerkit.plots import untrusted

    console = stdout()
    console.print(_table(found, shuffled, at))
    for line in untrusted({name: f"({why})" for name, why in weak_sides(found).items()}):
        console.print(f"\n{line}", markup=False, soft_wrap=True)
    chance, width = float(found["chance"].iloc[0]), found.attrs["d_model"]
    console.print(
        f"\nChance: 95 of 100 random directions of width {width:,} stay within {chance:.2f}.",
        soft_wrap=True,
    )
    for side in ("a", "b"):
        facts = found.attrs[side]
        console.print(
            f"{side.upper()}:      {getattr(arguments, side)} "
            f"(model {facts['model'] or 'unknown'}, contrast {facts['contrast'] or 'unknown'})",
            markup=False,
            soft_wrap=True,
        )
    if figure is not None:
        console.print(f"Figure: {figure}", markup=False, soft_wrap=True)


def _places(
    found: pd.DataFrame, a: SteeringVectors, b: SteeringVectors, layer: int | None
) -> dict[str, int]:
    """The layer that the table shows, by behaviour that both files have."""
    matched = found[found["matched"]]
    places = {}
    for name, rows in matched.groupby("behavior_a", sort=False):
        there = list(rows["layer"])
        if layer is not None and layer not in there:
            raise VectorsError(
                f"layer {layer} of {name!r} was not compared",
                expected="one of layers " + ", ".join(map(str, there)),
            )
        wanted = (layer, a[str(name)].layer, b[str(name)].layer)
        middle = there[len(there) // 2]
        places[str(name)] = next((n for n in wanted if n is not None and n in there), middle)
    return places


def _table(found: pd.DataFrame, shuffled: pd.DataFrame | None, at: dict[str, int]) -> Any:
    columns = ["behaviour", "layer", "cosine", "low", "high", "corrected", "others"]
    columns += [] if shuffled is None else ["shuffled"]
    rows = []
    for name, layer in at.items():
        here = found[(found["behavior_a"] == name) & (found["layer"] == layer)]
        same, rest = here[here["matched"]].iloc[0], here.loc[~here["matched"], "cosine"].dropna()
        cells = [same[part] for part in ("cosine", "low", "high", "corrected")]
        cells.append(None if rest.empty else rest.iloc[int(rest.abs().argmax())])
        if shuffled is not None:
            twin = shuffled[(shuffled["behavior_a"] == name) & (shuffled["layer"] == layer)]
            own = twin.loc[twin["matched"], "cosine"]
            cells.append(None if own.empty else own.iloc[0])
        rows.append((name + "*" * bool(same["note"]), str(layer), *map(number, cells)))
    if not rows:
        rows = [("no behaviour in both", *[""] * (len(columns) - 1))]
    return table(columns, rows)


def _records(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON knows them: what is missing becomes null."""
    return [
        {str(k): clean(v) if isinstance(v, float) else v for k, v in row.items()}
        for row in found.to_dict("records")
    ]
