"""The figure of side effects: accuracy, endings, length and repetition over the coefficient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure


def plot_side_effects(
    side_effects: pd.DataFrame,
    settings: Mapping[str, Any],
    *,
    annotator: str | None = None,
    caption: str = "",
) -> Figure:
    """Side effects over the coefficient, one panel a measure, one colour a behaviour.

    Parameters
    ----------
    side_effects:
        As :func:`steerkit.evaluation.side_effects.side_effects` gives it.
    settings:
        ``ranges`` and ``unit`` are read, where they are there.
    annotator:
        Whose labels (only ``parsed`` depends on them); by default the first.
    caption:
        Stands underneath, before what the figure says of itself.
    """
    raise NotImplementedError
