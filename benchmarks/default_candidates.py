"""Candidates for the default: every method and contrast, from one pass, at the same layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

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
CANDIDATES = (
    *(("mean-difference", contrast) for contrast in MEANS),
    *(("mass-mean", contrast) for contrast in MEANS),
    *((method, "rest") for method in ("lda", "probe", "pca")),
)
"""Methods that are fitted to samples take behaviours against all others, no other contrast."""
GRID = (0.1, 0.2, 0.4)
STRONGEST = 0.5
"""Coefficients at which the side effect is measured, and the largest that is used."""


@dataclass(frozen=True)
class Candidate:
    """Directions by behaviour, at the common layers; ``seconds`` to fit them at all layers."""

    method: str
    contrast: str
    directions: sk.SteeringVectors
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.method}, {self.contrast}"

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
    model: sk.ThinkingModel, traces: sk.Traces, today: str, folder: Path
) -> list[Candidate]:
    """All of them, from one pass over chains of *extract* tasks; AUROC is of *select* tasks.

    At the layers that ``gradient`` chooses for the contrast ``today``. They are kept in
    ``folder``, and read from there the next time.
    """
    paths = {key: folder / f"{'-'.join(key)}.safetensors" for key in CANDIDATES}
    if not all(path.is_file() for path in paths.values()):
        _extract(model, traces, today, paths)
    found = []
    for key, path in paths.items():
        vectors = sk.read_vectors(path)
        found.append(Candidate(*key, vectors, vectors.provenance["seconds"]))
    return found


def _extract(
    model: sk.ThinkingModel,
    traces: sk.Traces,
    today: str,
    paths: Mapping[tuple[str, str], Path],
) -> None:
    used, kept = traces.split("extract"), traces.split("select")
    with gathered(model, used, list(dict.fromkeys(method for method, _ in paths))) as evidence:
        current = bare_vectors(model, evidence.moments, traces, today)
        layers = {name: current[name].layer for name in BEHAVIORS}
        chosen = Suggestion(layers, dict.fromkeys(BEHAVIORS, "gradient"))
        started = perf_counter()
        _ = evidence.precision  # shared by all contrasts that whiten, and counted for each
        whitened = perf_counter() - started
        raw, seconds = {}, {}
        for method, contrast in paths:
            started = perf_counter()
            found = evidence.directions(method, contrast, BEHAVIORS)
            raw[method, contrast] = {name: d.float() for name, d in found.items()}
            seconds[method, contrast] = perf_counter() - started
            seconds[method, contrast] += whitened if method == "mass-mean" else 0.0
        flat = {(*key, name): d for key, found in raw.items() for name, d in found.items()}
        every = list(range(model.n_layers))
        curves = auroc(model, kept, flat, every, targets={key: key[2] for key in flat})
        for key, path in paths.items():
            areas = {name: curves[*key, name] for name in BEHAVIORS}
            bare = plain(evidence, raw[key], model.n_layers)
            made = described(evidence, *key, bare, areas, chosen)
            facts = {**current.provenance, "contrast": key[1], "method": METHODS[key[0]].title}
            sk.SteeringVectors(made, {**facts, "seconds": seconds[key]}).save(path)


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
