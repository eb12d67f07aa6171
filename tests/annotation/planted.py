"""Chains whose labels follow from their words."""

from __future__ import annotations

import numpy as np

from steerkit.traces import Span, Trace, Traces

D, B, U, E = "deduction", "backtracking", "uncertainty-estimation", "example-testing"
SENTENCES = {
    D: ["So the sum is {}.", "That gives {} in total.", "Then {} are left."],
    B: ["Wait, no, {} is wrong.", "Scrap the {} and start over.", "No, forget {}."],
    U: ["Hmm, is {} right?", "I'm not sure about {}.", "Maybe {} is too much?"],
}


def planted(count, *, seed=0, noise=0.0, sentences=SENTENCES):
    """Chains whose labels follow from their words, a share of them corrupted."""
    draw = np.random.default_rng(seed)
    names = list(sentences)
    traces = []
    for number in range(count):
        text, spans = "<think>", []
        for _ in range(10):
            label = names[draw.integers(len(names))]
            sentence = str(draw.choice(sentences[label])).format(draw.integers(100))
            shown = names[draw.integers(len(names))] if draw.random() < noise else label
            spans.append(Span(len(text), len(text) + len(sentence), shown))
            text += sentence + " "
        key = f"s{seed}n{number}"
        traces.append(Trace(key, key, text + "</think>done", spans=tuple(spans), annotator="hand"))
    return Traces(traces)
