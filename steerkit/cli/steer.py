"""The ``--steer`` option: ``name=coefficient[,coefficient...][@layer[,layer]]``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.cli.parser import layers as parse_layers
from steerkit.errors import SteeringError

if TYPE_CHECKING:
    from steerkit.direction import Direction
    from steerkit.terms import Term, Terms
    from steerkit.vectors import SteeringVectors


@dataclass(frozen=True)
class SteerOption:
    """One ``--steer`` as it was typed; ``layers`` is ``None`` for the suggested layer."""

    behavior: str
    coefficients: tuple[float, ...]
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Variant:
    """One way in which every prompt is steered, and its name on the screen."""

    title: str
    terms: Terms | None


def steer_option(text: str) -> SteerOption:
    """Read one ``--steer``; an argparse error says what is wrong with it."""
    name, equals, rest = text.partition("=")
    numbers, at, places = rest.partition("@")
    try:
        coefficients = tuple(float(part) for part in numbers.split(","))
    except ValueError:
        coefficients = ()
    usable = bool(coefficients) and all(math.isfinite(c) for c in coefficients)
    if not name.strip() or not equals or not usable or (at and not places):
        raise argparse.ArgumentTypeError(
            "expected name=coefficient, such as backtracking=-0.3, backtracking=-0.3,0,0.3 or "
            f"backtracking=-0.3@4, found {text!r}"
        )
    return SteerOption(name.strip(), coefficients, parse_layers(places) if at else None)


def step_window(text: str) -> tuple[int, int | None]:
    """``START-STOP`` or ``START-``; an argparse error says what is wrong with it."""
    start, dash, stop = text.partition("-")
    usable = start.isdecimal() and dash and (not stop or stop.isdecimal())
    if not usable or (stop and int(stop) <= int(start)):
        raise argparse.ArgumentTypeError(f"expected steps such as 0-50 or 20-, found {text!r}")
    return int(start), int(stop) if stop else None


def variants(
    options: Sequence[SteerOption],
    vectors: SteeringVectors,
    *,
    operator: str = "add",
    **placed: Any,
) -> list[Variant]:
    """The ways to steer that options ask for: one, or one for each coefficient of a list.

    ``operator`` and ``placed`` (``where`` and ``unit``) are those of every term. Raises
    :class:`SteeringError` for two lists, for a layer that is not there or was never chosen,
    and :class:`BehaviorError` for a name without a direction.
    """
    from steerkit.terms import Terms

    lists = [option for option in options if len(option.coefficients) > 1]
    if len(lists) > 1:
        raise SteeringError(
            "more than one --steer has a list of coefficients",
            expected="a list for one behaviour at most",
            found=" and ".join(option.behavior for option in lists),
            fix="give the others a single coefficient, which applies to every row",
        )
    made = []
    for i in range(len(lists[0].coefficients) if lists else 1):
        terms = Terms(
            _term(
                vectors[option.behavior], option.coefficients[i if option in lists else 0], operator
            ).at(layer=option.layers, **placed)
            for option in options
        )
        for term in terms:
            term.resolved_layers()
        made.append(Variant(" + ".join(map(_title, terms)), terms))
    return made


def _term(direction: Direction, coefficient: float, operator: str) -> Term:
    if operator == "add":
        return coefficient * direction
    made: Term = getattr(direction, operator)(coefficient)
    return made


def _title(term: Any) -> str:
    places = ",".join(map(str, term.resolved_layers()))
    coefficient = f"{term.coefficient:+g}" if term.coefficient else "0"
    operator = "" if term.operator == "add" else f"{term.operator} "
    return f"{operator}{term.direction.behavior} {coefficient} @{places}"
