"""Conditions: under what chains are written in an evaluation, and the plan of all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerkit.errors import SteeringError
from steerkit.places import Where
from steerkit.tasks import Task
from steerkit.terms import Term
from steerkit.vectors import Direction, Unit

Kind = Literal["baseline", "steered", "random", "shuffled", "prompt"]


@dataclass(frozen=True, eq=False)
class Condition:
    """One way to write chains.

    Attributes
    ----------
    id:
        Its name, and that of its traces file: ``baseline``, ``backtracking+0.30@4``,
        ``random-07+0.30@4``, ``shuffled-backtracking-07+0.30@4``, ``prompt-backtracking``.
    kind:
        ``baseline`` (unsteered), ``steered``, ``random`` (a random direction), ``shuffled``
        (a direction of shuffled labels) or ``prompt`` (unsteered, the behaviour asked for).
    behavior:
        The behaviour steered towards, or whose control this is; ``None`` for the baseline and
        for random directions, which control for every behaviour at that layer and size.
    control:
        Number of the control direction, from 0.
    layer, coefficient:
        Where and how far the residual stream is pushed; ``None`` and 0 where it is not.
    headline:
        Whether the claim about its behaviour is tested at this coefficient.
    term:
        What is done to the residual stream, or ``None``.
    request:
        What is added to the prompt, or empty.
    tasks:
        It runs on so many of the tasks, the first ones.
    """

    id: str
    kind: Kind
    tasks: int
    behavior: str | None = None
    control: int | None = None
    layer: int | None = None
    coefficient: float = 0.0
    headline: bool = False
    term: Term | None = None
    request: str = ""

    def columns(self) -> dict[str, Any]:
        """What the table of generations says of it."""
        return {
            "condition": self.id,
            "kind": self.kind,
            "behavior": self.behavior,
            "control": self.control,
            "layer": self.layer,
            "coefficient": self.coefficient,
            "headline": self.headline,
        }

    def prompt(self, task: Task) -> Task:
        """The task as it is put to the model."""
        if not self.request:
            return task
        return Task(
            task.id, f"{task.prompt} {self.request}", task.category, task.answer, task.verifier
        )

    def mark(self, common: Mapping[str, Any]) -> str:
        """Twelve digits that say how its chains are made: ``common`` settings and its own."""
        own = [None if self.term is None else self.term.to_json(), self.request]
        content = json.dumps([common, own], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def condition_name(direction: str, coefficient: float, layer: int) -> str:
    """``backtracking+0.30@4``: two decimals, more where the coefficient has more."""
    short = f"{coefficient:+.2f}"
    return f"{direction}{short if float(short) == coefficient else f'{coefficient:+g}'}@{layer}"


Headline = Mapping[str, Sequence[float]]
"""By behaviour, the coefficients at which its claims are tested: one below zero, one above."""


def plan(
    directions: Mapping[str, Direction],
    coefficients: Sequence[float],
    headline: Headline,
    *,
    tasks: int,
    control_tasks: int,
    random: int = 39,
    shuffled: Mapping[str, Sequence[Direction]] | None = None,
    requests: Mapping[str, str] | None = None,
    unit: Unit | None = None,
    where: Where = "all",
) -> list[Condition]:
    """All conditions of an evaluation, in the order in which they are written.

    The baseline comes first, then what the claims are about (steered at the headline
    coefficients), then the rest of the curves, the prompts, and the controls, kinds in turn: an
    evaluation that is stopped early has what matters most.

    Parameters
    ----------
    directions:
        By behaviour, each steered at its suggested layer.
    coefficients:
        Of the curves; 0 is the baseline, which is there in any case.
    tasks, control_tasks:
        How many tasks there are, and how many of these the controls run on.
    random:
        Random directions for every layer and size of a headline coefficient. A random
        direction is as likely as its negative, so that one run serves both signs, and every
        behaviour at that layer.
    shuffled:
        By behaviour, directions of shuffled labels
        (:func:`steerkit.evaluation.controls.shuffled_directions`), steered at both headline
        coefficients of that behaviour.
    requests:
        By behaviour, the sentence that asks for it.
    unit:
        Of all coefficients: one that is the same for every direction at a layer.
    where:
        Which positions are steered, by controls too.

    Raises :class:`SteeringError` for the unit ``raw``, under which directions are not equally
    long, and for a direction without a layer.
    """
    if unit == "raw":
        raise SteeringError(
            "coefficients of different directions can't be compared in the unit 'raw'",
            expected="norm, paper or one",
        )
    steps = sorted({float(c) for c in coefficients if c})
    conditions = [Condition("baseline", "baseline", tasks)]
    places: dict[str, int] = {}
    for name, direction in directions.items():
        (places[name],) = (1.0 * direction).resolved_layers()

    def steered(name: str, coefficient: float, headlined: bool) -> Condition:
        return Condition(
            condition_name(name, coefficient, places[name]),
            "steered",
            tasks,
            behavior=name,
            layer=places[name],
            coefficient=coefficient,
            headline=headlined,
            term=coefficient * directions[name].at(layer=places[name], unit=unit, where=where),
        )

    tested = {name: sorted({float(c) for c in headline[name]}) for name in directions}
    conditions += [steered(name, c, True) for name in directions for c in tested[name]]
    conditions += [
        steered(name, c, False) for c in steps for name in directions if c not in tested[name]
    ]
    conditions += [
        Condition(f"prompt-{name}", "prompt", tasks, behavior=name, request=text)
        for name, text in (requests or {}).items()
        if text
    ]
    placed = {"unit": unit, "where": where}
    conditions += _controls(
        directions, tested, places, control_tasks, random, shuffled or {}, placed
    )
    return conditions


def _controls(
    directions: Mapping[str, Direction],
    tested: Mapping[str, Sequence[float]],
    places: Mapping[str, int],
    tasks: int,
    random: int,
    shuffled: Mapping[str, Sequence[Direction]],
    placed: Mapping[str, Any],
) -> list[Condition]:
    sizes: dict[tuple[int, float], Direction] = {}
    for name, direction in directions.items():
        for c in tested[name]:
            sizes.setdefault((places[name], abs(c)), direction)
    found: list[Condition] = []
    for number in range(max([random, *(len(several) for several in shuffled.values())])):
        for (layer, size), direction in sizes.items() if number < random else ():
            term = size * direction.random(number).at(layer=layer, **placed)
            name = condition_name(f"random-{number:02d}", size, layer)
            found.append(_control(name, "random", tasks, None, number, term))
        for behavior, several in shuffled.items():
            for c in tested[behavior] if number < len(several) else ():
                layer = places[behavior]
                term = c * several[number].at(layer=layer, **placed)
                name = condition_name(f"shuffled-{behavior}-{number:02d}", c, layer)
                found.append(_control(name, "shuffled", tasks, behavior, number, term))
    return found


def _control(
    name: str, kind: Kind, tasks: int, behavior: str | None, number: int, term: Term
) -> Condition:
    (layer,) = term.resolved_layers()
    return Condition(
        name,
        kind,
        tasks,
        behavior=behavior,
        control=number,
        layer=layer,
        coefficient=term.coefficient,
        headline=behavior is not None,
        term=term,
    )
