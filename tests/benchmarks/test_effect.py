"""The verdict of `make effect` follows planted effects, and can say no."""

from __future__ import annotations

import effect
import numpy as np
import pandas as pd
import pytest
from effect_report import draw, markdown

from steerkit.errors import SteerkitError
from steerkit.sweeps import Sweep
from steerkit.traces import Span, Trace, Traces

RANDOM = 5


def planted(minus: float, plus: float, random: float, tasks: int = 150) -> pd.DataFrame:
    """Counts per chain with these true changes, and controls whose changes are +-``random``."""
    draw = np.random.default_rng(0)
    base = draw.poisson(3.0, tasks).astype(float)
    changes = {("none", 0.0): 0.0, ("backtracking", -0.4): minus, ("backtracking", 0.4): plus}
    for seed in range(RANDOM):
        for sign in (-1, 1):
            changes[f"random-{seed}", sign * 0.4] = sign * random * (1 if seed % 2 else -1)
    parts = [
        pd.DataFrame(
            {
                "direction": name,
                "coefficient": coefficient,
                "task": np.arange(tasks),
                "backtracking": base + change + (change != 0) * draw.normal(0, 0.5, tasks),
                "sentences": 10.0,
                "tokens": 100,
                "closed": True,
                "correct": draw.random(tasks) < 0.4,
                "parsed": 0.98,
                "zlib": 0.4,
            }
        )
        for (name, coefficient), change in changes.items()
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("minus", "plus", "random", "holds"),
    [
        (-1.0, 1.0, 0.1, True),
        (-1.0, 1.0, 1.5, False),  # a random direction does as much
        (1.0, 1.0, 0.1, False),  # less of it makes more of it
        (-1.0, 0.0, 0.0, False),  # nothing happens at one sign
    ],
)
def test_verdict(minus: float, plus: float, random: float, holds: bool) -> None:
    summary = effect.summarise(planted(minus, plus, random))
    found = effect.verdict(summary, 0.4)
    assert found["holds"] is holds
    assert found["minus"]["change"] == pytest.approx(minus, abs=0.2)
    assert found["minus"]["low"] < found["minus"]["change"] < found["minus"]["high"]
    assert found["plus"]["random_directions"] == RANDOM
    assert found["plus"]["largest_random"] == pytest.approx(random, abs=0.2)


def test_page_and_figure_show_every_condition() -> None:
    summary = effect.summarise(planted(-1.0, 1.0, 0.1))
    result = {
        "model": "m",
        "behavior": "backtracking",
        "layer": 3,
        "contrast": "rest",
        "tasks": 150,
        "verdict": effect.verdict(summary, 0.4),
    }
    page = markdown(summary, result)
    assert page.count("\n| ") == 5 and "both hold" in page and "5 random" in page
    left, right = draw(summary, result).axes
    assert "chain" in left.get_ylabel() and "%" in right.get_ylabel()


def test_pairing_is_by_task_not_by_row() -> None:
    table = planted(-1.0, 1.0, 0.1)
    shuffled = table.sample(frac=1, random_state=1)
    columns = ["direction", "coefficient", "backtracking_change", "backtracking_change_low"]
    a = effect.summarise(table)[columns].sort_values(["direction", "coefficient"])
    b = effect.summarise(shuffled)[columns].sort_values(["direction", "coefficient"])
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))


def test_counts_of_a_chain() -> None:
    text = "3 + 7 = 10. Wait, let me try something else. Foo.\n</think>\nThe answer is 3 * 7 + 8."
    labels = [(0, 11, "deduction"), (12, 44, "backtracking"), (45, 49, "unparsed")]
    trace = Trace(
        "a",
        "t",
        text,
        prompt="Use 3, 7, 8 to make 29.",
        spans=tuple(Span(*entry) for entry in labels),
        token_ids=(1, 2, 3),
    )
    found = effect.counts(trace)
    assert (found["backtracking"], found["sentences"], found["tokens"]) == (1, 3, 3)
    assert found["closed"] and found["correct"]
    assert found["parsed"] == pytest.approx(2 / 3)
    assert 0 < found["zlib"] < 1.2


class Fluent:
    """Stands in for a model: its chains close, and are known to the grammar, up to ``limit``."""

    def __init__(self, limit: dict[int, float]) -> None:
        self.limit = limit

    def sweep(self, tasks, direction, *, coefficients, **options):
        traces, rows = [], []
        for number, task in enumerate(tasks):
            for c in (0.0, *coefficients):
                good = abs(c) <= self.limit[-1 if c < 0 else 1]
                text = "3 + 7 = 10." if good or number % 2 else "Bananas."
                response = f"{text}\n</think>\nI do not know."
                traces.append(Trace(f"{number}-{c}", task, response, prompt="Use 3, 7 to make 10."))
                rows.append({"coefficient": c, "closed": True})
        return Sweep(Traces(traces), pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("minus", "plus", "chosen"), [(0.5, 0.5, 0.5), (0.2, 0.5, 0.2), (0.4, 0.1, 0.1)]
)
def test_the_tested_coefficient_is_the_largest_that_stays_fluent(minus, plus, chosen) -> None:
    model = Fluent({-1: minus, 1: plus})
    assert effect.fluent_coefficient(model, None, list("abcdef"), 100) == chosen
    with pytest.raises(SteerkitError, match="no coefficient"):
        effect.fluent_coefficient(Fluent({-1: 0.01, 1: 0.5}), None, list("abcdef"), 100)
