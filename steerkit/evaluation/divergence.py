"""Divergence: how far steering moves the model's predictions, and how likely its text is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from steerkit.models import ThinkingModel
from steerkit.traces import Trace


def kl_on_unsteered(
    model: ThinkingModel, traces: Sequence[Trace], term: Any, *, batch_tokens: int | None = None
) -> pd.DataFrame:
    """KL(p0 || pc), nats a token, on unsteered chains by teacher forcing.

    Returns
    -------
    One row a chain, in their order: ``trace``, ``task``, ``tokens`` (generated tokens that
    were scored; 0 where a chain has none), ``kl`` (missing then).
    """
    raise NotImplementedError


def kl_on_steered(
    model: ThinkingModel, traces: Sequence[Trace], term: Any, *, batch_tokens: int | None = None
) -> pd.DataFrame:
    """KL(pc || p0), nats a token, on chains that were written under ``term``.

    Returns the columns of :func:`kl_on_unsteered`.
    """
    raise NotImplementedError


def perplexity(
    model: ThinkingModel, traces: Sequence[Trace], *, batch_tokens: int | None = None
) -> pd.DataFrame:
    """Perplexity of generated text under the unsteered model: exp of nats a token.

    Returns
    -------
    One row a chain, in their order: ``trace``, ``task``, ``tokens``, ``perplexity``.
    """
    raise NotImplementedError
