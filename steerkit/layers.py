"""Layers as they are asked for: one number or several, of Python's or of NumPy's."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any, SupportsIndex

from steerkit.errors import SteerkitError

Layer = SupportsIndex | float
"""A whole number: what Python takes as an index, or a float without a fraction, since a row
of a table with other numbers holds its layer as one."""
Layers = Layer | Iterable[Layer]
"""One layer or several."""


def layer_numbers(layers: Layers, error: type[SteerkitError]) -> tuple[int, ...]:
    """Plain integers in the order given, each once.

    Raises ``error`` for what is no whole number (a fraction, a missing value, a truth value)
    and when there is none. Whether the layers exist is the caller's to say.
    """
    # a NumPy array without a dimension can be looped over by its type alone
    several = isinstance(layers, Iterable) and getattr(layers, "shape", None) != ()
    asked: list[Any] = list(layers) if several else [layers]  # type: ignore[arg-type]
    numbers = []
    for layer in asked:
        try:
            whole = isinstance(layer, float) and layer.is_integer()
            number = int(layer) if whole else index(layer)
        except TypeError:
            number = None
        if number is None or isinstance(layer, bool):
            raise error("a layer is a whole number", found=repr(layer))
        numbers.append(number)
    if not numbers:
        raise error("no layer was named", expected="at least one")
    return tuple(dict.fromkeys(numbers))
