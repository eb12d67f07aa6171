"""The figure of specificity: what every steered behaviour does to every label, as a heatmap."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure


def plot_specificity(
    specificity: pd.DataFrame, *, annotator: str | None = None, caption: str = ""
) -> Figure:
    """Changes of labels (columns) under steered behaviours (rows), amplified and suppressed.

    Parameters
    ----------
    specificity:
        As :func:`steerkit.evaluation.specificity.specificity` gives it.
    annotator:
        Whose labels; by default the first.
    caption:
        Stands underneath, before what the figure says of itself.
    """
    raise NotImplementedError
