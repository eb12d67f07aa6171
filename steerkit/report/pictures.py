"""Picture: a figure inside the page and, as PNG and SVG, beside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.files import write_bytes_atomic
from steerkit.plots import figure_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "figures"
WIDE = 560  # CSS pixels; what is wider scrolls on a phone, what is not shrinks
LARGEST = 400_000  # bytes of a drawing; a larger one goes into the page as pixels
_TYPES = {"svg": "image/svg+xml", "png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it.

    Attributes
    ----------
    name:
        Of its files, ``figures/<name>.png`` and ``.svg``.
    title, caption, alt:
        What it is, how it is read, and what it says to whoever cannot see it.
    uri:
        The figure itself, as a ``data:`` address.
    width, height:
        In CSS pixels, so that the page does not jump while it loads.
    """

    name: str
    title: str
    caption: str
    alt: str
    uri: str
    width: int
    height: int

    @property
    def wide(self) -> bool:
        """Whether it needs a line of its own, and scrolls on a phone instead of shrinking."""
        return self.width > WIDE


def write_figure(figure: Figure, folder: Path, name: str) -> dict[str, bytes]:
    """Write a figure into ``folder/figures`` as PNG and SVG; what was written, by kind."""
    files = {kind: figure_bytes(figure, kind) for kind in _TYPES}
    for kind, content in files.items():
        write_bytes_atomic(folder / FOLDER / f"{name}.{kind}", content)
    return files


def picture(figure: Figure, folder: Path, name: str, title: str, caption: str, alt: str) -> Picture:
    """A figure for the page, and its files (:func:`write_figure`).

    Embedded is the drawing, or the pixels where that is larger than :data:`LARGEST`.
    """
    files = write_figure(figure, folder, name)
    kind = "svg" if len(files["svg"]) <= LARGEST else "png"
    encoded = base64.b64encode(files[kind]).decode("ascii")
    width, height = figure.get_size_inches()
    return Picture(
        name,
        title,
        caption,
        alt,
        f"data:{_TYPES[kind]};base64,{encoded}",
        round(96 * width),
        round(96 * height),
    )
