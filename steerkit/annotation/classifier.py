"""Classifier: labels by words, context and place; its file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from steerkit.annotation.annotator import fingerprint, units
from steerkit.annotation.features import Unit, matrix, trace_units
from steerkit.annotation.sentences import splitter_name
from steerkit.behaviors import UNPARSED, Behavior, behaviors, declare
from steerkit.errors import AnnotationError, ResourceError, SteerkitError
from steerkit.files import read_safetensors, write_bytes_atomic
from steerkit.resources import data
from steerkit.traces import Span, Trace

_log = logging.getLogger(__name__)

BUNDLED = "annotators/classifier.safetensors"
FORMAT = 1
VERSION = 1  # raised whenever the same file may label differently than before
_KEY = "steerkit_classifier"
_BATCH = 32  # chains whose features are held at once


@dataclass(frozen=True, eq=False)
class Classifier:
    """An annotator by multinomial logistic regression on words, context and place.

    Attributes
    ----------
    labels:
        The behaviours it knows: those of the chains it was fitted on.
    vocabularies, idf:
        By block of features (:mod:`steerkit.annotation.features`): the features in the order
        of their columns, and their inverse document frequencies.
    weights, bias:
        W and b. The columns are the blocks in their order, then the features of place.
    temperature, shift:
        T and c of the calibration.
    threshold:
        A label whose probability does not reach it is ``unparsed``; 0 never abstains.
    fitted_on:
        What it was fitted on: ``chains``, ``units``, ``counts`` by label, ``annotators``,
        and ``tasks``, the hashes of the tasks.

    The label is argmax(s) with s = W x + b, fitted nearly as if all labels were equally frequent;
    its probability is that of softmax(s / T + c). So a rare label may be chosen over a
    likelier one: that costs accuracy and gains agreement beyond chance. x is the tf-idf of
    n-grams of words and characters of a unit, n-grams of the unit before it, the first
    words of the one behind it, and where it stands in its chain.

    Its labels are as good as those it was fitted on, on text like that text. Do not use it
    to score an evaluation whose directions come from chains that it labelled itself.
    """

    labels: tuple[str, ...]
    vocabularies: Mapping[str, tuple[str, ...]]
    idf: Mapping[str, Float[np.ndarray, " _"]]
    weights: Float[np.ndarray, "label feature"]
    bias: Float[np.ndarray, " label"]
    temperature: float
    shift: Float[np.ndarray, " label"]
    threshold: float
    fitted_on: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        """``classifier@`` and a hash of what was fitted, ``#`` and one of the settings."""
        fitted = replace(self, threshold=0.0).to_bytes()
        settings = [VERSION, self.threshold, splitter_name()]
        return f"classifier@{fingerprint(fitted)}#{fingerprint(settings, 3)}"

    def with_threshold(self, threshold: float | None) -> Classifier:
        """The same with another threshold, 0 to 1; ``None`` leaves it as it is."""
        if threshold is None or threshold == self.threshold:
            return self
        return replace(self, threshold=checked_threshold(threshold))

    def scores(self, chain: Sequence[Unit]) -> Float[np.ndarray, "unit label"]:
        """W x + b of the units of one or more chains."""
        if not chain:
            return np.zeros((0, len(self.labels)))
        found = matrix(chain, self.vocabularies, self.idf) @ self.weights.T.astype(np.float64)
        return np.asarray(found) + self.bias.astype(np.float64)

    def probabilities(self, chain: Sequence[Unit]) -> Float[np.ndarray, "unit label"]:
        """Calibrated probabilities of every label for the units of one or more chains."""
        return self._calibrated(self.scores(chain))

    def spans(self, traces: Sequence[Trace], *, keep: bool = False) -> Iterator[list[Span]]:
        """The sentences of each trace; see :class:`steerkit.annotation.Annotator`."""
        self._warn(traces)
        for first in range(0, len(traces), _BATCH):
            part = traces[first : first + _BATCH]
            bounds = [units(trace, keep=keep) for trace in part]
            every = [u for t, b in zip(part, bounds, strict=True) for u in trace_units(t, b)]
            found = iter(self.decide(self.scores(every)))
            for stretches in bounds:
                yield [Span(start, end, next(found)) for start, end in stretches]

    def decide(self, scores: Float[np.ndarray, "unit label"]) -> list[str]:
        """The label of every unit from its :meth:`scores`: the best, or ``unparsed``."""
        if not len(scores):
            return []
        best = scores.argmax(axis=1)
        sure = self._calibrated(scores)[np.arange(len(scores)), best] >= self.threshold
        return [self.labels[b] if s else UNPARSED for b, s in zip(best, sure, strict=True)]

    def _calibrated(
        self, scores: Float[np.ndarray, "unit label"]
    ) -> Float[np.ndarray, "unit label"]:
        return softmax(scores / self.temperature + self.shift)

    def _warn(self, traces: Sequence[Trace]) -> None:
        fitted = set(self.fitted_on["tasks"])
        known = sum(trace.task_key in fitted for trace in traces)
        if known:
            _log.warning(
                "%d of %d chains are of tasks that the classifier was fitted on: how well it "
                "labels these says nothing about others (to cross-validate: cross_annotate, "
                "or --folds)",
                known,
                len(traces),
            )

    def to_bytes(self) -> bytes:
        """The classifier as a safetensors file: the same one gives the same bytes."""
        from safetensors.numpy import save

        tensors = {"weights": self.weights, "bias": self.bias, "shift": self.shift}
        tensors |= {f"idf.{block}": values for block, values in self.idf.items()}
        described = {known.name: known for known in behaviors()}
        header = {
            "format": FORMAT,
            "behaviors": [
                {"name": b.name, "definition": b.definition, "color": b.color}
                for b in (described.get(label, Behavior(label, "")) for label in self.labels)
            ],
            "vocabularies": [[block, list(known)] for block, known in self.vocabularies.items()],
            "temperature": self.temperature,
            "threshold": self.threshold,
            "fitted_on": dict(self.fitted_on),
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        whole = {key: np.ascontiguousarray(values) for key, values in sorted(tensors.items())}
        return save(whole, metadata={_KEY: text})

    def save(self, path: str | Path) -> Path:
        """Write it, atomically, as one safetensors file; :func:`read_classifier` reads it."""
        return write_bytes_atomic(path, self.to_bytes())


def read_classifier(path: str | Path | None = None) -> Classifier:
    """Read a classifier; without a path the one that is bundled.

    Nothing is unpickled: the file holds numbers and JSON. Behaviours that it brings and that
    are not known yet are declared. Raises :class:`ResourceError` for a missing file and
    :class:`AnnotationError` for one that is damaged, no classifier, or of a newer format.
    """
    source = data(BUNDLED) if path is None else Path(path)
    if not source.is_file():
        raise ResourceError(
            "no such classifier", where=source, fix="fit one with steerkit annotate --fit --save"
        )
    metadata, tensors = read_safetensors(source, AnnotationError, framework="np")
    try:
        header = json.loads(metadata[_KEY])
        if header["format"] > FORMAT:
            raise AnnotationError(
                "written by a newer steerkit",
                expected=f"format {FORMAT} or older",
                found=header["format"],
                where=source,
                fix="update steerkit",
            )
        vocabularies = {block: tuple(known) for block, known in header["vocabularies"]}
        made = Classifier(
            tuple(entry["name"] for entry in header["behaviors"]),
            vocabularies,
            {block: tensors[f"idf.{block}"] for block in vocabularies},
            tensors["weights"],
            tensors["bias"],
            float(header["temperature"]),
            tensors["shift"],
            checked_threshold(header["threshold"]),
            {**header["fitted_on"], "tasks": list(header["fitted_on"]["tasks"])},
        )
        made.probabilities([Unit("Is it 3?", "", "", 0.0, 0, True)])  # do its parts fit?
        for entry in header["behaviors"]:
            if all(entry["name"] != known.name for known in behaviors()):
                declare(Behavior(entry["name"], entry["definition"], entry["color"]))
    except (KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, SteerkitError):
            raise
        raise AnnotationError(
            "a safetensors file, but not one of a classifier",
            expected=f"metadata under the key {_KEY!r} as steerkit annotate --save writes it",
            found=f"{type(problem).__name__}: {problem}",
            where=source,
        ) from None
    return made


def softmax(scores: Float[np.ndarray, "unit label"]) -> Float[np.ndarray, "unit label"]:
    """exp(s) / sum exp(s) over the labels."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def checked_threshold(threshold: Any) -> float:
    """A probability, 0 to 1, or :class:`AnnotationError`."""
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise AnnotationError(
            "a threshold is a probability", expected="0 to 1", found=repr(threshold)
        )
    return float(threshold)
