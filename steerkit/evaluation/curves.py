"""Curves: the slope of a dose-response curve at zero, and where it saturates."""

from __future__ import annotations

import pandas as pd


def curves(generations: pd.DataFrame) -> pd.DataFrame:
    """Slope at zero and saturation of every steered behaviour's own rate.

    Returns
    -------
    One row an annotator, behaviour, layer and measure: ``annotator``, ``behavior``, ``layer``,
    ``measure``, ``slope``, ``low``, ``high`` (change of the rate for each unit of the
    coefficient), ``floor``, ``ceiling`` (monotone fit at the smallest and largest
    coefficient), ``down_at``, ``up_at`` (coefficients at which the fit has made nine tenths of
    its way), ``saturated_down``, ``saturated_up``, ``departure`` (largest distance of the
    rates from the fit), ``steps`` (coefficients, 0 included), ``tasks``.
    """
    raise NotImplementedError
