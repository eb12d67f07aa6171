"""Fitting: calibration, folds by task, and what a chain cannot be learned from."""

from __future__ import annotations

import numpy as np
import pytest

from steerkit.annotation import agree, cross_annotate, fit_classifier
from steerkit.annotation.annotator import units
from steerkit.annotation.classifier import softmax
from steerkit.annotation.features import trace_units
from steerkit.annotation.fitting import Examples, assigned_folds, calibration
from steerkit.behaviors import UNPARSED
from steerkit.errors import AnnotationError
from steerkit.traces import Span, Trace
from tests.annotation.planted import SENTENCES, B, D, E, U, planted


def test_context_can_decide():
    """The same sentence means another thing after another one."""
    draw = np.random.default_rng(0)
    traces = []
    for number in range(60):
        text, spans = "", []
        for _ in range(6):
            doubt = draw.random() < 0.5
            for sentence, label in (
                ("Hmm, really?" if doubt else "So it is.", U if doubt else D),
                ("Look again.", B if doubt else E),
            ):
                spans.append(Span(len(text), len(text) + len(sentence), label))
                text += sentence + " "
        traces.append(Trace(str(number), str(number), text, spans=tuple(spans)))
    found = cross_annotate(traces, folds=3, keep_spans=True)
    assert agree(traces, found, units=("spans",), resamples=10).value("accuracy", "spans") > 0.99


def test_probabilities_are_calibrated():
    """Labels that are right four times of five are believed four times of five."""
    made = fit_classifier(planted(120, noise=0.3))
    fresh = planted(80, seed=1, noise=0.3)
    every = [u for t in fresh for u in trace_units(t, units(t, keep=True))]
    found = made.probabilities(every)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    best = found.max(axis=1)
    right = [made.labels[i] for i in found.argmax(axis=1)] == np.array(
        [s.label for t in fresh for s in t.spans]
    )
    assert best.mean() == pytest.approx(right.mean(), abs=0.04)
    assert right.mean() == pytest.approx(0.8, abs=0.05)


def test_calibration_finds_the_temperature_and_bias_that_were_planted():
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(20_000, 3)) * 2
    bias = np.array([0.5, -0.2, -0.3])
    truth = softmax(scores / 1.7 + bias)
    targets = (truth.cumsum(axis=1) < draw.random((20_000, 1))).sum(axis=1).clip(0, 2)
    temperature, found = calibration(scores, targets)
    assert temperature == pytest.approx(1.7, abs=0.08)
    np.testing.assert_allclose(found, bias, atol=0.06)


def test_folds_part_tasks_evenly_and_never_within():
    folds = assigned_folds([f"t{i}" for i in range(23)], 5)
    sizes = np.bincount(list(folds.values()))
    assert sizes.tolist() == [5, 5, 5, 4, 4]
    assert folds == assigned_folds([f"t{i}" for i in reversed(range(23))] * 2, 5)
    for keys, count in ((["a", "b"], 3), (["a", "b", "c"], 1)):
        with pytest.raises(AnnotationError, match="tasks"):
            assigned_folds(keys, count)


def test_cross_annotation_never_sees_the_labels_of_the_chain_it_labels():
    chains = planted(15)
    first = chains[0]
    other = [first.with_spans([Span(s.start, s.end, B) for s in first.spans], "x"), *chains[1:]]
    found, again = (cross_annotate(these, folds=5, keep_spans=True) for these in (chains, other))
    assert [t.id for t in found] == [t.id for t in chains]
    assert found[0].spans == again[0].spans
    assert found[0].annotator.startswith("classifier, 5-fold@")
    assert found[0].annotator != again[0].annotator, "other labels were learned"
    # positive control: a fit on all of them does see these labels
    units_of_first = trace_units(first, units(first, keep=True))
    scores = [fit_classifier(these).scores(units_of_first) for these in (chains, other)]
    assert np.abs(scores[0] - scores[1]).max() > 0.1


def test_chains_that_cannot_be_learned_from():
    with pytest.raises(AnnotationError, match="at least two labels"):
        fit_classifier(planted(10, sentences={D: SENTENCES[D]}))
    with pytest.raises(AnnotationError, match="at least two labels"):
        fit_classifier(t.with_spans([], None) for t in planted(10))
    with pytest.raises(AnnotationError, match="at least 5 tasks"):
        fit_classifier(planted(4))


def test_unparsed_spans_are_not_learned():
    chains = [
        t.with_spans([*t.spans[:-1], Span(t.spans[-1].start, t.spans[-1].end, UNPARSED)], "x")
        for t in planted(30)
    ]
    made = fit_classifier(chains)
    assert UNPARSED not in made.labels and made.fitted_on["units"] == 270
    assert fit_classifier(planted(30)).fitted_on["units"] == 300


def test_examples_are_the_labelled_spans_row_by_row() -> None:
    chains = planted(6)
    examples = Examples.of(chains)
    spans = [(span.label, trace.task_key) for trace in chains for span in trace.spans]
    assert [examples.labels[i] for i in examples.targets] == [label for label, _ in spans]
    assert [examples.keys[i] for i in examples.tasks] == [key for _, key in spans]
    assert examples.place.shape[0] == len(spans)
    for block, counts in examples.counts.items():
        assert counts.shape == (len(spans), len(examples.features[block]))


def test_a_feature_of_one_task_alone_is_not_learned() -> None:
    """A word that only one task has would be learned by heart; in two it counts."""
    rare = []
    for number, trace in enumerate(planted(8)):
        word = " Zebra." if number < 2 else ""
        text = trace.response.replace("</think>", f"{word}</think>")
        start = text.find("Zebra.")
        spans = [*trace.spans, *([Span(start, start + 6, D)] if word else [])]
        rare.append(Trace(trace.id, trace.task_id, text, spans=tuple(spans)))
    examples = Examples.of(rare)
    every = np.arange(len(examples.targets))
    both, _ = examples.regression(every)
    assert "zebra" in both.vocabularies["words"]
    first = examples.keys.index(rare[0].task_key)
    one, _ = examples.regression(every[examples.tasks != first])
    assert "zebra" not in one.vocabularies["words"]


def test_progress_counts_the_fits() -> None:
    told: list[tuple[int, int]] = []
    fit_classifier(planted(8), progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 6) for n in range(1, 7)]
    told.clear()
    cross_annotate(planted(8), folds=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 4) for n in range(1, 5)]
