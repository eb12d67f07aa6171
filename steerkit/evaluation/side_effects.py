"""Side effects: what steering does to accuracy, length, endings and repetition."""

from __future__ import annotations

import pandas as pd


def side_effects(generations: pd.DataFrame) -> pd.DataFrame:
    """Side effects of every condition, with changes against the baseline on the same tasks.

    Returns
    -------
    Tidy, one row an annotator, condition and measure: ``annotator``, ``condition``, ``kind``,
    ``behavior``, ``control``, ``layer``, ``coefficient``, ``headline``, ``measure``
    (``accuracy``, ``closed``, ``truncated``, ``thinking_tokens``, ``zlib``, ``repeated``,
    ``loop``, ``parsed``, ``kl``, ``perplexity``; those without any value are left out),
    ``value``, ``low``, ``high``, ``change``, ``change_low``, ``change_high`` (missing for the
    baseline), ``tasks``, ``chains`` (with a value).
    """
    raise NotImplementedError
