"""Independence: whether who scores an evaluation has also labelled what directions come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from steerkit.annotation import ANNOTATORS
from steerkit.annotation.annotator import Annotator
from steerkit.annotation.grammar import ANNOTATOR
from steerkit.annotation.shuffled import SHUFFLED

if TYPE_CHECKING:
    from steerkit.vectors import SteeringVectors

Relation = Literal["same", "related", "other", "unknown"]

_SHUFFLED = re.compile(re.escape(SHUFFLED) + r"-?\d+\Z")


def annotator_identity(name: str) -> str:
    """What of an annotator's name says who it is: without settings, without shuffling.

    All before the first ``#``, as annotators name themselves
    (:class:`steerkit.annotation.Annotator`): ``classifier@1a2b3c4d`` under any threshold,
    ``judge:gpt-4o`` under any prompt.
    """
    return _SHUFFLED.sub("", name).partition("#")[0]


def labelled_by(vectors: SteeringVectors) -> dict[str, int | None]:
    """Who labelled the chains that directions come from: names with numbers of chains.

    ``unknown`` are chains whose file does not say. A number is ``None`` in files that were
    made before numbers were recorded; there, chains kept for choosing layers count as well.
    Empty for vectors that were imported or put together by hand.
    """
    facts = vectors.provenance
    counted = facts.get("annotator_chains")
    if isinstance(counted, dict):
        return {str(name): int(count) for name, count in counted.items()}
    return dict.fromkeys(facts.get("annotators", ()))


def annotator_relation(vectors: SteeringVectors, annotator: str | Annotator) -> Relation:
    """How an annotator stands to those that labelled the chains that directions come from.

    Parameters
    ----------
    vectors:
        Vectors as extracted, or as read from a file.
    annotator:
        Who is to score, as traces name it, one of the bundled names, or the annotator
        itself, which tells more: what a classifier was fitted on. The bundled ones are known
        by the names in traces as well.

    Returns
    -------
    ``same``
        It labelled at least some of the chains, whatever its settings and prompt were then.
        What it mistakes for a behaviour is mistaken twice, so effects can look better than
        they are (Venhoff et al. 2025 use one model for both).
    ``related``
        Of the same kind, with another file: other rules, another fit. Or a classifier that
        was fitted on labels of an annotator of these chains, or rules that were written with
        them in view: they repeat its mistakes.
    ``other``
        None of this is known. Two language models, or a model and rules that do not say what
        they were written after, may still err alike: measure agreement on chains that people
        labelled.
    ``unknown``
        The vectors don't say who labelled their chains, or not for all of them.
    """
    annotator = _looked_up(annotator)
    name = annotator if isinstance(annotator, str) else annotator.name
    who = annotator_identity(name)
    known = {annotator_identity(other) for other in labelled_by(vectors)}
    if who in known:
        return "same"
    taught = {annotator_identity(teacher) for teacher in _teachers(annotator)}
    if taught & known or _kind(who) in {_kind(other) for other in known}:
        return "related"
    return "unknown" if not known or "unknown" in known else "other"


def same_annotator(vectors: SteeringVectors, annotator: str | Annotator) -> bool:
    """Whether the annotator labelled chains that the directions come from; settings aside.

    The first case of :func:`annotator_relation`; ``False`` also where that is not known.
    """
    return annotator_relation(vectors, annotator) == "same"


def independence_note(vectors: SteeringVectors, annotator: str | Annotator) -> str:
    """:func:`annotator_relation` as a sentence for a table or report."""
    name = annotator if isinstance(annotator, str) else annotator.name
    said = {
        "same": "labelled chains that the directions come from as well: "
        "what it mistakes for a behaviour is mistaken twice",
        "related": "is of one kind with an annotator of the chains that the directions come from, "
        "or was made from its labels: mistakes may be shared",
        "other": "is another annotator than those of the chains that the directions come from",
        "unknown": "may or may not have labelled the chains that the directions come from: "
        "the vectors do not say who did",
    }
    relation = annotator_relation(vectors, annotator)
    if relation == "same" and annotator_identity(name) == ANNOTATOR:
        return (
            f"{name} labelled chains that the directions come from as well, and is exact on them."
        )
    return f"{name} {said[relation]}."


def _looked_up(annotator: str | Annotator) -> str | Annotator:
    """The bundled annotator that a name means, with or without its hashes; else the same."""
    if not isinstance(annotator, str) or _kind(annotator) not in ANNOTATORS:
        return annotator
    bundled = ANNOTATORS[_kind(annotator)]()
    names = (_kind(annotator), annotator_identity(bundled.name))
    return bundled if annotator_identity(annotator) in names else annotator


def _teachers(annotator: str | Annotator) -> set[str]:
    """Whose labels an annotator was fitted on or written after, where it says so."""
    facts = getattr(annotator, "fitted_on", None)
    named = facts.get("annotators", ()) if isinstance(facts, Mapping) else ()
    return {str(name) for name in (*named, *getattr(annotator, "written_after", ()))} - {"unknown"}


def _kind(identity: str) -> str:
    """What an annotator is of: ``classifier`` of ``classifier, 10-fold@1a2b3c4d``."""
    return identity.partition("@")[0].partition(",")[0]
