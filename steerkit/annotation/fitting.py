"""Fitting: annotated chains to a calibrated classifier, and cross-validation by task."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from steerkit.annotation.annotator import fingerprint, units
from steerkit.annotation.classifier import VERSION, Classifier, checked_threshold, softmax
from steerkit.annotation.features import (
    BLOCKS,
    Unit,
    counted,
    inverse_frequency,
    places,
    trace_units,
    weighted,
)
from steerkit.annotation.sentences import splitter_name
from steerkit.behaviors import UNPARSED, behaviors
from steerkit.errors import AnnotationError
from steerkit.traces import Trace, Traces

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CALIBRATION_FOLDS = 5
# chosen by cross-validation on the bundled chains, with that on the reference chains in view
STRENGTH = 3.0  # C of scikit-learn's LogisticRegression
LEAST = 2  # tasks that a feature must occur in
LEAN = 0.2  # of the way from labels that count as equally frequent to their frequencies

Progress = Callable[[int, int], None]
_Columns = dict[str, Int[np.ndarray, " _"]]


@dataclass(frozen=True, eq=False)
class Examples:
    """Units of annotated chains with their labels and all their features, row by row.

    ``targets`` are columns of ``labels``; ``tasks`` number each unit's task, ``keys`` are the
    tasks' hashes; ``features`` and ``counts`` hold every block's features and how often each
    unit has them. ``unparsed`` spans are context of their neighbours and no examples.
    """

    targets: Int[np.ndarray, " unit"]
    tasks: Int[np.ndarray, " unit"]
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    features: Mapping[str, Sequence[str]]
    counts: Mapping[str, Any]
    place: Float[np.ndarray, "unit place"]

    @classmethod
    def of(cls, traces: Iterable[Trace]) -> Examples:
        """The labelled spans of traces; :class:`AnnotationError` for fewer than two labels."""
        rows: list[tuple[Unit, str, str]] = []
        for trace in traces:
            found = trace_units(trace, units(trace, keep=True))
            rows += [
                (unit, span.label, trace.task_key)
                for unit, span in zip(found, trace.spans, strict=True)
                if span.label != UNPARSED
            ]
        used = {label for _, label, _ in rows}
        labels = tuple(known.name for known in behaviors() if known.name in used)
        if len(labels) < 2:
            raise AnnotationError(
                "a classifier needs chains with at least two labels",
                found=", ".join(labels) or "no labelled span",
                fix="annotate the chains first",
            )
        stretches = [unit for unit, _, _ in rows]
        features = {
            block: sorted({f for unit in stretches for f in made(unit)})
            for block, made in BLOCKS.items()
        }
        keys = sorted({key for _, _, key in rows})
        return cls(
            np.array([labels.index(label) for _, label, _ in rows]),
            np.array([keys.index(key) for _, _, key in rows]),
            tuple(keys),
            labels,
            features,
            {block: counted(stretches, block, known) for block, known in features.items()},
            places(stretches),
        )

    def regression(self, rows: Int[np.ndarray, " row"]) -> tuple[Classifier, _Columns]:
        """A classifier fitted on some rows, without calibration, and its columns of each block."""
        from sklearn.linear_model import LogisticRegression

        columns = {block: self._common(counts[rows], rows) for block, counts in self.counts.items()}
        idf = {
            block: inverse_frequency(self.counts[block][rows][:, chosen])
            for block, chosen in columns.items()
        }
        present = np.unique(self.targets[rows])
        if len(present) < 2:
            raise AnnotationError(
                "all spans of some tasks that are fitted on together have one label",
                found=self.labels[present[0]] if len(present) else "no span",
                fix="fit on more chains",
            )
        model = LogisticRegression(
            C=STRENGTH, class_weight="balanced", max_iter=1_000, tol=1e-3
        ).fit(self._design(rows, columns, idf), self.targets[rows])
        coefficients, intercepts = model.coef_, model.intercept_
        if len(present) == 2:  # scikit-learn gives one row for two labels
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        weights = np.zeros((len(self.labels), coefficients.shape[1]), dtype=np.float32)
        bias = np.full(len(self.labels), -20.0, dtype=np.float32)  # labels these rows don't have
        weights[present] = coefficients
        shares = np.bincount(self.targets[rows])[present] / len(rows)
        bias[present] = intercepts + LEAN * np.log(shares)
        vocabularies = {
            block: tuple(self.features[block][c] for c in chosen)
            for block, chosen in columns.items()
        }
        neutral = np.zeros(len(self.labels), dtype=np.float32)
        made = Classifier(
            self.labels, vocabularies, idf, weights, bias, 1.0, neutral, 0.0, {"tasks": []}
        )
        return made, columns

    def scores(
        self, fitted: tuple[Classifier, _Columns], rows: Int[np.ndarray, " row"]
    ) -> Float[np.ndarray, "row label"]:
        """What a classifier of :meth:`regression` says of rows."""
        made, columns = fitted
        design = self._design(rows, columns, made.idf)
        return np.asarray(design @ made.weights.T.astype(np.float64)) + made.bias

    def _design(
        self, rows: Int[np.ndarray, " row"], columns: _Columns, idf: Mapping[str, Any]
    ) -> csr_matrix:
        blocks = ((self.counts[b][rows][:, chosen], idf[b]) for b, chosen in columns.items())
        return weighted(blocks, self.place[rows])

    def _common(
        self, counts: csr_matrix, rows: Int[np.ndarray, " row"]
    ) -> Int[np.ndarray, " column"]:
        """Columns of the features that occur in enough tasks."""
        from scipy.sparse import csr_matrix

        ones = np.ones(len(rows))
        task = csr_matrix((ones, (self.tasks[rows], np.arange(len(rows)))), dtype=np.float64)
        have = np.asarray(((task @ counts) > 0).sum(axis=0)).ravel()
        return np.flatnonzero(have >= LEAST)


def fit_classifier(
    traces: Iterable[Trace], *, threshold: float = 0.0, progress: Progress | None = None
) -> Classifier:
    """Fit a classifier on annotated chains.

    Parameters
    ----------
    traces:
        Chains whose spans carry labels, of at least five tasks. Spans are the units that are
        learned; ``unparsed`` ones are not.
    threshold:
        Where no label's probability reaches it, the classifier says ``unparsed``.
    progress:
        Called with the number of fits done and of all: five for calibration, then the last.

    Labels weigh nearly as if all were equally frequent, or the rare ones would hardly ever be
    given. So that probabilities are right all the same, scores are calibrated by a temperature
    and a bias for every label (bias-corrected temperature scaling: Alexandari, Kundaje and
    Shrikumar 2020, arXiv 1901.06852), found on the scores of five fits that each leave out a
    fifth of the tasks. The same chains give the same bytes on the same machine and versions.

    Raises :class:`AnnotationError` for fewer than two labels or five tasks.
    """
    listed = Traces(traces)
    checked_threshold(threshold)
    examples = Examples.of(listed)
    every = np.arange(len(examples.targets))
    made = _fitted(examples, every, threshold, progress)
    return replace(made, fitted_on=_facts(listed, examples))


def cross_annotate(
    traces: Iterable[Trace],
    *,
    folds: int = 10,
    threshold: float = 0.0,
    keep_spans: bool = False,
    progress: Progress | None = None,
) -> Traces:
    """Label every chain by a classifier that was fitted on the chains of other tasks.

    Parameters
    ----------
    traces:
        Annotated chains, as for :func:`fit_classifier`.
    folds:
        Parts into which the tasks are divided, by hash, of equal size as far as that goes.
    threshold, keep_spans:
        As of :func:`fit_classifier` and :func:`steerkit.annotation.annotate`.
    progress:
        Called with the number of folds done and of all.

    Returns the chains in their order, to be compared with the originals by
    :func:`steerkit.annotation.agree`. Their annotator is named by the folds and a
    hash of the chains that were learned from. Raises :class:`AnnotationError` for fewer tasks than
    folds, and as :func:`fit_classifier` does.
    """
    listed = Traces(traces)
    checked_threshold(threshold)
    fold_of = assigned_folds([trace.task_key for trace in listed], folds)
    examples = Examples.of(listed)
    place = np.array([fold_of[examples.keys[task]] for task in examples.tasks])
    learned = [[t.id, t.response, [[s.start, s.end, s.label] for s in t.spans]] for t in listed]
    settings = [VERSION, threshold, splitter_name()]
    name = f"classifier, {folds}-fold@{fingerprint(learned)}#{fingerprint(settings, 3)}"
    made: dict[str, Trace] = {}
    for fold in range(folds):
        held = [trace for trace in listed if fold_of[trace.task_key] == fold]
        rows = np.flatnonzero(place != fold)
        # without a threshold probabilities decide nothing
        fitted = (
            _fitted(examples, rows, threshold, None) if threshold else examples.regression(rows)[0]
        )
        spans = fitted.spans(held, keep=keep_spans)
        made |= {t.id: t.with_spans(s, name) for t, s in zip(held, spans, strict=True)}
        if progress is not None:
            progress(fold + 1, folds)
    return listed.derived(made[trace.id] for trace in listed)


def assigned_folds(keys: Iterable[str], folds: int) -> dict[str, int]:
    """The fold of every task: in the order of a hash, dealt out in turns."""
    known = sorted(set(keys), key=lambda k: hashlib.blake2b(k.encode(), digest_size=8).digest())
    if folds < 2 or len(known) < folds:
        raise AnnotationError(
            "too few tasks to leave some out",
            expected=f"at least {max(folds, 2)} tasks for {max(folds, 2)} folds",
            found=f"{len(known)} tasks, {folds} folds",
        )
    return {key: number % folds for number, key in enumerate(known)}


def calibration(
    scores: Float[np.ndarray, "unit label"], targets: Int[np.ndarray, " unit"]
) -> tuple[float, Float[np.ndarray, " label"]]:
    """Temperature T and bias b that make softmax(s / T + b) likeliest.

    ``scores`` are of units that the fit did not see. The sum of b is 0.
    """
    from scipy.optimize import minimize

    rows = np.arange(len(targets))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        inverse, bias = np.exp(parameters[0]), parameters[1:]
        found = softmax(scores * inverse + bias)
        error = found.copy()
        error[rows, targets] -= 1
        slopes = [(error * scores).sum() * inverse, *error.sum(axis=0)]
        nll = -np.log(np.maximum(found[rows, targets], 1e-300)).mean()
        return float(nll), np.array(slopes) / len(targets)

    best = minimize(loss, np.zeros(scores.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return float(np.exp(-best[0])), best[1:] - best[1:].mean()


def _fitted(
    examples: Examples, rows: Int[np.ndarray, " row"], threshold: float, progress: Progress | None
) -> Classifier:
    """A classifier of some rows, calibrated on parts of them that are held out in turns."""
    keys = [examples.keys[task] for task in examples.tasks[rows]]
    fold_of = assigned_folds(keys, CALIBRATION_FOLDS)
    place = np.array([fold_of[key] for key in keys])
    scores = np.zeros((len(rows), len(examples.labels)))
    for fold in range(CALIBRATION_FOLDS):
        fitted = examples.regression(rows[place != fold])
        scores[place == fold] = examples.scores(fitted, rows[place == fold])
        if progress is not None:
            progress(fold + 1, CALIBRATION_FOLDS + 1)
    temperature, shift = calibration(scores, examples.targets[rows])
    made, _ = examples.regression(rows)
    if progress is not None:
        progress(CALIBRATION_FOLDS + 1, CALIBRATION_FOLDS + 1)
    return replace(
        made,
        temperature=temperature,
        shift=shift.astype(np.float32),
        threshold=float(threshold),
    )


def _facts(traces: Traces, examples: Examples) -> dict[str, Any]:
    counts = Counter(examples.targets.tolist())
    return {
        "chains": len(traces),
        "units": len(examples.targets),
        "counts": {label: counts[i] for i, label in enumerate(examples.labels)},
        "annotators": sorted({trace.annotator or "unknown" for trace in traces}),
        "tasks": list(examples.keys),
    }
