"""Experiments whose truth is known: conditions with planted rates, as tables or as sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from steerkit.evaluation.pooled import CONDITION, Pooled

LABELS = ("deduction", "backtracking", "uncertainty-estimation", "unparsed")
BASE = {"backtracking": 0.10, "uncertainty-estimation": 0.06, "unparsed": 0.02}
LAYER = 4


@dataclass(frozen=True)
class Planted:
    """A condition and its true rates: the expected share of sentences of every label.

    What ``rates`` leaves out of 1 is ``deduction``. ``tasks``: the first so many of them.
    """

    condition: str
    kind: str = "steered"
    behavior: str | None = None
    control: int | None = None
    coefficient: float = 0.0
    headline: bool = False
    rates: Mapping[str, float] = field(default_factory=lambda: dict(BASE))
    tasks: int | None = None
    accuracy: float = 0.6
    sentences: float = 16.0

    def described(self) -> dict[str, object]:
        """Its columns in a generations table."""
        return {
            "condition": self.condition,
            "kind": self.kind,
            "behavior": self.behavior,
            "control": self.control,
            "layer": None if self.kind in ("baseline", "prompt") else LAYER,
            "coefficient": self.coefficient,
            "headline": self.headline,
        }


BASELINE = Planted("baseline", "baseline")


def steered(behavior: str, coefficient: float, rate: float, **others: object) -> Planted:
    """A behaviour steered to a rate."""
    return Planted(
        f"{behavior}{coefficient:+g}@{LAYER}",
        behavior=behavior,
        coefficient=coefficient,
        rates=BASE | {behavior: rate},
        **others,  # type: ignore[arg-type]
    )


def controls_of(
    behavior: str,
    coefficient: float,
    changes: Iterable[float],
    *,
    kinds: tuple[str, ...] = ("random", "shuffled"),
    tasks: int | None = None,
) -> list[Planted]:
    """Control directions that change a behaviour's rate by so much, one of each kind."""
    made = []
    for number, change in enumerate(changes):
        rates = BASE | {behavior: BASE[behavior] + change}
        for kind in kinds:
            size = abs(coefficient) if kind == "random" else coefficient
            name = "random" if kind == "random" else f"shuffled-{behavior}"
            made.append(
                Planted(
                    f"{name}-{number:02}{size:+g}@{LAYER}",
                    kind,
                    None if kind == "random" else behavior,
                    number,
                    size,
                    rates=rates,
                    tasks=tasks,
                )
            )
    return made


def table(
    plan: Iterable[Planted],
    *,
    tasks: int = 24,
    samples: int = 2,
    seed: int = 0,
    spread: float = 0.6,
    silent: float = 0.0,
    truncated: float = 0.0,
    annotator: str = "planted",
) -> pd.DataFrame:
    """A generations table: sentence after sentence drawn at the planted rates.

    A task's rates are the planted ones times a factor of its own, the same under every
    condition, uniform from 1 - ``spread`` to 1 + ``spread``: mean 1, so the planted rates are
    those of all tasks. ``silent`` and ``truncated``: shares of chains without a sentence, and
    cut off.
    """
    draw = np.random.default_rng(seed)
    factors = draw.uniform(1 - spread, 1 + spread, size=tasks)
    lengths = draw.uniform(0.7, 1.3, size=tasks)
    ability = draw.uniform(-0.3, 0.3, size=tasks)
    rows = []
    for planted in plan:
        for task in range(tasks if planted.tasks is None else planted.tasks):
            chances = [planted.rates[label] * factors[task] for label in LABELS[1:]]
            chances.insert(0, 1 - sum(chances))
            for sample in range(samples):
                number = 1 + draw.poisson(planted.sentences * lengths[task] - 1)
                number = 0 if draw.random() < silent else number
                labels = draw.choice(len(LABELS), size=number, p=chances)
                words = draw.integers(4, 12, size=number)
                cut = bool(draw.random() < truncated)
                row = planted.described() | {
                    "task": f"task-{task:02}",
                    "category": "planted",
                    "sample": sample,
                    "seed": seed,
                    "trace": f"{planted.condition}-{task}-{sample}",
                    "annotator": annotator,
                    "closed": not cut,
                    "truncated": cut,
                    "correct": None
                    if task % 5 == 4
                    else bool(draw.random() < planted.accuracy + ability[task]),
                    "tokens": int(words.sum()) + 12,
                    "thinking_tokens": int(words.sum()),
                    "sentences": number,
                    "parsed": float((labels != len(LABELS) - 1).mean()) if number else np.nan,
                    "zlib": draw.uniform(0.4, 0.5),
                    "repeated": draw.uniform(0, 0.1),
                    "loop": int(draw.integers(0, 6)),
                    "labels": [LABELS[i] for i in labels],
                    "words": words.tolist(),
                }
                rows.append(row | counted(labels, words))
    return pd.DataFrame(rows)


