"""Seeing chains: labels in colour, annotators side by side, tokens that are read, projections."""

from __future__ import annotations

from steerkit.viewing.view import ChainView, ViewedChain, show

__all__ = ["ChainView", "ViewedChain", "show"]
