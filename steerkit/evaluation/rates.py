"""Rates: how often each behaviour occurs under each condition, with intervals over tasks."""

from __future__ import annotations

import pandas as pd


def rates(generations: pd.DataFrame) -> pd.DataFrame:
    """Behaviour rates of every condition, by annotator, label and measure.

    Returns
    -------
    Tidy, one row an annotator, condition, label and measure: ``annotator``, ``condition``,
    ``kind``, ``behavior``, ``control``, ``layer``, ``coefficient``, ``headline``, ``label``,
    ``measure`` (``spans``, ``tokens``, ``count``, ``hazard``), ``value``, ``low``, ``high``,
    ``tasks``, ``chains``, ``truncated`` (chains), ``silent`` (chains without any sentence).
    """
    raise NotImplementedError
