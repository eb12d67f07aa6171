"""Vectors straight from moments, at the layers that `gradient` chooses: what benchmarks push."""

from __future__ import annotations

from collections.abc import Iterable

import steerkit as sk
from steerkit.directions import contrast as contrast_of
from steerkit.layer_choice.choice import choose_layers
from steerkit.layer_choice.scores import score_layers
from steerkit.moments import Moments
from steerkit.provenance import chain_facts, model_facts


def mean_differences(
    model: sk.ThinkingModel, moments: Moments, contrast: str
) -> dict[str, sk.Direction]:
    """Differences of means of every behaviour, without a layer."""
    raw = contrast_of(moments, contrast).float()
    return {
        name: sk.Direction(
            behavior=name,
            tensor=raw[i].contiguous(),
            layers=moments.layers,
            mean_norm=moments.mean_norm.float(),
            norm_of_mean=moments.norm_of_mean.float(),
            layer=None,
            spans=int(moments.counts[0, i]),
            tasks=len(moments.tasks[name]),
            n_layers=model.n_layers,
        )
        for i, name in enumerate(moments.labels)
    }


def bare_vectors(
    model: sk.ThinkingModel, moments: Moments, traces: Iterable[sk.Trace], contrast: str
) -> sk.SteeringVectors:
    """Differences of means of every behaviour, at the layers that ``gradient`` chooses.

    ``moments`` are of the chains of *extract* tasks in ``traces``; layers are chosen on those of
    *select* tasks. No reliability and no AUROC: one pass less than an extraction takes.
    """
    traces = sk.Traces(traces)
    used, kept = traces.split("extract"), traces.split("select")
    directions = mean_differences(model, moments, contrast)
    facts = {**model_facts(model), **chain_facts(used, kept), "contrast": contrast}
    vectors = sk.SteeringVectors(directions, facts)
    scores = score_layers(model, vectors, kept, scores=("gradient",))
    return choose_layers(vectors, scores, "gradient").vectors
