"""``steerkit inspect``: what a vectors file holds, how its directions lie, what they speak for."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.cli.direction_rows import direction_rows, direction_table, layer_note
from steerkit.cli.parser import (
    DEFAULT_MODEL,
    DEFAULT_VECTORS,
    add_model_options,
    add_verbosity,
    layer_number,
    positive,
)
from steerkit.cli.screen import status, stdout
from steerkit.cli.sources import check_output, load_model
from steerkit.cli.tables import MISSING, clean, count, number, table

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from steerkit.models import ThinkingModel
    from steerkit.vectors import SteeringVectors

TOP = 10

_log = logging.getLogger(__name__)

_DESCRIPTION = """\
Look into a vectors file: its directions, the cosines between them at one layer, and, with
--lens, the tokens that each direction makes likelier or less likely."""

_EPILOG = """\
what is printed:
  directions   as steerkit extract prints them, at each one's suggested layer, and who labelled
               the chains that they come from
  cosine       between two directions as they are
  free of      the same, estimated for directions from endless data: sampling noise makes
  noise        plain cosines too small, and shared spans shift them
  95 % interval  of the latter, by bootstrap over tasks; a dash where the file has none
  tokens       of the logit lens: the direction read as if it were the last layer's, through
               the scale of the final norm and the unembedding; rough for early layers

examples:
  steerkit inspect
  steerkit inspect out/vectors.safetensors --layer 3 --figure out/cosines.png
  steerkit inspect --behavior backtracking --lens --top 5"""


def add_command(commands: Any, formatter: Any) -> None:
    """Add ``inspect`` to the commands."""
    parser = commands.add_parser(
        "inspect",
        prog="steerkit inspect",
        help="Look into a vectors file: directions, cosines, tokens.",
        usage="steerkit inspect [VECTORS] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "vectors",
        nargs="?",
        default=DEFAULT_VECTORS,
        metavar="VECTORS",
        help="A vectors file. Default: %(default)s.",
    )
    parser.add_argument(
        "--behavior",
        action="append",
        metavar="NAME",
        help="Show only this behaviour; can be given several times. Default: all.",
    )
    parser.add_argument(
        "--layer",
        type=layer_number,
        metavar="N",
        help="The layer of the cosines and tokens, counted from 0. Default: for the cosines the "
        "middle one of the suggested layers, for the tokens each direction's own.",
    )
    parser.add_argument(
        "--lens",
        action="store_true",
        help="Read every direction through the unembedding of --model.",
    )
    parser.add_argument(
        "--top",
        type=positive,
        metavar="N",
        help=f"Tokens that --lens lists at either end. Default: {TOP}.",
    )
    add_model_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--figure",
        metavar="FILE",
        help="Draw the cosines as a heatmap; the ending says how: .png, .svg or .pdf.",
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of tables: vectors, figure, model, contrast, "
        "annotators with numbers of chains, a list of behaviors, layer, a list of cosines, and "
        "lens, which is null without --lens.",
    )
    add_verbosity(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read the file, and show what is in it."""
    figure = None if arguments.figure is None else Path(arguments.figure)
    if figure is not None:
        check_output(
            figure,
            over=[arguments.vectors],
            refusal="the figure would overwrite the vectors file",
            option="--figure",
        )
    with status("reading vectors"):
        from steerkit.cosine_matrix import middle_layer
        from steerkit.vectors_file import read_vectors

        vectors = read_vectors(arguments.vectors)
    if arguments.behavior is not None:
        vectors = vectors.subset(arguments.behavior)
    layer = middle_layer(vectors) if arguments.layer is None else arguments.layer
    cosines = vectors.cosines(layer)
    read = None
    if arguments.lens:
        model = load_model(arguments)
        vectors.check(model)
        read = _lenses(model, vectors, arguments.layer, layer, arguments.top or TOP)
    else:
        for option, usual in (("model", DEFAULT_MODEL), ("top", None)):
            if getattr(arguments, option) != usual:
                _log.warning("--%s does nothing without --lens", option)
    if figure is not None:
        with status("drawing"):
            from steerkit.cosine_plot import plot_cosines
            from steerkit.plots import save_figure

            save_figure(plot_cosines(vectors, layer), figure)
    if arguments.json:
        print(json.dumps(_summary(arguments, vectors, layer, cosines, read), allow_nan=False))
        return
    console = stdout()
    _show_directions(console, arguments.vectors, vectors, whole=arguments.behavior is None)
    if len(vectors) > 1:
        _show_cosines(console, vectors, layer, cosines, chosen=arguments.layer is not None)
    for found in read or ():
        _show_lens(console, found)
    if read and read[0].attrs["tied"]:
        console.print(f"\nTied: {read[0].attrs['note']}.", markup=False, soft_wrap=True)
    if figure is not None:
        console.print(f"\nFigure: {figure}", markup=False, soft_wrap=True)


def _lenses(
    model: ThinkingModel, vectors: SteeringVectors, asked: int | None, shared: int, top: int
) -> list[pd.DataFrame]:
    """Every direction's tokens: at the layer asked for, its own, or that of the cosines."""
    from steerkit.lens import logit_lens

    found = []
    for direction in vectors.values():
        own = shared if direction.layer is None else direction.layer
        found.append(logit_lens(model, direction, own if asked is None else asked, top))
    return found


