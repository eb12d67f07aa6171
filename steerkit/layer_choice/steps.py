"""Steps: what a real steering step at one layer does to the predictions on unsteered text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.direction import Direction
from steerkit.layer_choice.forcing import Forced, divergences, last_states
from steerkit.layer_choice.openers import boundary_counts, opener_log_probabilities
from steerkit.models import ThinkingModel
from steerkit.terms import Term, Terms


@dataclass(frozen=True)
class Step:
    """What one step does, by row; sums over the row's positions or boundaries.

    Attributes
    ----------
    divergence:
        KL(p0 || pc) over the whole vocabulary at temperature 1, in nats, summed over the
        thinking positions.
    gains:
        Rise of every opener's log-probability, in nats, in the order of the boundaries.
    """

    divergence: Float[Tensor, " row"]
    gains: Float[Tensor, " boundary"]


def step_effects(
    model: ThinkingModel,
    forced: Forced,
    directions: Mapping[str, Direction],
    layers: Sequence[int],
    coefficient: float,
    *,
    randoms: int = 2,
    told: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Float[Tensor, "row layer"]]]:
    """Finite-step effect and opener gain of every direction at every layer.

    The step is the term ``coefficient * direction.at(layer=layer)``, as in generation: at every
    position, those of the prompt among them, while what it does is read while thinking. KL is
    also taken for ``randoms`` random directions of the same length, the same for all
    behaviours: a step moves predictions whatever its direction, and only what exceeds that
    speaks for the direction. ``told`` is called after every forward pass.

    Returns
    -------
    By behaviour, ``[row, layer]``: ``divergence`` and ``random`` (nats, summed over thinking
    positions), ``own`` and ``other`` (nats, summed over boundaries); and ``[row, 1]``:
    ``n_own``, ``n_other``, ``positions``.
    """
    with model.inference():
        base = last_states(model, forced)
        told()
        mask = forced.thinking.to(base.device)
        before = (
            opener_log_probabilities(model, forced, base) if forced.boundaries else torch.zeros(0)
        )

        def step(term: Term) -> Step:
            states = last_states(model, forced, Terms([term]))
            told()
            rows = mask.nonzero()[:, 0]
            sums = torch.zeros(len(forced.ids), device=base.device)
            sums.index_add_(0, rows, divergences(model, base[mask], states[mask]))
            gains = before
            if forced.boundaries:
                gains = opener_log_probabilities(model, forced, states) - before
            return Step(sums.cpu(), gains.cpu())

        first = next(iter(directions.values()))
        random = [
            [step(coefficient * first.random(seed).at(layer=layer)) for seed in range(randoms)]
            for layer in layers
        ]
        found = {}
        for name, direction in directions.items():
            steps = [step(coefficient * direction.at(layer=layer)) for layer in layers]
            own = torch.tensor([label == name for *_, label in forced.boundaries], dtype=torch.bool)
            found[name] = {
                "divergence": torch.stack([s.divergence for s in steps], dim=1),
                "random": torch.stack(
                    [torch.stack([s.divergence for s in r]).mean(dim=0) for r in random], dim=1
                ),
                "own": torch.stack([_by_row(forced, s.gains, own) for s in steps], dim=1),
                "other": torch.stack([_by_row(forced, s.gains, ~own) for s in steps], dim=1),
                "positions": forced.thinking.sum(dim=1, keepdim=True).float(),
                **boundary_counts(forced, name),
            }
    return found


def _by_row(forced: Forced, gains: Tensor, chosen: Tensor) -> Float[Tensor, " row"]:
    rows = torch.tensor([row for row, *_ in forced.boundaries], dtype=torch.int64)
    sums = torch.zeros(len(forced.ids))
    return sums.index_add_(0, rows[chosen], gains[chosen].float())
