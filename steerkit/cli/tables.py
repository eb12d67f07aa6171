"""Tables on stdout, in one style, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

MISSING = "-"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are numbers as text.

    A column without a title holds remarks: where the screen is narrow they are wrapped, and the
    numbers stay whole.
    """
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for number, column in enumerate(columns):
        if number and not column:
            made.add_column(overflow="fold")
        else:
            made.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def number(value: float | None, digits: int = 2) -> str:
    """A number with a fixed count of decimals; a dash for one that is missing."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:.{digits}f}"


def percent(part: int, whole: int) -> str:
    """A share in percent; a dash where there is nothing to share."""
    return f"{100 * part / whole:.1f} %" if whole else MISSING


def count(amount: int, noun: str) -> str:
    """An amount with its noun: ``1 chain``, ``2,000 chains``."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def clean(value: float | None) -> float | None:
    """A number that JSON knows: what is missing or not finite becomes ``None``."""
    return None if value is None or not math.isfinite(value) else float(value)
