"""Method comparison: every method and contrast side by side, from one pass over the chains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.chain_sets import Passes, chain_sets
from steerkit.collection import model_layers
from steerkit.directions import DEFAULT_CONTRAST, full_contrast
from steerkit.evidence import described, gathered, plain
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
    contrasts: Sequence[str] = (DEFAULT_CONTRAST,),
    behaviors: str | Iterable[str] | None = None,
    layers: Layers | None = None,
    window: Window | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
    select: Iterable[Trace] | None = None,
    too_long: TooLong = "refuse",
    sample_bytes: int = MOST_BYTES,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every method and contrast side by side, from one pass over the chains.

    Parameters are those of :func:`steerkit.extraction.extract`; a method that cannot
    take a contrast is left out for that contrast.

    Returns
    -------
    One row a method, contrast and behaviour: ``layer`` (where ``auroc`` is largest, which need not
    be the one that :func:`steerkit.extraction.extract` chooses), ``auroc`` there,
    ``split_half`` and ``split_half_shuffled`` there, ``cosine`` with the difference of means
    under the first contrast at that layer, ``seconds`` (fitting at all layers, for all
    behaviours, without the pass over the chains) and ``note`` (why not to trust it). A behaviour
    that a method has no direction of has a row without numbers, and the reason in ``note``.
    """
    import pandas as pd

    chosen = model_layers(model, layers)
    pairs = []
    for name in contrasts:
        for method in methods:
            if METHODS.get(method) is None or not (
                METHODS[method].samples and name in ("overall", "balanced", "within")
            ):
                check_method(method, name)
                pairs.append((method, name))
    (used, kept, elsewhere), asked, _ = chain_sets(traces, select, behaviors, contrasts[0])
    report = Passes(progress, [len(used), len(kept)])
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "too_long": too_long}
    rows: list[dict[str, Any]] = []
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
        labels = evidence.moments.labels
        means = evidence.fitted(DEFAULT_METHOD, full_contrast(contrasts[0], labels), asked)[0]
        found: dict[tuple[str, str, str], Tensor] = {}
        took: dict[tuple[str, str], float] = {}
        left_out: dict[tuple[str, str], dict[str, str]] = {}
        for method, name in pairs:
            started = perf_counter()
            raw = evidence.fitted(method, full_contrast(name, labels), asked)
            took[method, name] = perf_counter() - started
            found |= {(method, name, label): d.float() for label, d in raw.directions.items()}
            # of a pair, one behaviour has a direction, and no other misses one
            left_out[method, name] = raw.left_out | ({} if ":" in name else elsewhere)
        curves = auroc(
            model,
            kept,
            found,
            chosen,
            targets={key: key[2] for key in found},
            progress=report.next(),
            **options,
        )
        report.end()
        for method, name in pairs:
            mine = {key[2]: d for key, d in found.items() if key[:2] == (method, name)}
            areas = {
                label: curves[method, name, label]
                for label in mine
                if (method, name, label) in curves
            }
            suggestion = by_areas(list(mine), areas, chosen)
            rated = described(
                evidence,
                method,
                full_contrast(name, labels),
                plain(evidence, mine, model.n_layers),
                areas,
                suggestion,
            )
            for label, direction in rated.items():
                row: dict[str, Any] = {
                    "method": method,
                    "contrast": name,
                    "behavior": label,
                    "layer": direction.layer,
                }
                if direction.layer is not None:
                    i = direction.row(direction.layer)
                    for curve in ("auroc", "split_half", "split_half_shuffled"):
                        values = getattr(direction, curve)
                        row[curve] = None if values is None else float(values[i])
                    if label in means:
                        row["cosine"] = float(
                            torch.cosine_similarity(mine[label][i].double(), means[label][i], dim=0)
                        )
                row |= {"seconds": took[method, name], "note": direction.weakness}
                rows.append(row)
            for label, reason in left_out[method, name].items():
                rows.append(
                    {
                        "method": method,
                        "contrast": name,
                        "behavior": label,
                        "layer": None,
                        "seconds": took[method, name],
                        "note": f"left out: {reason}",
                    }
                )
    columns = ["method", "contrast", "behavior", "layer", "auroc", "split_half"]
    columns += ["split_half_shuffled", "cosine", "seconds", "note"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})
