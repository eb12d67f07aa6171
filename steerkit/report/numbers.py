"""Numbers as a reader wants them: few digits, a true minus, a dash where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MISSING = "\u2013"
_MINUS, _NARROW = "\u2212", "\u202f"


def as_float(value: Any) -> float:
    """The number that a cell of a table holds; NaN for one that is missing."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def known(*values: Any) -> bool:
    """Whether all of these are finite numbers."""
    return all(math.isfinite(as_float(value)) for value in values)


def plain(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """A number with ``digits`` decimals; with ``sign`` a plus where it is positive."""
    if not known(value):
        return MISSING
    text = f"{as_float(value):{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0.0:
        text = text.lstrip("+-")  # what is printed as zero has no sign
    return text.replace("-", _MINUS)


def signed(value: Any, digits: int = 2) -> str:
    """A change: a number with its sign."""
    return plain(value, digits, sign=True)


def whole(value: Any) -> str:
    """A count."""
    return plain(value, 0)


def percent(share: Any, digits: int = 1) -> str:
    """A share from 0 to 1 in percent."""
    return f"{plain(100 * as_float(share), digits)}{_NARROW}%" if known(share) else MISSING


def points(difference: Any, digits: int = 1) -> str:
    """A difference between shares in percentage points, with its sign."""
    return signed(100 * as_float(difference), digits)


def coefficient(value: Any) -> str:
    """A steering coefficient with its sign and two decimals, three where it has them."""
    digits = 2 if not known(value) or math.isclose(round(as_float(value), 2), value) else 3
    return plain(value, digits, sign=True)


def probability(value: Any, smallest: float = 0.0001) -> str:
    """A p-value as ``= 0.012``, or ``< 0.0001``: never rounded to zero."""
    if not known(value):
        return f"= {MISSING}"
    p = as_float(value)
    if p < smallest:
        return f"< {smallest:.4f}"
    return f"= {p:.2f}" if p >= 0.1 else f"= {p:.3f}" if p >= 0.001 else f"= {p:.4f}"


def duration(seconds: Any) -> str:
    """A time as hours and minutes, as minutes and seconds, or as seconds."""
    if not known(seconds):
        return MISSING
    minutes, rest = divmod(round(as_float(seconds)), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def counted(amount: int, noun: str, plural: str | None = None) -> str:
    """An amount with its noun: ``1 chain``, ``2,000 chains``."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; empty for none."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def short_name(annotator: Any) -> str:
    """An annotator's name without the hash of its settings."""
    return str(annotator).partition("@")[0]
