"""Provenance: what a vectors file says of the model, chains and versions it was made with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from steerkit.collection import trace_digest
from steerkit.models import ThinkingModel
from steerkit.traces import Trace


def model_facts(model: ThinkingModel) -> dict[str, Any]:
    """Which model in which state, with which adapter if any."""
    found = {
        "model": model.name,
        "revision": model.revision,
        "tokenizer_hash": model.tokenizer_hash,
        "d_model": model.d_model,
        "n_layers": model.n_layers,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    # said only where there is one: files made without stay as they were
    return found if model.adapter is None else {**found, "adapter": model.adapter.facts}


def chain_facts(used: Sequence[Trace], kept: Sequence[Trace]) -> dict[str, Any]:
    """Hashes of the chains extracted from and of those kept for choosing, and of their tasks.

    ``annotators`` labelled either; ``annotator_chains`` counts the chains extracted from, with
    those whose annotator is not recorded as ``unknown``.
    """
    return {
        "traces": sorted(trace_digest(trace) for trace in used),
        "select_traces": sorted(trace_digest(trace) for trace in kept),
        "extract_tasks": task_keys(used),
        "select_tasks": task_keys(kept),
        "annotators": sorted({t.annotator for t in (*used, *kept) if t.annotator is not None}),
        "annotator_chains": dict(Counter(trace.annotator or "unknown" for trace in used)),
    }


def task_keys(traces: Sequence[Trace]) -> list[str]:
    """Hashes of the tasks of some chains, each once."""
    return sorted({trace.task_key for trace in traces})


def versions() -> dict[str, str]:
    """Versions of what takes part in the numbers."""
    found = {}
    for package in ("steerkit-thinking", "torch", "transformers", "transformer-lens"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that was never installed
            continue
    return found
