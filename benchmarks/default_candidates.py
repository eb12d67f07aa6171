"""Candidates for the default: methods, contrasts and windows, all at the same layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from bare_vectors import bare_vectors

import steerkit as sk
from steerkit.evidence import described, gathered, plain
from steerkit.layer_choice import auroc
from steerkit.layer_choice.forcing import Forced, forced_batches, last_states, log_probabilities
from steerkit.layer_choice.suggestion import Suggestion
from steerkit.methods import METHODS
from steerkit.terms import Terms

BEHAVIORS = ("backtracking", "uncertainty-estimation", "example-testing")
MEANS = ("overall", "rest", "balanced", "within")
WINDOWS = (sk.Window(1, 10), sk.Window(1, 0))


class Kind(NamedTuple):
    """How a candidate is made."""

    method: str
    contrast: str
    window: sk.Window

    @property
    def name(self) -> str:
        return f"{self.method}, {self.contrast}, {self.window.before},{self.window.length}"


KINDS = (
    *(
        Kind(*pair, window)
        for window in WINDOWS
        for pair in (
            *(("mean-difference", contrast) for contrast in MEANS),
            *(("mass-mean", contrast) for contrast in MEANS),
            *((method, "rest") for method in ("lda", "probe", "pca")),
        )
    ),
    *(Kind("mean-difference", contrast, sk.Window(1, 2)) for contrast in ("rest", "balanced")),
)
"""Methods that are fitted to samples take behaviours against all others, no other contrast."""
GRID = (0.1, 0.2, 0.4)
STRONGEST = 0.5
"""Coefficients at which the side effect is measured, and the largest that is used."""


@dataclass(frozen=True)
class Candidate:
    """Directions by behaviour, at the common layers; ``seconds`` to fit them at all layers."""

    kind: Kind
    directions: sk.SteeringVectors
    seconds: float

    @property
    def name(self) -> str:
        return self.kind.name

    def facts(self) -> dict[str, dict[str, float]]:
        """``layer``, ``auroc``, ``split_half`` and ``shuffled`` by behaviour, at its layer."""
        found = {}
        for name, direction in self.directions.items():
            row = direction.row(direction.layer)
            curves = {
                "auroc": direction.auroc,
                "split_half": direction.split_half,
                "shuffled": direction.split_half_shuffled,
            }
            found[name] = {"layer": direction.layer} | {
                key: float("nan") if curve is None else float(curve[row])
                for key, curve in curves.items()
            }
        return found


def candidates(
    model: sk.ThinkingModel, traces: sk.Traces, today: Kind, folder: Path
) -> list[Candidate]:
    """All of them, from one pass a window over chains of *extract* tasks; AUROC is of *select*
    tasks.

    At the layers that ``gradient`` chooses for ``today``. They are kept in ``folder``, and read
    from there the next time.
    """
    paths = {kind: folder / f"{kind.name.replace(', ', '-')}.safetensors" for kind in KINDS}
    if not all(path.is_file() for path in paths.values()):
        windows = sorted({kind.window for kind in KINDS}, key=lambda w: w != today.window)
        current = None
        for window in windows:
            mine = {kind: path for kind, path in paths.items() if kind.window == window}
            current = _extract(model, traces, today.contrast, mine, current)
    found = []
    for kind, path in paths.items():
        vectors = sk.read_vectors(path)
        found.append(Candidate(kind, vectors, vectors.provenance["seconds"]))
    return found


def _extract(
    model: sk.ThinkingModel,
    traces: sk.Traces,
    contrast: str,
    paths: Mapping[Kind, Path],
    current: sk.SteeringVectors | None,
) -> sk.SteeringVectors:
    """The candidates of one window, saved; returns those whose layers all are pushed at."""
    used, kept = traces.split("extract"), traces.split("select")
    methods, window = list(dict.fromkeys(kind.method for kind in paths)), next(iter(paths)).window
    with gathered(model, used, methods, window=window) as evidence:
        current = current or bare_vectors(model, evidence.moments, traces, contrast)
        layers = {name: current[name].layer for name in BEHAVIORS}
        chosen = Suggestion(layers, dict.fromkeys(BEHAVIORS, "gradient"))
        started = perf_counter()
        if "mass-mean" in methods:
            _ = evidence.precision  # shared by all contrasts that whiten, and counted for each
        whitened = perf_counter() - started
        raw, seconds = {}, {}
        for kind in paths:
            started = perf_counter()
            found = evidence.directions(kind.method, kind.contrast, BEHAVIORS)
            raw[kind] = {name: d.float() for name, d in found.items()}
            seconds[kind] = perf_counter() - started
            seconds[kind] += whitened if kind.method == "mass-mean" else 0.0
        flat = {(kind, name): d for kind, found in raw.items() for name, d in found.items()}
        every = list(range(model.n_layers))
        curves = auroc(model, kept, flat, every, targets={key: key[1] for key in flat})
        for kind, path in paths.items():
            areas = {name: curves[kind, name] for name in BEHAVIORS}
            bare = plain(evidence, raw[kind], model.n_layers)
            made = described(evidence, kind.method, kind.contrast, bare, areas, chosen)
            facts = {
                **current.provenance,
                "contrast": kind.contrast,
                "method": METHODS[kind.method].title,
                "window": {"before": window.before, "length": window.length},
                "seconds": seconds[kind],
            }
            sk.SteeringVectors(made, facts).save(path)
    return current


class SideEffect:
    """KL(unsteered || steered) on unsteered text: how far a push moves predictions at all.

    In nats a token over the whole vocabulary at temperature 1, mean over the thinking positions
    of the beginnings of some chains.
    """

    def __init__(
        self, model: sk.ThinkingModel, chains: Sequence[sk.Trace], *, tokens: int = 320
    ) -> None:
        self._model = model
        self._batches: list[tuple[Forced, torch.Tensor]] = []
        with model.inference():
            for forced in forced_batches(model, chains, tokens=tokens, batch_tokens=4096):
                states = last_states(model, forced)
                kept = log_probabilities(model, states[forced.thinking.to(states.device)])
                self._batches.append((forced, kept))

    def of(self, term: sk.Term) -> float:
        """That of a push, mean of both signs."""
        total, positions = 0.0, 0
        with self._model.inference():
            for sign in (-1, 1):
                for forced, before in self._batches:
                    states = last_states(self._model, forced, Terms([sign * term]))
                    after = log_probabilities(self._model, states[forced.thinking])
                    total += float((before.exp() * (before - after)).sum())
                    positions += len(before)
        return total / positions

    def matched(self, direction: sk.Direction, target: float) -> float:
        """The coefficient whose side effect is ``target``, at most :data:`STRONGEST`."""
        return matched(GRID, [self.of(c * direction) for c in GRID], target)


def matched(grid: Sequence[float], values: Sequence[float], target: float) -> float:
    """Where rising values reach the target: linear between logarithms, goes on at the ends."""
    x, y = np.log(grid), np.log(values)
    at = int(np.clip(np.searchsorted(y, np.log(target)), 1, len(y) - 1))
    slope = (y[at] - y[at - 1]) / (x[at] - x[at - 1])
    found = np.exp(x[at - 1] + (np.log(target) - y[at - 1]) / slope)
    return round(float(min(found, STRONGEST)), 3)
