"""Grid: a table as the page shows it, made from a data frame and a format for every column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.behaviors import behaviors
from steerkit.report.numbers import known

Format = Callable[[Any], str]


@dataclass(frozen=True)
class Cell:
    """Text of one cell; ``under`` stands small below it, ``tone`` is a class of the style."""

    text: str
    under: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """A row: its head, the colour of the behaviour it is about, its cells, and how it looks."""

    head: str
    cells: tuple[Cell, ...]
    color: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Grid:
    """Columns and rows; ``name`` is the file the numbers are in, without ``.csv``."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    name: str = ""


def color_of(behavior: Any) -> str:
    """The colour of a behaviour in every figure and table; empty for what is none."""
    return next((b.color for b in behaviors() if b.name == behavior), "")


def measured(row: Mapping[str, Any], names: Sequence[str], text: Format) -> Cell:
    """A value with its interval below it; ``names`` are the columns of value, low, high."""
    value, low, high = (row.get(name) for name in names)
    interval = f"{text(low)} to {text(high)}" if known(low, high) else ""
    return Cell(text(value), interval)


def records(table: Any, **where: Any) -> list[dict[str, Any]]:
    """Rows of a data frame as dictionaries, those whose columns have these values."""
    rows: Iterable[dict[str, Any]] = table.to_dict("records")
    return [row for row in rows if all(row.get(name) == value for name, value in where.items())]
