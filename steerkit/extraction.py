"""Extraction: annotated chains to steering vectors."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jaxtyping import Float, Float64
from torch import Tensor

from steerkit.behaviors import behavior
from steerkit.behaviors import behaviors as known_behaviors
from steerkit.collection import collect, model_layers, trace_digest
from steerkit.directions import (
    DEFAULT_CONTRAST,
    cone,
    defined,
    parse_contrast,
    replicates_used,
    split_half,
    split_half_shuffled,
)
from steerkit.directions import contrast as contrast_of
from steerkit.errors import ExtractionError
from steerkit.geometry import cosines
from steerkit.layer_choice import auroc, suggested_layer
from steerkit.layers import Layers
from steerkit.models import ThinkingModel
from steerkit.moments import Moments
from steerkit.positions import Window
from steerkit.reading import REPLICATES
from steerkit.streaming import Progress, TooLong
from steerkit.traces import Trace, Traces
from steerkit.vectors import Direction, SteeringVectors

__all__ = ["collect", "extract"]

METHOD = "difference of means"
_log = logging.getLogger(__name__)


def extract(
    model: ThinkingModel,
    traces: Iterable[Trace],
    *,
    behaviors: str | Iterable[str] | None = None,
    contrast: str = DEFAULT_CONTRAST,
    layers: Layers | None = None,
    window: Window | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
    select: Iterable[Trace] | None = None,
    too_long: TooLong = "refuse",
    progress: Progress | None = None,
) -> SteeringVectors:
    """Annotated chains to steering vectors: collect, contrast, choose a layer.

    Directions come from the chains of *extract* tasks; the suggested layer is the one
    whose projection at the token before a span best foretells its label (area under the
    ROC curve) on chains of *select* tasks. *evaluate* tasks are never read.

    Parameters
    ----------
    model, traces:
        A thinking model and annotated chains, its own or another's: :class:`Traces`, or any
        sequence of :class:`Trace`.
    behaviors:
        Behaviours to return, one or several; by default every one that has the spans it
        needs. The others' spans still serve as contrast.
    contrast:
        ``overall``, ``rest``, ``balanced``, ``within`` or ``A:B``: see
        :func:`steerkit.directions.contrast`.
    select:
        Chains to choose layers on. When given, all of ``traces`` are extracted from, and
        none of them may share a task with these; empty means that no layer is chosen.
    layers, window, batch_tokens, seed, too_long, progress:
        As for :func:`collect`; ``progress`` counts both passes.

    Returns
    -------
    :class:`SteeringVectors`, a readable table in a notebook. The same call on the same
    machine and versions gives the same values to the last bit.

    Raises what :func:`collect` raises (:class:`TraceError` also for what are no traces, such
    as a path), and :class:`ExtractionError` for a behaviour asked
    for that lacks the spans its contrast needs.
    """
    chosen, traces = model_layers(model, layers), Traces(traces)
    select = None if select is None else Traces(select)
    behaviors = [behaviors] if isinstance(behaviors, str) else behaviors
    asked = None if behaviors is None else [behavior(name).name for name in behaviors]
    used = traces.split("extract") if select is None else traces
    kept = traces.split("select") if select is None else select
    _check_disjoint(used, kept)
    counts = _labelled(used)
    if not counts:
        elsewhere = f"; the whole file has {sum(_labelled(traces).values())}"
        raise ExtractionError(
            "no annotated spans in the chains to extract from",
            expected="spans labelled with behaviours",
            found=f"{len(used)} chains without any{elsewhere if select is None else ''}",
            fix="annotate them first: sk.annotate(traces), or steerkit annotate FILE; "
            "to use every chain, pass other chains (or sk.Traces()) as select",
        )
    for name in asked or ():
        if name not in counts:
            raise ExtractionError(
                f"no spans of {name!r} in the chains to extract from",
                expected="a behaviour with spans",
                found=", ".join(f"{label} {n}" for label, n in counts.items()),
                fix="annotate more chains or ask for one of these",
            )
    parse_contrast(contrast, tuple(counts))
    done_before, total = 0, len(used) + len(kept)

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(done_before + done, total)

    moments = collect(
        model,
        used,
        layers=chosen,
        window=window,
        batch_tokens=batch_tokens,
        seed=seed,
        too_long=too_long,
        progress=report,
    )
    raw = _directions(moments, contrast, asked)
    done_before = len(used)
    select_counters: Counter[str] = Counter()
    curves = auroc(
        model,
        kept,
        raw,
        chosen,
        batch_tokens=batch_tokens,
        too_long=too_long,
        counters=select_counters,
        progress=report,
    )
    if progress is not None:
        progress(total, total)
    halves, shuffled = split_half(moments, contrast), split_half_shuffled(moments, contrast)
    cones = cone(moments, contrast)
    for name in sorted(raw.keys() - curves.keys()) if kept else ():
        _log.warning("no layer chosen for %s: select tasks do not tell it from others", name)
    directions = {
        name: Direction(
            behavior=name,
            tensor=tensor,
            layers=tuple(chosen),
            mean_norm=moments.mean_norm.float(),
            norm_of_mean=moments.norm_of_mean.float(),
            layer=suggested_layer(curves[name], chosen) if name in curves else None,
            spans=int(moments.counts[0, moments.labels.index(name)]),
            tasks=len(moments.tasks[name]),
            split_half=_float(halves.get(name)),
            split_half_shuffled=_float(shuffled.get(name)),
            auroc=_float(curves.get(name)),
            cone=_float(cones.get(name)),
            mean_projection=_along(moments.mean, tensor),
            n_layers=model.n_layers,
        )
        for name, tensor in raw.items()
    }
    provenance = {
        **_model_facts(model),
        "traces": sorted(trace_digest(trace) for trace in used),
        "select_traces": sorted(trace_digest(trace) for trace in kept),
        "extract_tasks": _tasks(used),
        "select_tasks": _tasks(kept),
        "annotators": sorted({t.annotator for t in (*used, *kept) if t.annotator is not None}),
        "contrast": contrast,
        "method": METHOD,
        "window": {"before": moments.window.before, "length": moments.window.length},
        "seed": seed,
        "too_long": too_long,
        "counts": dict(sorted(moments.counters.items())),
        "select_counts": dict(sorted(select_counters.items())),
        "outliers": moments.outliers.tolist(),
        "replicates": REPLICATES,
        "replicates_used": replicates_used(moments, contrast),
        "versions": _versions(),
    }
    _log.info("extracted %s from %r", ", ".join(directions), moments)
    return SteeringVectors(directions, provenance, cosines(moments, contrast, directions))


def _labelled(traces: Traces) -> dict[str, int]:
    counts = traces.counts()
    return {b.name: counts[b.name] for b in known_behaviors() if b.name in counts}


def _tasks(traces: Sequence[Trace]) -> list[str]:
    return sorted({trace.task_key for trace in traces})


def _check_disjoint(used: Sequence[Trace], kept: Sequence[Trace]) -> None:
    shared = set(_tasks(used)) & set(_tasks(kept))
    if shared:
        name = next(t.task_id for t in kept if _tasks([t])[0] in shared)
        raise ExtractionError(
            f"{len(shared)} tasks are both extracted from and used to choose layers",
            expected="chains of other tasks as select",
            found=f"task {name!r} in both",
        )


def _directions(
    moments: Moments, contrast: str, asked: list[str] | None
) -> dict[str, Float[Tensor, "layer d_model"]]:
    tensor, there = contrast_of(moments, contrast).float(), defined(moments, contrast)[0]
    names = [label for i, label in enumerate(moments.labels) if there[i]]
    missing = [name for name in asked or () if name not in names]
    if missing or not names:
        raise ExtractionError(
            f"contrast {contrast!r} is not defined for {', '.join(missing) or 'any behaviour'}",
            expected="spans of it and of what it is set against"
            + (" in one chain" if contrast == "within" else ""),
            found=", ".join(
                f"{label} {int(n)}"
                for label, n in zip(moments.labels, moments.counts[0], strict=True)
            )
            + f" (windows read; {moments.counters['empty windows']} were empty)",
            fix="annotate more chains or choose another contrast",
        )
    return {
        name: tensor[moments.labels.index(name)].contiguous()
        for name in (names if asked is None else dict.fromkeys(asked))
    }


def _float(curve: Tensor | None) -> Tensor | None:
    return None if curve is None else curve.float()


def _along(
    mean: Float64[Tensor, "layer d_model"], tensor: Float[Tensor, "layer d_model"]
) -> Float[Tensor, " layer"]:
    """m . u of every layer, u the unit vector of the direction."""
    raw = tensor.double()
    return ((mean * raw).sum(dim=1) / raw.norm(dim=1).clamp_min(1e-30)).float()


def _model_facts(model: ThinkingModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "revision": model.revision,
        "tokenizer_hash": model.tokenizer_hash,
        "d_model": model.d_model,
        "n_layers": model.n_layers,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in ("steerkit-thinking", "torch", "transformers", "transformer-lens"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that was never installed
            continue
    return found
