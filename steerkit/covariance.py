"""Covariance of span means within behaviours, shrunk, for methods that whiten."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from steerkit.errors import ExtractionError
from steerkit.moments import Moments


def within_covariance(moments: Moments, index: int) -> Float64[Tensor, "d_model d_model"]:
    """Covariance of span means around the mean of their label, pooled over labels.

    S = (sum m m^T - sum_k n_k mu_k mu_k^T) / (n - number of labels with spans), at
    ``moments.layers[index]``. Needs moments collected with ``covariance=True``; raises
    :class:`ExtractionError` for others, and for no more spans than labels.
    """
    n_labels = len(moments.labels)
    counts = moments.counts[0].double()
    freedom = int(counts.sum()) - int((counts > 0).sum())
    if freedom < 1:
        raise ExtractionError(
            "a covariance within labels needs more spans than labels",
            expected=f"more than {int((counts > 0).sum())}",
            found=int(counts.sum()),
        )
    sums = moments.layer_sums(index)[0, :n_labels]
    between = (sums / counts.clamp(min=1).sqrt()[:, None]).T
    scatter = moments.layer_outer(index) - between @ between.T
    return (scatter + scatter.T) / (2 * freedom)


def oas_shrinkage(covariance: Float64[Tensor, "d_model d_model"], samples: int) -> float:
    """How far a sample covariance S goes toward its mean variance: 0 not at all, 1 wholly.

    Oracle approximating shrinkage (Chen et al. 2010, equation 23, as scikit-learn computes it):
    with p the width, mu = tr S / p and a = the mean of S's squared entries,
    min(1, (a + mu^2) / ((n + 1) (a - mu^2 / p))).
    """
    width = covariance.shape[0]
    mean, squares = covariance.trace() / width, covariance.square().mean()
    top, bottom = squares + mean**2, (samples + 1) * (squares - mean**2 / width)
    return 1.0 if float(bottom) <= 0 else min(1.0, float(top / bottom))


def precision(moments: Moments) -> list[Float64[Tensor, "d_model d_model"]]:
    """Inverse of the shrunk covariance within labels, for every layer that was read.

    ((1 - s) S + s mu I)^-1, with S of :func:`within_covariance`, s of :func:`oas_shrinkage` and
    mu = tr S / p the mean variance, float64. ``mass-mean`` multiplies the difference of means
    by it: P (mu_1 - mu_0), as Marks and Tegmark (2024, arXiv 2310.06824, section 5) do with the
    covariance inside their two classes; here it is that inside all labels. Not for fewer spans
    than dimensions: s is then near 1, and the result close to the plain difference; and not to
    push along: directions of small variance gain weight, whatever they do.

    Raises :class:`ExtractionError` where spans do not vary at all.
    """
    found = []
    for index, layer in enumerate(moments.layers):
        covariance = within_covariance(moments, index)
        share = oas_shrinkage(covariance, int(moments.counts[0].sum()))
        mean = covariance.trace() / len(covariance)
        if float(mean) <= 0:
            raise ExtractionError(f"span means do not vary at layer {layer}")
        eye = torch.eye(len(covariance), dtype=covariance.dtype)
        found.append(torch.linalg.inv((1 - share) * covariance + share * mean * eye))
    return found
