"""The figure of dose and response: rate over coefficient, one panel a behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure


def plot_dose_response(
    rates: pd.DataFrame,
    controls: pd.DataFrame,
    settings: Mapping[str, Any],
    *,
    annotator: str | None = None,
    measure: str = "spans",
    caption: str = "",
) -> Figure:
    """Rate of each steered behaviour over the coefficient, with controls as bands.

    Parameters
    ----------
    rates, controls:
        As :func:`steerkit.evaluation.rates.rates` and
        :func:`steerkit.evaluation.verdicts.controls` give them.
    settings:
        ``ranges`` and ``unit`` are read, where they are there.
    annotator:
        Whose labels; by default the first of ``rates``.
    caption:
        What was measured on what; stands underneath, before what the figure says of itself.
    """
    raise NotImplementedError
