"""Specificity: how much steering one behaviour moves the others."""

from __future__ import annotations

import pandas as pd


def specificity(generations: pd.DataFrame) -> pd.DataFrame:
    """Changes of every label under every behaviour's direction at its headline coefficients.

    Returns
    -------
    Tidy: ``annotator``, ``behavior`` (steered), ``sign``, ``condition``, ``layer``,
    ``coefficient``, ``label`` (moved), ``change``, ``low``, ``high`` (shares of spans),
    ``ratio``, ``ratio_low``, ``ratio_high``, ``relative`` (|change| over that of the steered
    behaviour's own label), ``p``, ``tasks``.
    """
    raise NotImplementedError