def counted(labels: np.ndarray, words: np.ndarray) -> dict[str, int]:
    """The columns of counts, by counting."""
    found: dict[str, int] = {}
    for i, label in enumerate(LABELS):
        is_label = labels == i
        before = np.concatenate([[False], is_label[:-1]]) if len(labels) else is_label
        found[f"spans:{label}"] = int(is_label.sum())
        found[f"span_tokens:{label}"] = int(words[is_label].sum())
        if label != "unparsed":
            found[f"onsets:{label}"] = int((is_label & ~before).sum())
            found[f"at_risk:{label}"] = int((~before).sum())
    return found


class Sums:
    """Pooled outcomes drawn directly: hundreds of experiments in a second.

    Of every behaviour in ``behaviors`` spans are drawn at the rates of ``plan`` times a task's
    factor and one of every task and condition (mean 1 both); the conditions are the same in
    every draw.
    """

    def __init__(
        self,
        plan: list[Planted],
        *,
        tasks: int = 24,
        samples: int = 2,
        spread: float = 0.6,
        noise: float = 0.4,
        behaviors: tuple[str, ...] = ("backtracking", "uncertainty-estimation"),
    ) -> None:
        self.conditions = pd.DataFrame([p.described() for p in plan])[CONDITION]
        self.behaviors = behaviors
        self.shape = (len(plan), tasks)
        self.samples, self.spread, self.noise = samples, spread, noise
        self.sentences = np.array([p.sentences for p in plan])[:, None]
        self.rates = {b: np.array([p.rates[b] for p in plan])[:, None] for b in behaviors}
        ran = np.array([tasks if p.tasks is None else p.tasks for p in plan])
        self.ran = np.arange(tasks) < ran[:, None]

    def draw(
        self,
        draw: np.random.Generator,
        rates: Mapping[str, np.ndarray] | None = None,
        *,
        paired: bool = True,
    ) -> Pooled:
        """One experiment; ``rates`` by behaviour, ``[condition]``, replace the planted ones.

        Not ``paired``, every condition has tasks of its own, as if it were an experiment alone.
        """
        tasks = (self.shape[1],) if paired else self.shape
        lengths = draw.uniform(0.7, 1.3, size=tasks)
        mean = np.broadcast_to(self.samples * (self.sentences - 1) * lengths, self.shape)
        sentences = (self.samples + draw.poisson(mean)) * self.ran
        sums = {
            "chains": self.samples * self.ran.astype(np.float64),
            "sentences": sentences.astype(np.float64),
            "sum:truncated": np.zeros(self.shape),
            "n:truncated": self.samples * self.ran.astype(np.float64),
            "silent": np.zeros(self.shape),
        }
        for behavior in self.behaviors:
            rate = self.rates[behavior] if rates is None else rates[behavior][:, None]
            own = draw.uniform(1 - self.spread, 1 + self.spread, size=tasks)
            each = draw.uniform(1 - self.noise, 1 + self.noise, size=self.shape)
            chances = np.clip(rate * own * each, 0, 1)
            spans = draw.binomial(sentences, chances)
            sums[f"spans:{behavior}"] = spans.astype(np.float64)
        names = tuple(f"task-{i:02}" for i in range(self.shape[1]))
        return Pooled("planted", self.conditions, names, self.behaviors, sums)


def experiment(
    *,
    controls: int = 10,
    control_tasks: int | None = None,
    amplified: float = 0.30,
    suppressed: float = 0.02,
    spread: float = 0.01,
    seed: int = 0,
) -> list[Planted]:
    """Backtracking and uncertainty steered at seven coefficients, with controls and a prompt.

    Backtracking rises to ``amplified`` at +0.3, the headline coefficient, and falls to
    ``suppressed`` at -0.2; uncertainty does not move. Controls scatter about no effect.
    """
    draw = np.random.default_rng(seed)
    curve = {-0.3: suppressed, -0.2: suppressed, -0.1: 0.06, 0.1: 0.16, 0.2: 0.22}
    curve |= {0.3: amplified, 0.4: amplified}
    plan = [BASELINE]
    for behavior in ("backtracking", "uncertainty-estimation"):
        for c, rate in curve.items():
            mine = rate if behavior == "backtracking" else BASE[behavior]
            plan.append(steered(behavior, c, mine, headline=c in (-0.2, 0.3)))
        for c in (-0.2, 0.3):
            kinds = ("random", "shuffled") if behavior == "backtracking" else ("shuffled",)
            changes = draw.normal(0, spread, size=controls)
            plan += controls_of(behavior, c, changes, kinds=kinds, tasks=control_tasks)
    plan.append(
        Planted(
            "prompt-backtracking",
            "prompt",
            "backtracking",
            rates=BASE | {"backtracking": 0.17},
        )
    )
    return plan


SETTINGS = {
    "unit": "norm",
    "ranges": {
        "backtracking": {"fluent": [-0.25, 0.3], "free": [-0.1, 0.2], "found_on": 20},
        "uncertainty-estimation": {"fluent": [-0.3, 0.4], "free": None, "found_on": 20},
    },
}
