"""Methods: how a direction comes out of annotated activations, and the rivals of the mean.

==================  ==========================================  =======================
method              direction of a behaviour at a layer          what it is read from
==================  ==========================================  =======================
``mean-difference``  mean of its spans minus that of a contrast  sums, streamed
``mass-mean``        the same, times the inverse covariance      sums and covariance
``lda``              linear discriminant against other spans     span means, on disk
``probe``            weights of a logistic regression            span means, on disk
``pca``              first component of paired differences       span means, on disk
==================  ==========================================  =======================

``mass-mean`` is P (mu_1 - mu_0), P the inverse of the shrunk covariance within labels
(:func:`steerkit.covariance.precision`; Marks and Tegmark 2024, arXiv 2310.06824, section 5): it
tells better where noise is long one way. Not for fewer spans than the model is wide.

What the tables of reliability hold for each: split halves over 20 splits at every layer and a
cone for the first two, P being that of all tasks for both halves; for the three that are
fitted, halves over 4 splits at the suggested layer alone, and no cone. Intervals of cosines
come with ``mean-difference`` only; intervals of the length are those of the plain difference.

Every direction is scaled to the length of the difference of means at its layer, so that one
coefficient pushes as far whatever the method.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from steerkit.directions import DEFAULT_CONTRAST
from steerkit.errors import ExtractionError
from steerkit.reading import HALF, column_weights, shuffled_orders
from steerkit.span_means import Span, SpanMeans

DEFAULT_METHOD = "mean-difference"
_FITTED = 4
"""Halves of the tasks that a method which must be fitted anew is fitted to."""
_log = logging.getLogger(__name__)

Samples = Float[NDArray[np.floating[Any]], "span d_model"]
Vector = Float[NDArray[np.floating[Any]], " d_model"]
Own = Bool[NDArray[np.bool_], " span"]


class Method(NamedTuple):
    """A way to get directions: what it is called in tables, and what it has to read."""

    title: str
    covariance: bool = False
    samples: bool = False


class Fitted(NamedTuple):
    """Directions by behaviour, ``[layer, d_model]``, and why there is none of the others."""

    directions: dict[str, Float64[Tensor, "layer d_model"]]
    left_out: dict[str, str]


METHODS = {
    "mean-difference": Method("difference of means"),
    "mass-mean": Method("whitened difference of means", covariance=True),
    "lda": Method("linear discriminant", samples=True),
    "probe": Method("logistic probe", samples=True),
    "pca": Method("first component of paired differences", samples=True),
}


def check_method(name: str, contrast: str) -> Method:
    """The method of that name.

    Raises :class:`ExtractionError` for an unknown one, and for a contrast that it cannot take:
    what is fitted to samples sets a behaviour's spans against all others (``rest``) or against
    those of one other behaviour (``A:B``).
    """
    if name not in METHODS:
        raise ExtractionError(f"unknown method {name!r}", expected="one of " + ", ".join(METHODS))
    if METHODS[name].samples and contrast in ("overall", "balanced", "within"):
        raise ExtractionError(
            f"method {name!r} knows no contrast {contrast!r}",
            expected="rest, or A:B",
            fix="choose one of these, or the method mean-difference or mass-mean",
        )
    return METHODS[name]


def default_contrast(method: str) -> str:
    """The contrast of a method where none is named: ``balanced``, or ``rest`` for methods that
    are fitted to samples, which know no other."""
    known = METHODS.get(method)
    return "rest" if known is not None and known.samples else DEFAULT_CONTRAST


def lda_direction(samples: Samples, own: Own, spans: Sequence[Span]) -> Vector:
    """Fisher's linear discriminant of a behaviour's spans against the others, ``[d_model]``.

    C^-1 (mu_1 - mu_0), C the covariance within the two classes with Ledoit and Wolf's shrinkage
    (scikit-learn's ``LinearDiscriminantAnalysis``, solver ``lsqr``). It differs from
    ``mass-mean`` in that the other behaviours count as one class. Not for fewer spans than a
    few dozen: the covariance is then mostly shrinkage, and the result the difference of means.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(samples, own)
    return fitted.coef_[0]


def probe_direction(samples: Samples, own: Own, spans: Sequence[Span]) -> Vector:
    """Weights of a logistic regression of a behaviour's spans against the others, ``[d_model]``.

    w / sigma of the w that minimises |w|^2 / 2 + C sum_i a_i log(1 + exp(-y_i (w.z_i + b))), with
    z = (x - mean) / sigma by feature, y = +-1, and a_i such that both classes weigh the same:
    scikit-learn's ``LogisticRegression`` (L2, C = 0.1, classes balanced) on standardised
    features, its weights divided by their standard deviations. What tells best is not what
    moves best: probes weigh correlated features against each other (Marks and Tegmark 2024,
    arXiv 2310.06824, section 5). For detection rather than steering; and where spans are told
    apart without error, many directions do so and this is one of them.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
            fitted = model.fit(scaler.transform(samples), own)
        except ConvergenceWarning:
            raise ExtractionError(
                "the logistic probe did not converge in 1,000 iterations",
                fix="use another method, or more spans",
            ) from None
    return fitted.coef_[0] / scaler.scale_


def pca_direction(samples: Samples, own: Own, spans: Sequence[Span]) -> Vector:
    """First principal component of paired differences, ``[d_model]``.

    Every span of the behaviour is paired with the span of another label that begins nearest
    before it in its chain (after it, where there is none), and the component is that of the
    differences and their negatives, so that their mean is zero and what they share is not
    taken away (Zou et al. 2023, arXiv 2310.01405, section 3.1; scikit-learn's ``PCA``). It
    points the way the mean difference does. Not where a behaviour never shares a chain with
    others; and where spans vary more than they differ, it is the direction of that variation.
    """
    from sklearn.decomposition import PCA

    pairs = _pairs(own, spans)
    if not pairs:
        raise ExtractionError(
            "no span has another behaviour's span in its chain to be paired with",
            fix="use another method",
        )
    mine, theirs = np.array(pairs).T
    differences = samples[mine] - samples[theirs]
    fitted = PCA(n_components=1, svd_solver="full" if len(pairs) < 2000 else "covariance_eigh")
    component = fitted.fit(np.concatenate([differences, -differences])).components_[0]
    return component * np.sign(component @ differences.mean(axis=0))


_FITS: dict[str, Callable[[Samples, Own, Sequence[Span]], Vector]] = {
    "lda": lda_direction,
    "probe": probe_direction,
    "pca": pca_direction,
}


def fitted_direction(
    method: str, contrast: str, label: str, samples: Samples, spans: Sequence[Span]
) -> Float64[Tensor, " d_model"] | None:
    """Unit vector of one behaviour at one layer; ``None`` where a side has fewer than two spans."""
    labels = np.array([span.label for span in spans])
    left, _, right = contrast.partition(":")
    if right and label != left:
        return None
    chosen = np.isin(labels, (left, right)) if right else np.ones(len(labels), dtype=bool)
    own = (labels == label)[chosen]
    if min(own.sum(), (~own).sum()) < 2:
        return None
    rows = [span for span, there in zip(spans, chosen, strict=True) if there]
    found = torch.from_numpy(_FITS[method](samples[chosen].astype(np.float64), own, rows))
    return found / found.norm()


def fitted_directions(
    method: str,
    contrast: str,
    means: SpanMeans,
    lengths: Float64[Tensor, "label layer"],
    labels: Sequence[str],
) -> Fitted:
    """Directions of several behaviours at every layer, scaled to ``lengths``.

    A behaviour with fewer than two spans, or fewer than two to be set against, and one whose
    fit fails at any layer is left out, with the reason; the others do not suffer by it.
    """
    spans, rows, left_out = means.spans, dict[str, list[Tensor]](), dict[str, str]()
    for index, layer in enumerate(means.layers):
        samples = means.layer(index)
        for k, label in enumerate(labels):
            if label in left_out:
                continue
            try:
                found = fitted_direction(method, contrast, label, samples, spans)
            except ExtractionError as problem:
                left_out[label] = f"{problem.problem} at layer {layer}"
                continue
            if found is None:
                left_out[label] = "fewer than two spans, or fewer than two to set it against"
            else:
                rows.setdefault(label, []).append(found * lengths[k, index])
    stacked = {label: torch.stack(rows[label]) for label in rows if label not in left_out}
    return Fitted(stacked, left_out)


def fitted_split_half(
    method: str,
    contrast: str,
    means: SpanMeans,
    label: str,
    index: int,
    *,
    shuffled: bool = False,
    seed: int = 0,
) -> float:
    """Cosine between directions fitted to two disjoint halves of the tasks, mean of 4 splits.

    At ``means.layers[index]``; the halves, and with ``shuffled`` the shuffles of labels within
    chains, are those of :func:`steerkit.reliability.split_half`. A half that lacks what it needs,
    or whose fit fails, counts as missing; NaN where no split has both sides.
    """
    spans, samples = means.spans, means.layer(index)
    halves = np.array([column_weights(span.task, seed)[HALF].tolist() for span in spans])
    cosines = []
    for split in range(_FITTED):
        labelled = _shuffled(spans, split, seed) if shuffled else spans
        sides = []
        for side in (0, 1):
            there = halves[:, split] == side
            kept = [span for span, inside in zip(labelled, there, strict=True) if inside]
            try:
                sides.append(fitted_direction(method, contrast, label, samples[there], kept))
            except ExtractionError as problem:
                _log.debug("a half of %s at layer %d: %s", label, means.layers[index], problem)
                sides.append(None)
        if sides[0] is not None and sides[1] is not None:
            cosines.append(float(sides[0] @ sides[1]))
    return float(np.mean(cosines)) if cosines else float("nan")


def _shuffled(spans: Sequence[Span], split: int, seed: int) -> list[Span]:
    """The spans with labels exchanged within each chain."""
    chains: dict[str, list[int]] = {}
    for place, span in enumerate(spans):
        chains.setdefault(span.chain, []).append(place)
    found = list(spans)
    for chain, places in chains.items():
        order = shuffled_orders(chain, len(places), seed)[split]
        for place, drawn in zip(places, order, strict=True):
            found[place] = spans[place]._replace(label=spans[places[drawn]].label)
    return found


def _pairs(own: Own, spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Every own span with the nearest other one of its chain; spans stand by chain and place."""
    found = []
    for place in np.flatnonzero(own).tolist():
        chain = spans[place].chain
        before = after = place
        while before >= 0 and spans[before].chain == chain and own[before]:
            before -= 1
        while after < len(spans) and spans[after].chain == chain and own[after]:
            after += 1
        if before >= 0 and spans[before].chain == chain:
            found.append((place, before))
        elif after < len(spans) and spans[after].chain == chain:
            found.append((place, after))
    return found
