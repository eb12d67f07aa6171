"""Who scores is told from who labelled: by names, settings aside, and by what was learned."""

from __future__ import annotations

from dataclasses import replace

import pytest

import steerkit as sk
from steerkit.annotation import Judge, fit_classifier, read_classifier, read_rules
from steerkit.independence import (
    annotator_identity,
    annotator_relation,
    independence_note,
    labelled_by,
    same_annotator,
)
from steerkit.traces import Traces
from steerkit.vectors import SteeringVectors
from tests.annotation.test_classifier import planted
from tests.tiny import tiny_model, tiny_traces


def vectors(chains, **facts):
    """Vectors that say nothing but who labelled their chains."""
    return SteeringVectors({}, {"annotator_chains": chains, **facts})


@pytest.fixture(scope="module")
def extracted():
    """From chains of two annotators, and some whose annotator nobody recorded."""
    names = ["authors", "authors", "classifier@1a2b3c4d#ffffff", None]
    traces = tiny_traces(40)
    mixed = [replace(t, annotator=names[i % 4]) for i, t in enumerate(traces)]
    return sk.extract(tiny_model(), mixed), Traces(mixed)


def test_extraction_counts_the_chains_of_every_annotator(extracted):
    made, traces = extracted
    used = traces.split("extract")
    expected = {}
    for trace in used:
        name = trace.annotator or "unknown"
        expected[name] = expected.get(name, 0) + 1
    assert labelled_by(made) == expected and len(expected) == 3
    assert sum(expected.values()) == len(used)


def test_the_counts_come_back_from_a_file(extracted, tmp_path):
    made, _ = extracted
    assert labelled_by(sk.read_vectors(made.save(tmp_path / "v.safetensors"))) == labelled_by(made)


def test_any_of_several_annotators_is_the_same(extracted):
    made, _ = extracted
    assert same_annotator(made, "authors")
    assert same_annotator(made, "classifier@1a2b3c4d#000000"), "another threshold"
    assert not same_annotator(made, "classifier@99999999#ffffff")
    assert not same_annotator(made, "rules")


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("grammar", "grammar"),
        ("rules@1a2b3c4d#77aa01", "rules@1a2b3c4d"),
        ("judge:gpt-4o#77aa01", "judge:gpt-4o"),
        ("judge:org/model@2024#77aa01", "judge:org/model@2024"),
        ("authors, labels shuffled within chains, seed 3", "authors"),
        ("judge:gpt-4o#77aa01, labels shuffled within chains, seed -1", "judge:gpt-4o"),
        ("classifier, 10-fold@1a2b3c4d#77aa01", "classifier, 10-fold@1a2b3c4d"),
    ],
)
def test_the_identity_leaves_settings_and_shuffling_aside(name, identity):
    assert annotator_identity(name) == identity


@pytest.mark.parametrize(
    ("known", "who", "relation"),
    [
        ({"judge:gpt-4o#1": 5}, "judge:gpt-4o#2", "same"),
        ({"judge:gpt-4o#1": 5}, "judge:qwen3#1", "other"),
        ({"judge:gpt-4o#1": 5}, "rules@1#1", "other"),
        ({"rules@1#1": 5}, "rules@2#1", "related"),
        ({"classifier@1#1": 5}, "classifier, 10-fold@2#1", "related"),
        ({"authors": 5, "unknown": 1}, "authors", "same"),
        ({"authors": 5, "unknown": 1}, "me", "unknown"),
        ({"authors": 5}, "me", "other"),
        ({}, "me", "unknown"),
    ],
)
def test_relations(known, who, relation):
    made = vectors(known)
    assert annotator_relation(made, who) == relation
    assert same_annotator(made, who) == (relation == "same")
    note = independence_note(made, who)
    assert note.startswith(f"{who} ") and note.endswith(".")


def test_every_relation_has_a_note_of_its_own():
    cases = [({"a": 1}, "a"), ({"a@1": 1}, "a@2"), ({"a": 1}, "b"), ({}, "b")]
    notes = {independence_note(vectors(known), who).split(" ", 1)[1] for known, who in cases}
    assert len(notes) == 4
    assert "exact" in independence_note(vectors({"grammar": 3}), "grammar")


def test_a_classifier_tells_whose_labels_it_learned():
    bundled = vectors({"authors": 100})
    assert annotator_relation(bundled, read_classifier()) == "related"
    assert annotator_relation(bundled, "classifier") == "related", "a bundled name is looked up"
    for name in (read_classifier().name, read_classifier().with_threshold(0.9).name):
        assert annotator_relation(bundled, name) == "related", "and so is the name in traces"
    assert annotator_relation(bundled, "classifier@00000000#000000") == "other"
    mine = fit_classifier(planted(10))
    assert annotator_relation(bundled, mine) == "other"
    assert annotator_relation(vectors({"hand": 3}), mine) == "related"
    assert annotator_relation(vectors({mine.name: 3}), mine.with_threshold(0.7)) == "same"


def test_rules_tell_whose_labels_were_in_view(tmp_path):
    """data/README.md: the bundled rules were written after the chains of the authors."""
    bundled = vectors({"authors": 100})
    for rules in ("rules", read_rules(), read_rules().name):
        assert annotator_relation(bundled, rules) == "related"
        assert annotator_relation(vectors({"grammar": 100}), rules) == "other"
    silent = replace(read_rules(), written_after=())
    assert silent.name == read_rules().name, "what was in view changes no label"
    assert annotator_relation(bundled, silent) == "other"
    assert annotator_relation(bundled, "rules@00000000#000000") == "other"


def test_a_judge_is_known_by_its_model():
    one, other = (Judge("m", "http://localhost:1/v1", sentences=n) for n in (10, 20))
    assert one.name != other.name and same_annotator(vectors({one.name: 3}), other)
    assert not same_annotator(vectors({one.name: 3}), Judge("n", "http://localhost:1/v1"))


def test_files_of_before_and_vectors_without_chains():
    old = SteeringVectors({}, {"annotators": ["authors", "rules@1"]})
    assert labelled_by(old) == {"authors": None, "rules@1": None}
    assert same_annotator(old, "authors")
    assert labelled_by(SteeringVectors({}, {})) == {}
    assert annotator_relation(SteeringVectors({}, {}), "authors") == "unknown"


def test_labels_that_were_shuffled_keep_their_annotator():
    twin = sk.shuffle_labels(planted(2), seed=3)
    assert annotator_relation(vectors({twin[0].annotator: 2}), "hand") == "same"
