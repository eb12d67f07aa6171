"""Evidence: what one pass over annotated chains leaves, enough for every method and contrast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerkit.collection import collect
from steerkit.covariance import precision
from steerkit.direction import Direction
from steerkit.directions import contrast as contrast_of
from steerkit.directions import defined
from steerkit.errors import ExtractionError
from steerkit.layer_choice.suggestion import Suggestion
from steerkit.lengths import norm_interval
from steerkit.methods import METHODS, Fitted, check_method, fitted_directions, fitted_split_half
from steerkit.models import ThinkingModel
from steerkit.moments import Moments
from steerkit.reliability import cone, split_half, split_half_shuffled
from steerkit.span_means import MOST_BYTES, SpanMeans
from steerkit.traces import Traces

Curve = Float64[Tensor, " layer"]


class Reliability(NamedTuple):
    """Curves of one direction over layers; ``None`` where a method has none, NaN where it was
    not measured."""

    split_half: Curve | None
    split_half_shuffled: Curve | None
    cone: Curve | None


@dataclass(frozen=True)
class Evidence:
    """Moments of some chains, and their span means where a method asked for them."""

    moments: Moments
    samples: SpanMeans | None = None

    @cached_property
    def precision(self) -> list[Float64[Tensor, "d_model d_model"]]:
        """Of span means within behaviours, by layer (:func:`steerkit.covariance.precision`)."""
        return precision(self.moments)

    @property
    def span_means(self) -> SpanMeans:
        """The means of single spans; :class:`ExtractionError` where none were kept."""
        if self.samples is None:
            raise ExtractionError(
                "the means of single spans were not kept",
                fix="name every method that is to be used when the chains are read",
            )
        return self.samples

    def directions(
        self,
        method: str,
        contrast: str,
        asked: Sequence[str] | None = None,
        *,
        left_out: dict[str, str] | None = None,
    ) -> dict[str, Float64[Tensor, "layer d_model"]]:
        """Raw directions by behaviour, all that can be had or those asked for.

        Every method's are as long as the difference of means. ``left_out``, where given, takes
        up the behaviours that were not asked for and cannot be had, with the reason. Raises
        :class:`ExtractionError` for a behaviour asked for that lacks what it needs, and where
        there is no direction at all.
        """
        found, missing = self.fitted(method, contrast, asked)
        if missing and (asked is not None or not found):
            raise _undefined(self.moments, method, contrast, missing)
        if left_out is not None:
            left_out |= missing
        return found

    def fitted(self, method: str, contrast: str, asked: Sequence[str] | None = None) -> Fitted:
        """:meth:`directions`, and beside them why there is none of a behaviour; raises only for
        methods and contrasts that are unknown or do not go together.

        Under ``A:B`` only A has a direction, and nothing is said of others that were not asked
        for.
        """
        check_method(method, contrast)
        moments = self.moments
        plain, there = contrast_of(moments, contrast), defined(moments, contrast)[0]
        own, pair, _ = contrast.partition(":")
        left_out: dict[str, str] = {}
        usual = [own] if pair else moments.labels
        for name in usual if asked is None else asked:
            at = moments.labels.index(name) if name in moments.labels else None
            if at is None or not there[at]:
                read = 0 if at is None else int(moments.counts[0, at])
                left_out[name] = (
                    f"contrast {contrast!r} is of {own} alone"
                    if pair and name != own
                    else f"nothing to set its spans against under contrast {contrast!r}"
                    if read
                    else "no span of it could be read (windows "
                    f"without a token: {moments.counters['empty windows']})"
                )
        names = [label for i, label in enumerate(moments.labels) if there[i]]
        wanted = [n for n in dict.fromkeys(names if asked is None else asked) if n in names]
        rows = [moments.labels.index(name) for name in wanted]
        if not rows:
            return Fitted({}, left_out)
        lengths = plain[rows].norm(dim=-1)
        if method == "mean-difference":
            return Fitted(dict(zip(wanted, plain[rows], strict=True)), left_out)
        if METHODS[method].covariance:
            white = contrast_of(moments, contrast, whitening=self.precision)[rows]
            scaled = white / white.norm(dim=-1, keepdim=True) * lengths[..., None]
            return Fitted(dict(zip(wanted, scaled, strict=True)), left_out)
        found = fitted_directions(method, contrast, self.span_means, lengths, wanted)
        return Fitted(found.directions, left_out | found.left_out)

    def reliability(
        self, method: str, contrast: str, layers: dict[str, int | None]
    ) -> dict[str, Reliability]:
        """How reliable the directions of some behaviours are.

        ``layers`` names the behaviours and the index of the layer suggested for each: a method
        that is fitted to samples is fitted anew to halves of the tasks there, and only there.
        """
        if not METHODS[method].samples:
            whitening = self.precision if METHODS[method].covariance else None
            halves = split_half(self.moments, contrast, whitening)
            shuffled = split_half_shuffled(self.moments, contrast, whitening)
            cones = cone(self.moments, contrast, whitening=whitening)
            return {
                name: Reliability(halves.get(name), shuffled.get(name), cones.get(name))
                for name in layers
            }
        found = {}
        for name, index in layers.items():
            curves = [torch.full((len(self.moments.layers),), torch.nan).double() for _ in "ab"]
            if index is not None:
                for curve, mixed in zip(curves, (False, True), strict=True):
                    curve[index] = fitted_split_half(
                        method,
                        contrast,
                        self.span_means,
                        name,
                        index,
                        shuffled=mixed,
                        seed=self.moments.seed,
                    )
            found[name] = Reliability(curves[0], curves[1], None)
        return found


@contextmanager
def gathered(
    model: ThinkingModel,
    traces: Traces,
    methods: Sequence[str],
    *,
    sample_bytes: int = MOST_BYTES,
    **options: Any,
) -> Iterator[Evidence]:
    """Within it, what these methods need of the chains; one pass, by :func:`steerkit.collect`.

    Span means are written to a temporary file, if any method reads them, of at most
    ``sample_bytes``; ``options`` are those of :func:`steerkit.collection.collect`.
    """
    needs = [METHODS[method] for method in methods]
    with TemporaryDirectory(prefix="steerkit-") as folder:
        kept: list[SpanMeans] = []

        def make(layers: Sequence[int], spans: int) -> SpanMeans:
            path = Path(folder) / "span_means.npy"
            kept.append(SpanMeans(path, tuple(layers), spans, model.d_model, most=sample_bytes))
            return kept[0]

        moments = collect(
            model,
            traces,
            covariance=any(need.covariance for need in needs),
            samples=make if any(need.samples for need in needs) else None,
            **options,
        )
        yield Evidence(moments, kept[0] if kept else None)


def plain(
    evidence: Evidence, raw: dict[str, Float[Tensor, "layer d_model"]], n_layers: int
) -> dict[str, Direction]:
    """Directions with the norms of their layers and what they are of, no more."""
    moments = evidence.moments
    return {
        name: Direction(
            behavior=name,
            tensor=tensor.contiguous(),
            layers=moments.layers,
            mean_norm=moments.mean_norm.float(),
            norm_of_mean=moments.norm_of_mean.float(),
            layer=None,
            spans=int(moments.counts[0, moments.labels.index(name)]),
            tasks=len(moments.tasks[name]),
            mean_projection=_along(moments.mean, tensor),
            n_layers=n_layers,
        )
        for name, tensor in raw.items()
    }


def described(
    evidence: Evidence,
    method: str,
    contrast: str,
    directions: Mapping[str, Direction],
    curves: Mapping[str, Float64[Tensor, " layer"]],
    suggestion: Suggestion,
) -> dict[str, Direction]:
    """Plain directions with everything that is known of them."""
    moments = evidence.moments
    suggested = suggestion.layers
    reliable = evidence.reliability(
        method,
        contrast,
        {n: None if at is None else moments.layers.index(at) for n, at in suggested.items()},
    )
    lengths = norm_interval(moments, contrast)
    return {
        name: replace(
            direction,
            layer=suggested[name],
            chosen_by=suggestion.chosen_by[name],
            split_half=_float(reliable[name].split_half),
            split_half_shuffled=_float(reliable[name].split_half_shuffled),
            auroc=_float(curves.get(name)),
            cone=_float(reliable[name].cone),
            norm_low=_float(lengths[name][:, 1]) if name in lengths else None,
            norm_high=_float(lengths[name][:, 2]) if name in lengths else None,
        )
        for name, direction in directions.items()
    }


def _float(curve: Tensor | None) -> Tensor | None:
    return None if curve is None else curve.float()


def _along(
    mean: Float64[Tensor, "layer d_model"], tensor: Float[Tensor, "layer d_model"]
) -> Float[Tensor, " layer"]:
    """m . u of every layer, u the unit vector of the direction."""
    raw = tensor.double()
    return ((mean * raw).sum(dim=1) / raw.norm(dim=1).clamp_min(1e-30)).float()


def _undefined(
    moments: Moments, method: str, contrast: str, missing: Mapping[str, str]
) -> ExtractionError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
    return ExtractionError(
        f"no direction by {method} under contrast {contrast!r} ({reasons})",
        expected="spans of it and of what it is set against"
        + (" in one chain" if contrast == "within" else ""),
        found=", ".join(
            f"{label} {int(n)}" for label, n in zip(moments.labels, moments.counts[0], strict=True)
        )
        + f" (windows read; {moments.counters['empty windows']} were empty)",
        fix="annotate more chains, or choose another contrast or method",
    )
