"""Verdicts: whether steering a behaviour up or down is more than chance, and than any push."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def verdicts(generations: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Whether each claim holds: a behaviour is amplified, or suppressed, by its direction.

    ``settings["ranges"][behavior]["fluent"]`` is read; nothing else.

    Returns
    -------
    One row an annotator, behaviour and sign (``amplify``, ``suppress``): ``annotator``,
    ``behavior``, ``sign``, ``condition``, ``layer``, ``coefficient``, ``base``, ``rate``,
    ``change``, ``low``, ``high``, ``ratio``, ``ratio_low``, ``ratio_high``, ``target`` (2 or
    0.4), ``meets_target``, ``effect_size``, ``tasks``, ``p``, ``p_holm``; ``control_tasks``,
    ``control_change`` (the steered change on those), and for both kinds of controls
    ``random``, ``random_beaten``, ``random_mean``, ``random_most``, ``random_p`` and the same
    with ``shuffled``; ``significant``, ``exceeds``, ``specific`` (controls move at most a
    quarter), ``fluent`` (missing where no range is known), ``holds`` and ``reason`` (empty
    where it holds).
    """
    raise NotImplementedError


def controls(generations: pd.DataFrame) -> pd.DataFrame:
    """Every control direction beside the claim that it controls for, on the same tasks.

    Returns
    -------
    One row an annotator, behaviour, sign and control direction: ``annotator``, ``behavior``,
    ``sign``, ``kind`` (``random``, ``shuffled``), ``control``, ``condition``, ``layer``,
    ``coefficient``, ``tasks``, ``change``, ``low``, ``high``, ``steered`` (the change by the
    behaviour's own direction on the same tasks), ``exceeded`` (whether that is larger in the
    claimed direction).
    """
    raise NotImplementedError
