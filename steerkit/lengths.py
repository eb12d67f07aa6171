"""Lengths: how long a direction is without what noise adds to it, and how sure that is."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from steerkit.directions import DEFAULT_CONTRAST, columns_of, defined, differences
from steerkit.geometry import student_quantile
from steerkit.moments import Moments
from steerkit.reading import FULL, REPLICATE


def norm_interval(
    moments: Moments, name: str = DEFAULT_CONTRAST
) -> dict[str, Float64[Tensor, "layer 3"]]:
    """Length of the difference of means without what noise adds, and its 95 % interval.

    A difference d = delta + e of finite samples is longer than the true one: with V the
    covariance of the noise e, E||d||^2 = ||delta||^2 + tr V. So s = ||d||^2 - tr V estimates
    x = ||delta||^2, with variance 4 v x + 2 tr V^2, v being the variance of e along delta. The
    interval holds all x of which s is at most t standard deviations away, a quadratic in x, as
    Wilson's (1927) is for a share: c -+ sqrt(c^2 - s^2 + 2 t^2 tr V^2), c = s + 2 t^2 v.

    tr V, v (along d) and tr V^2 (freed of its bias for normal noise) come from the bootstrap
    replicates d_r - d, times n / (n - 1) for n tasks with spans of the behaviour; t is Student's,
    with the degrees of freedom that tasks and replicates leave. What is below zero counts as zero.

    Returns
    -------
    By behaviour ``[layer, (length, low, high)]``, in units of the residual stream. Labels with
    spans in fewer than two tasks, or with fewer than two replicates, are left out. In simulations
    of 20 tasks and more the interval covered the true length in 92 to 98 % of cases (tests);
    not so where halves of the tasks agree by a cosine of less than about 0.4.

    It is the length of the difference of means. A direction by another method is scaled to that
    length (:mod:`steerkit.methods`) and so has the same interval.
    """
    keep = defined(moments, name)
    rows: dict[str, list[Tensor]] = {}
    for i in range(len(moments.layers)):
        full, _ = differences(columns_of(moments, i, FULL), name, moments.labels)
        drawn, _ = differences(columns_of(moments, i, REPLICATE), name, moments.labels)
        for k, label in enumerate(moments.labels):
            used, tasks = drawn[keep[REPLICATE, k], k], len(moments.tasks[label])
            if keep[0, k] and min(len(used), tasks) >= 2:
                rows.setdefault(label, []).append(_interval(full[0, k], used, tasks))
    return {label: torch.stack(found) for label, found in rows.items()}


def _interval(
    full: Float64[Tensor, " d_model"], drawn: Float64[Tensor, "replicate d_model"], tasks: int
) -> Float64[Tensor, " 3"]:
    """Length, low and high of one difference."""
    number, few = len(drawn), tasks / (tasks - 1)  # a bootstrap's variances are too small by few
    strayed = drawn - full
    products = strayed @ strayed.T
    noise = few * products.trace() / number
    pairs = (products.square().sum() - products.diagonal().square().sum()) / (number - 1) / number
    # of a covariance S from n tasks, E tr S^2 = (1 + 1/(n-1)) tr V^2 + (tr V)^2 / (n-1)
    squares = (few**2 * pairs - noise**2 / (tasks - 1)).clamp(min=0) / few
    along = few * (strayed @ full).square().mean() / full.square().sum().clamp(min=1e-30)
    freedom = torch.tensor([1 / (1 / (tasks - 1) + 1 / (number - 1))], dtype=torch.float64)
    t2 = student_quantile(freedom, 0.95)[0].square()
    length = full.square().sum() - noise
    center = length + 2 * t2 * along
    reach = (center.square() - length.square() + 2 * t2 * squares).clamp(min=0).sqrt()
    return torch.stack([length, center - reach, center + reach]).clamp(min=0).sqrt()
