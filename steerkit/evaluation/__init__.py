"""Evaluation: what steering does to chains, with intervals."""