def _pairs(cosines: pd.DataFrame) -> list[dict[str, Any]]:
    """Each pair of behaviours once."""
    order = {name: i for i, name in enumerate(cosines["behavior_a"].drop_duplicates())}
    rows: list[Any] = cosines.to_dict("records")
    return [row for row in rows if order[row["behavior_a"]] < order[row["behavior_b"]]]


def _summary(
    arguments: argparse.Namespace,
    vectors: SteeringVectors,
    layer: int,
    cosines: pd.DataFrame,
    read: list[pd.DataFrame] | None,
) -> dict[str, Any]:
    from steerkit.independence import labelled_by

    measured = ("cosine", "corrected", "low", "high")
    lens = (
        None
        if read is None
        else [
            {
                "behavior": found.attrs["behavior"],
                "layer": found.attrs["layer"],
                "tied": found.attrs["tied"],
                "tokens": found.to_dict("records"),
            }
            for found in read
        ]
    )
    return {
        "vectors": arguments.vectors,
        "figure": arguments.figure,
        "model": vectors.provenance.get("model"),
        "contrast": vectors.provenance.get("contrast"),
        "annotators": labelled_by(vectors),
        "behaviors": direction_rows(vectors),
        "layer": layer,
        "cosines": [
            {
                "behavior_a": row["behavior_a"],
                "behavior_b": row["behavior_b"],
                **{name: clean(row[name]) for name in measured},
                "note": row["note"],
            }
            for row in _pairs(cosines)
        ],
        "lens": lens,
    }


def _show_directions(console: Console, path: str, vectors: SteeringVectors, *, whole: bool) -> None:
    from steerkit.terms import layer_ranges

    facts = vectors.provenance
    layers = sorted({layer for d in vectors.values() for layer in d.layers})
    console.print(
        f"{path}: directions of {facts.get('model') or 'an unknown model'}, contrast "
        f"{facts.get('contrast') or 'unknown'}, layers {layer_ranges(layers)}",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"labelled by {_annotators(vectors)}\n", markup=False, soft_wrap=True)
    known = facts.get("left_out", {}) if whole else {}
    console.print(direction_table(vectors, known))
    if note := layer_note(vectors):
        console.print(f"\n{note}", markup=False, soft_wrap=True)


def _annotators(vectors: SteeringVectors) -> str:
    """Who labelled the chains that the directions come from, each with the number of chains."""
    from steerkit.independence import labelled_by

    found = labelled_by(vectors)
    if not found:
        return "an unknown annotator"
    return ", ".join(
        name if chains is None else f"{name} ({count(chains, 'chain')})"
        for name, chains in found.items()
    )


def _show_cosines(
    console: Console, vectors: SteeringVectors, layer: int, cosines: pd.DataFrame, *, chosen: bool
) -> None:
    from steerkit.plots import untrusted
    from steerkit.vectors import weaknesses

    names, weak = list(vectors), weaknesses(vectors)
    marked = {name: name + "*" * (name in weak) for name in names}
    why = ""
    if not chosen:
        suggested = any(d.layer is not None for d in vectors.values())
        why = f", the middle one of {'those suggested' if suggested else 'the layers'}"
    console.print(f"\nCosines at layer {layer}{why}:\n", markup=False, soft_wrap=True)
    plain: Any = cosines.pivot(index="behavior_a", columns="behavior_b", values="cosine")
    console.print(
        table(
            ("behaviour", *(str(i + 1) for i in range(len(names)))),
            [
                (
                    f"{i + 1} {marked[left]}",
                    *(number(plain.loc[left, right]) for right in names[: i + 1]),
                )
                for i, left in enumerate(names)
            ],
        )
    )
    pairs = _pairs(cosines)
    for line in untrusted(weak):
        console.print(f"\n{line}", markup=False, soft_wrap=True)
    if not any(clean(row["low"]) is not None for row in pairs):
        console.print("\nThis file has no intervals of cosines.", markup=False, soft_wrap=True)
        return
    console.print()
    console.print(
        table(
            ("pair", "cosine", "free of noise", "95 % interval"),
            [
                (
                    f"{marked[row['behavior_a']]}, {marked[row['behavior_b']]}",
                    number(row["cosine"]),
                    number(row["corrected"]),
                    MISSING
                    if clean(row["low"]) is None
                    else f"{number(row['low'])} to {number(row['high'])}",
                )
                for row in pairs
            ],
        )
    )


def _show_lens(console: Console, found: pd.DataFrame) -> None:
    from rich.markup import escape

    at = f"{found.attrs['behavior']} at layer {found.attrs['layer']}"
    console.print(f"\nTokens of {at}, up and down:\n", markup=False, soft_wrap=True)
    up, down = (found[found["sign"] == sign].to_dict("records") for sign in ("up", "down"))
    console.print(
        table(
            ("likelier", "logit", "less likely", "logit"),
            [
                tuple(
                    cell
                    for row in both
                    for cell in (escape(repr(row["token"])), number(row["logit"]))
                )
                for both in zip(up, down, strict=True)
            ],
        )
    )
