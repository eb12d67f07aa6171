"""Effects: what a condition changes against the unsteered chains of the same tasks."""

from __future__ import annotations

import pandas as pd


def effects(generations: pd.DataFrame) -> pd.DataFrame:
    """Changes of behaviour rates against the baseline, paired by task.

    Returns
    -------
    Tidy, one row an annotator, condition (the baseline has none), label and measure:
    ``annotator``, ``condition``, ``kind``, ``behavior``, ``control``, ``layer``,
    ``coefficient``, ``headline``, ``label``, ``measure``, ``change``, ``low``, ``high``,
    ``ratio``, ``ratio_low``, ``ratio_high``, ``effect_size``, ``p`` (missing for controls),
    ``tasks`` and ``unpaired`` (tasks that one of the two conditions wrote no sentence for).
    """
    raise NotImplementedError
