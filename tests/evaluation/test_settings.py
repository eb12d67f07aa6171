"""Settings: who scores, and whether it labelled the chains of the extraction."""

from __future__ import annotations

import pytest

import steerkit as sk
from steerkit.annotation import read_classifier, read_rules
from steerkit.evaluation.settings import annotator_facts


def labelled_by(*names: str) -> sk.SteeringVectors:
    return sk.SteeringVectors({}, {"annotators": list(names)})


@pytest.mark.parametrize(
    ("names", "same"),
    [
        ([read_classifier().name], True),
        ([read_classifier().with_threshold(0.9).name], True),  # its settings aside
        ([read_rules().name], False),
        ([], None),
    ],
)
def test_an_annotator_is_the_same_whatever_its_settings(names, same) -> None:
    found = annotator_facts(labelled_by(*names), read_classifier())
    assert found["same_as_extraction"] is same
    assert found["name"] == read_classifier().name and found["agreement"] is None
    assert found["note"].startswith(found["name"])


def test_the_note_says_what_being_the_same_means() -> None:
    rules = read_rules()
    assert "mistaken twice" in annotator_facts(labelled_by(rules.name), rules)["note"]
    assert "mistaken twice" not in annotator_facts(labelled_by("people"), rules)["note"]
