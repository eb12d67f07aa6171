"""Annotators: chains in, chains with labelled spans out; and how far two of them agree."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from steerkit.annotation.agreement import Agreement, agree
from steerkit.annotation.annotator import Annotator
from steerkit.annotation.classifier import Classifier, read_classifier
from steerkit.annotation.fitting import cross_annotate, fit_classifier
from steerkit.annotation.grammar import Grammar, annotate_grammar
from steerkit.annotation.judge import Judge
from steerkit.annotation.judge_cost import Price
from steerkit.annotation.rules import Rules, read_rules
from steerkit.annotation.shuffled import shuffle_labels
from steerkit.annotation.tagged import Unplaced, read_tagged
from steerkit.errors import AnnotationError
from steerkit.traces import Trace, Traces

__all__ = [
    "ANNOTATORS",
    "FILES",
    "Agreement",
    "Annotate",
    "Annotator",
    "Classifier",
    "Grammar",
    "Judge",
    "Price",
    "Rules",
    "Unplaced",
    "agree",
    "annotate",
    "annotate_grammar",
    "cross_annotate",
    "find_annotator",
    "fit_classifier",
    "labelled_by",
    "labeller",
    "read_classifier",
    "read_rules",
    "read_tagged",
    "shuffle_labels",
]

ANNOTATORS: dict[str, Callable[[], Annotator]] = {
    "grammar": Grammar,
    "rules": read_rules,
    "classifier": read_classifier,
}
"""Annotators by name, as they come with the package. A :class:`Judge` needs a model's name."""

FILES: dict[str, Callable[[str | Path], Annotator]] = {
    ".toml": read_rules,
    ".safetensors": read_classifier,
}
"""Annotators by the ending of the file that holds them."""


def find_annotator(source: str | Path | Annotator) -> Annotator:
    """The annotator of this name, or of this file.

    ``source`` is one of :data:`ANNOTATORS`, the path of a rules file (``.toml``) or of a
    classifier (``.safetensors``), or an annotator, which is returned as it is. Raises
    :class:`AnnotationError` for anything else, and what reading the file raises.
    """
    if isinstance(source, str | Path):
        if str(source) in ANNOTATORS:
            return ANNOTATORS[str(source)]()
        read = FILES.get(Path(source).suffix)
        if read is None:
            raise AnnotationError(
                f"unknown annotator {str(source)!r}",
                expected="one of "
                + ", ".join(ANNOTATORS)
                + ", a rules file (.toml) or a classifier (.safetensors)",
                fix="a language model is asked by Judge(model): give that instead of a name"
                if str(source).startswith("judge")
                else None,
            )
        return read(source)
    if not isinstance(source, Annotator):
        raise AnnotationError(
            "this is no annotator",
            expected="a name, a file, or something with a name and spans(traces)",
            found=type(source).__name__,
        )
    return source


def annotate(
    traces: Trace | Iterable[Trace],
    annotator: str | Path | Annotator = "grammar",
    *,
    keep_spans: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Traces:
    """Label the thinking sections of chains; labels that were there before are replaced.

    Parameters
    ----------
    traces:
        One chain or many.
    annotator:
        ``grammar``: the exact annotator of the bundled models' chains, for nothing else.
        ``rules``: marker phrases, for plain English. ``classifier``: fitted on the bundled
        chains in plain English. A path: a rules file (``.toml``) or a saved classifier
        (``.safetensors``). Or an :class:`Annotator`: rules of your own
        (:func:`read_rules`), a classifier of your own (:func:`fit_classifier`), a language
        model (:class:`Judge`), anything with a ``name`` and ``spans``.
    keep_spans:
        Label the spans that are there anew instead of finding sentences.
    progress:
        Called with the number of chains done and of all.

    Every trace records the annotator's ``name``. Raises :class:`AnnotationError` for what is
    no annotator, or one that gives other spans than it was asked for.
    """
    annotator = find_annotator(annotator)
    listed = Traces([traces] if isinstance(traces, Trace) else traces)
    labelled: list[Trace] = []
    found = annotator.spans(listed, keep=keep_spans)
    try:
        for spans in found:
            if len(labelled) < len(listed):
                labelled.append(listed[len(labelled)].with_spans(spans, annotator.name))
            if progress is not None:
                progress(len(labelled), len(listed))
    finally:
        if isinstance(found, Generator):  # whatever it has begun ends here, not some time later
            found.close()
    if len(labelled) != len(listed):
        raise AnnotationError(
            f"the annotator {annotator.name!r} left chains out",
            expected=f"{len(listed)} lists of spans",
            found=len(labelled),
        )
    return listed.derived(labelled)


Annotate = str | Path | Annotator | Callable[[Traces], Traces]
"""What labels chains: what :func:`find_annotator` finds, or a function from traces to traces."""


def labeller(by: Annotate) -> Callable[[Traces], Traces]:
    """A function that labels chains, however it was named.

    Raises :class:`AnnotationError` for what is neither an annotator nor a function.
    """
    if isinstance(by, str | Path | Annotator) or not callable(by):
        annotator = find_annotator(by)
        return lambda traces: annotate(traces, annotator)
    return by


def labelled_by(traces: Iterable[Trace]) -> str:
    """Who labelled some chains, as they say themselves; empty where they do not."""
    return ", ".join(sorted({trace.annotator for trace in traces if trace.annotator}))
