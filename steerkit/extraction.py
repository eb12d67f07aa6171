"""Extraction: annotated chains to steering vectors."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

from steerkit.chain_sets import Passes, chain_sets
from steerkit.collection import collect, model_layers
from steerkit.evidence import described, gathered, plain
from steerkit.geometry import cosines
from steerkit.layer_choice import auroc
from steerkit.layer_choice.suggestion import (
    CHAINS,
    DEFAULT_SCORE,
    chains_to_score,
    check_choice,
    suggest_layers,
)
from steerkit.layers import Layers
from steerkit.methods import DEFAULT_METHOD, METHODS, check_method, default_contrast
from steerkit.models import ThinkingModel
from steerkit.positions import Window
from steerkit.provenance import chain_facts, model_facts, versions
from steerkit.reading import REPLICATES
from steerkit.reliability import replicates_used
from steerkit.span_means import MOST_BYTES
from steerkit.streaming import Progress, TooLong
from steerkit.traces import Trace
from steerkit.vectors import SteeringVectors

__all__ = ["collect", "extract"]

_log = logging.getLogger(__name__)


def extract(
    model: ThinkingModel,
    traces: Iterable[Trace],
    *,
    behaviors: str | Iterable[str] | None = None,
    contrast: str | None = None,
    method: str = DEFAULT_METHOD,
    choose_by: str = DEFAULT_SCORE,
    layers: Layers | None = None,
    window: Window | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
    select: Iterable[Trace] | None = None,
    too_long: TooLong = "refuse",
    sample_bytes: int = MOST_BYTES,
    progress: Progress | None = None,
) -> SteeringVectors:
    """Annotated chains to steering vectors: collect, contrast, choose a layer.

    Directions come from the chains of *extract* tasks; a layer is suggested for each on chains
    of *select* tasks, by ``choose_by``. *evaluate* tasks are never read.

    Parameters
    ----------
    model, traces:
        A thinking model and annotated chains, its own or another's: :class:`Traces`, or any
        sequence of :class:`Trace`.
    behaviors:
        Behaviours to return, one or several; by default every one that has the spans it
        needs. The others' spans still serve as contrast. One that is not asked for and cannot
        be had is left out with a warning, and ``provenance["left_out"]`` says why.
    contrast:
        ``overall``, ``rest``, ``balanced``, ``within`` or ``A:B``: see
        :func:`steerkit.directions.contrast`. By default ``balanced``, or ``rest`` for methods
        that are fitted to samples.
    method:
        ``mean-difference``, ``mass-mean``, ``lda``, ``probe`` or ``pca``: see
        :mod:`steerkit.methods`. All give directions of the same length.
    choose_by:
        The score that is largest at the suggested layer (:mod:`steerkit.layer_choice`):
        ``gradient``, how steeply the direction raises the log-probability of the behaviour's
        first tokens, from backward passes over at most 24 chains; ``auroc``, how well the
        projection before a span foretells its label, which is reported in any case; ``gain``,
        ``effect`` or ``published``. A model that has no backward pass is left to ``auroc``,
        with a warning; ``direction.chosen_by`` says which score it was.
    select:
        Chains to choose layers on. When given, all of ``traces`` are extracted from, and
        none of them may share a task with these; empty means that no layer is chosen.
    layers, window, batch_tokens, seed, too_long, progress:
        As for :func:`collect`; ``progress`` counts the chains of all passes.
    sample_bytes:
        Largest file of span means, for methods that are fitted to them; it is deleted
        afterwards.

    Returns
    -------
    :class:`SteeringVectors`, a readable table in a notebook. The same call on the same
    machine and versions gives the same values to the last bit.

    Raises what :func:`collect` raises (:class:`TraceError` also for what are no traces, such
    as a path), and :class:`ExtractionError` for a behaviour asked
    for that lacks the spans its contrast needs.
    """
    contrast = default_contrast(method) if contrast is None else contrast
    check_method(method, contrast)
    check_choice(choose_by)
    chosen = model_layers(model, layers)
    sets, asked, contrast = chain_sets(traces, select, behaviors, contrast)
    used, kept, left_out = sets
    scored = 0 if choose_by == "auroc" else min(len(kept), CHAINS)
    report = Passes(progress, [len(used), len(kept), scored])
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "too_long": too_long}
    with gathered(
        model,
        used,
        [method],
        sample_bytes=sample_bytes,
        layers=chosen,
        window=window,
        seed=seed,
        progress=report.next(),
        **options,
    ) as evidence:
        moments = evidence.moments
        drawn = evidence.directions(method, contrast, asked, left_out=left_out)
        raw = {name: direction.float() for name, direction in drawn.items()}
        for name, reason in left_out.items():
            _log.warning("%s is left out: %s", name, reason)
        select_counters: Counter[str] = Counter()
        curves = auroc(
            model, kept, raw, chosen, counters=select_counters, progress=report.next(), **options
        )
        for name in sorted(raw.keys() - curves.keys()) if kept else ():
            _log.warning("no layer chosen for %s: select tasks do not tell it from others", name)
        found = plain(evidence, raw, model.n_layers)
        suggestion = suggest_layers(
            model,
            found,
            kept,
            chosen,
            curves,
            score=choose_by,
            count=chains_to_score(moments.tokens, len(curves)),
            batch_tokens=batch_tokens,
            progress=report.next(),
        )
        report.end()
        directions = described(evidence, method, contrast, found, curves, suggestion)
    provenance = {
        **model_facts(model),
        **chain_facts(used, kept),
        "contrast": contrast,
        "method": METHODS[method].title,
        **({"layer_choice": dict(suggestion.facts)} if kept else {}),
        "window": {"before": moments.window.before, "length": moments.window.length},
        "seed": seed,
        "too_long": too_long,
        "left_out": dict(sorted(left_out.items())),
        "counts": dict(sorted(moments.counters.items())),
        "select_counts": dict(sorted(select_counters.items())),
        "outliers": moments.outliers.tolist(),
        "replicates": REPLICATES,
        "replicates_used": replicates_used(moments, contrast),
        "versions": versions(),
    }
    _log.info("extracted %s from %r", ", ".join(directions), moments)
    geometry = cosines(moments, contrast, directions) if method == DEFAULT_METHOD else None
    return SteeringVectors(directions, provenance, geometry)
