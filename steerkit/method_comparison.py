"""Method comparison: methods, contrasts and windows side by side, on the same chains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.chain_sets import Passes, chain_sets
from steerkit.collection import model_layers
from steerkit.directions import DEFAULT_CONTRAST, full_contrast
from steerkit.errors import ExtractionError
from steerkit.evidence import Evidence, described, gathered, plain
from steerkit.layer_choice import auroc
from steerkit.layer_choice.suggestion import by_areas
from steerkit.layers import Layers
from steerkit.methods import DEFAULT_METHOD, METHODS, check_method
from steerkit.models import ThinkingModel
from steerkit.positions import Window
from steerkit.span_means import MOST_BYTES
from steerkit.streaming import Progress, TooLong
from steerkit.traces import Trace

if TYPE_CHECKING:
    import pandas as pd


def compare_methods(
    model: ThinkingModel,
    traces: Iterable[Trace],
    *,
    methods: Sequence[str] = tuple(METHODS),
    contrasts: Sequence[str] = (DEFAULT_CONTRAST, "rest"),
    windows: Sequence[Window] = (Window(),),
    behaviors: str | Iterable[str] | None = None,
    layers: Layers | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
    select: Iterable[Trace] | None = None,
    too_long: TooLong = "refuse",
    sample_bytes: int = MOST_BYTES,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Methods, contrasts and windows side by side, from one pass over the chains a window.

    ``windows`` are tokens of a span that are averaged; ``Window(1, 0)`` is the token before it
    alone, where the model decides what comes. The other parameters are those of
    :func:`steerkit.extraction.extract`; a method that cannot take a contrast is left out for
    that contrast.

    Returns
    -------
    One row a method, contrast, window and behaviour: ``layer`` (where ``auroc`` is largest, which
    need not be the one that :func:`steerkit.extraction.extract` chooses), ``auroc`` there,
    ``split_half`` and ``split_half_shuffled`` there, ``cosine`` with the difference of means
    under the first contrast and window at that layer, ``seconds`` (fitting at all layers, for all
    behaviours, without the pass over the chains) and ``note`` (why not to trust it). A behaviour
    that a method has no direction of has a row without numbers, and the reason in ``note``.

    Raises what ``extract`` raises, and :class:`ExtractionError` where there is no window.
    """
    import pandas as pd

    if not windows:
        raise ExtractionError("there is no window to compare", expected="at least one")
    chosen = model_layers(model, layers)
    pairs = _pairs(methods, contrasts)
    (used, kept, elsewhere), asked, _ = chain_sets(traces, select, behaviors, contrasts[0])
    report = Passes(progress, [len(used), len(kept)] * len(windows))
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "too_long": too_long}
    rows: list[dict[str, Any]] = []
    means: Mapping[str, Float[Tensor, "layer d_model"]] | None = None
    for window in dict.fromkeys(windows):
        with gathered(
            model,
            used,
            [method for method, _ in pairs],
            sample_bytes=sample_bytes,
            layers=chosen,
            window=window,
            seed=seed,
            progress=report.next(),
            **options,
        ) as evidence:
            fits = [_fit(evidence, *pair, asked, elsewhere) for pair in pairs]
            found = {(*fit.key, name): d for fit in fits for name, d in fit.directions.items()}
            curves = auroc(
                model,
                kept,
                found,
                chosen,
                targets={key: key[2] for key in found},
                progress=report.next(),
                **options,
            )
            if means is None:
                labels = evidence.moments.labels
                first = full_contrast(contrasts[0], labels)
                means = evidence.fitted(DEFAULT_METHOD, first, asked)[0]
            for fit in fits:
                areas = {n: curves[*fit.key, n] for n in fit.directions if (*fit.key, n) in curves}
                rows += _rows(evidence, fit, areas, model.n_layers, means)
    report.end()
    columns = ["method", "contrast", "window", "behavior", "layer", "auroc", "split_half"]
    columns += ["split_half_shuffled", "cosine", "seconds", "note"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})


def _pairs(methods: Sequence[str], contrasts: Sequence[str]) -> list[tuple[str, str]]:
    """Methods and contrasts that go together; what fits single spans takes no means of chains."""
    pairs = []
    for name in contrasts:
        for method in methods:
            if METHODS.get(method) is None or not (
                METHODS[method].samples and name in ("overall", "balanced", "within")
            ):
                check_method(method, name)
                pairs.append((method, name))
    return pairs


@dataclass(frozen=True)
class _Fit:
    """Raw directions of a method under a contrast, ``seconds`` it took, and who was left out."""

    key: tuple[str, str]
    directions: Mapping[str, Float[Tensor, "layer d_model"]]
    left_out: Mapping[str, str]
    seconds: float


def _fit(
    evidence: Evidence, method: str, contrast: str, asked: Any, elsewhere: dict[str, str]
) -> _Fit:
    started = perf_counter()
    raw = evidence.fitted(method, full_contrast(contrast, evidence.moments.labels), asked)
    seconds = perf_counter() - started
    # of a pair, one behaviour has a direction, and no other misses one
    left_out = raw.left_out | ({} if ":" in contrast else elsewhere)
    directions = {label: d.float() for label, d in raw.directions.items()}
    return _Fit((method, contrast), directions, left_out, seconds)


def _rows(
    evidence: Evidence,
    fit: _Fit,
    areas: Mapping[str, Any],
    n_layers: int,
    means: Mapping[str, Float[Tensor, "layer d_model"]],
) -> list[dict[str, Any]]:
    """A row for every behaviour, those that were left out last."""
    (method, contrast), window = fit.key, evidence.moments.window
    common = {
        "method": method,
        "contrast": contrast,
        "window": f"{window.before},{window.length}",
        "seconds": fit.seconds,
    }
    rated = described(
        evidence,
        method,
        full_contrast(contrast, evidence.moments.labels),
        plain(evidence, dict(fit.directions), n_layers),
        areas,
        by_areas(list(fit.directions), areas, evidence.moments.layers),
    )
    rows: list[dict[str, Any]] = []
    for label, direction in rated.items():
        row = {**common, "behavior": label, "layer": direction.layer, "note": direction.weakness}
        if direction.layer is not None:
            i = direction.row(direction.layer)
            for curve in ("auroc", "split_half", "split_half_shuffled"):
                values = getattr(direction, curve)
                row[curve] = None if values is None else float(values[i])
            if label in means:
                own, other = fit.directions[label][i].double(), means[label][i]
                row["cosine"] = float(torch.cosine_similarity(own, other, dim=0))
        rows.append(row)
    rows += [
        {**common, "behavior": label, "layer": None, "note": f"left out: {reason}"}
        for label, reason in fit.left_out.items()
    ]
    return rows
