"""The classifier: what it learns, how sure it is, what its file holds."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file

import steerkit as sk
from steerkit import behaviors
from steerkit.annotation import (
    agree,
    annotate,
    cross_annotate,
    fit_classifier,
    read_classifier,
)
from steerkit.annotation.classifier import BUNDLED
from steerkit.behaviors import UNPARSED, Behavior, declare
from steerkit.errors import AnnotationError, ResourceError
from steerkit.traces import Trace
from tests.annotation.planted import SENTENCES, B, D, E, U, planted


@pytest.fixture(scope="module")
def fitted():
    return fit_classifier(planted(30))


# -- what it learns


def test_planted_labels_are_learned_and_noise_is_not(fitted):
    fresh = planted(10, seed=1)
    found = annotate(fresh, fitted, keep_spans=True)
    assert agree(fresh, found, units=("spans",), resamples=10).value("accuracy", "spans") > 0.97
    assert found[0].annotator == fitted.name
    # positive control: labels that follow from nothing are not learned
    noise = fit_classifier(planted(30, noise=1.0))
    chance = agree(fresh, annotate(fresh, noise, keep_spans=True), units=("spans",), resamples=10)
    assert chance.value("kappa", "spans") < 0.35


def test_sentences_are_found_where_there_are_no_spans(fitted):
    bare = Trace("x", "x", "<think>Hmm, is 3 right? No, forget 3.</think>So the sum is 3.")
    (found,) = annotate(bare, fitted)
    texts = [(bare.response[s.start : s.end], s.label) for s in found.spans]
    assert texts == [("Hmm, is 3 right?", U), ("No, forget 3.", B)]
    assert annotate(Trace("y", "y", "<think></think>Done."), fitted)[0].spans == ()


def test_it_abstains_below_the_threshold():
    chains = planted(40, noise=0.4)
    sure = fit_classifier(chains)
    fresh = planted(10, seed=1)
    counts = []
    for threshold in (0.0, 0.6, 0.8, 1.0):
        found = annotate(fresh, sure.with_threshold(threshold), keep_spans=True)
        counts.append(found.counts().get(UNPARSED, 0))
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] == 100
    assert sure.with_threshold(None) is sure
    assert sure.with_threshold(0.5).name != sure.name
    fitted, settings = sure.name.split("#")
    assert sure.with_threshold(0.5).name.startswith(f"{fitted}#") and len(settings) == 6
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(AnnotationError, match="probability"):
            sure.with_threshold(wrong)


def test_chains_it_was_fitted_on_are_warned_about(fitted, caplog):
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        annotate(planted(3), fitted)
    assert "3 of 3 chains" in caplog.text
    caplog.clear()
    annotate(planted(3, seed=9), fitted)
    assert caplog.text == ""


# -- the file


def test_a_file_comes_back_the_same_and_is_reproducible(fitted, tmp_path):
    path = fitted.save(tmp_path / "made.safetensors")
    again = read_classifier(path)
    assert again.to_bytes() == path.read_bytes() and again.name == fitted.name
    fresh = planted(5, seed=2)
    assert annotate(fresh, again) == annotate(fresh, fitted)
    assert fit_classifier(planted(30)).to_bytes() == path.read_bytes()
    assert fit_classifier(planted(29)).to_bytes() != path.read_bytes()


def test_the_file_holds_numbers_and_json_alone(fitted, tmp_path):
    path = fitted.save(tmp_path / "made.safetensors")
    assert {array.dtype for array in load_file(path).values()} == {np.dtype("float32")}
    assert pickle.dumps(fitted)[:2] not in path.read_bytes()[:2]
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    facts = json.loads(header["steerkit_classifier"])["fitted_on"]
    assert facts["chains"] == 30 and facts["annotators"] == ["hand"]
    assert "s0n0" not in path.read_bytes().decode("latin-1"), "tasks are hashed"


def test_behaviours_of_the_users_own_come_with_the_file(tmp_path, monkeypatch):
    with monkeypatch.context() as within:
        within.setattr(behaviors, "_known", dict(behaviors._known))
        declare(Behavior("checking", "verifies a result", "#123456"))
        mine = {D: SENTENCES[D], "checking": ["Check {} again.", "Verify {} once more."]}
        path = fit_classifier(planted(10, sentences=mine)).save(tmp_path / "own.safetensors")
    assert all(b.name != "checking" for b in behaviors.behaviors())
    made = read_classifier(path)
    assert behaviors.behavior("checking").color == "#123456"
    assert annotate(Trace("a", "a", "Verify 3 once more."), made)[0].spans[0].label == "checking"


@pytest.mark.parametrize("damage", ["cut", "text", "other", "newer", "parts"])
def test_files_that_are_none_are_refused(fitted, tmp_path, damage):
    from safetensors.numpy import save_file

    path = fitted.save(tmp_path / "made.safetensors")
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-40])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "other":
        save_file({"x": np.zeros(2, dtype=np.float32)}, path)
    elif damage == "newer":
        path.write_bytes(whole.replace(b'\\"format\\":1', b'\\"format\\":9'))
    else:
        size = int.from_bytes(whole[:8], "little")
        meta = json.loads(whole[8 : 8 + size])["__metadata__"]
        tensors = load_file(path)
        save_file(tensors | {"weights": tensors["weights"][:, :-3].copy()}, path, metadata=meta)
    with pytest.raises(AnnotationError, match=r"made\.safetensors"):
        read_classifier(path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ResourceError, match="no such classifier"):
        read_classifier(tmp_path / "none.safetensors")


# -- the bundled one


def test_bundled_classifier_is_fitted_on_the_bundled_chains_alone():
    made = read_classifier()
    gold = sk.read_traces(sk.data("traces/reasoning.jsonl"))
    assert sk.data(BUNDLED).stat().st_size < 3_000_000
    assert made.labels == tuple(b.name for b in behaviors.behaviors()[:6])
    assert made.fitted_on["tasks"] == sorted({t.task_key for t in gold})
    assert made.fitted_on["annotators"] == ["authors"]
    assert made.fitted_on["counts"] == {b: gold.counts()[b] for b in made.labels}
    texts = [
        ("Wait, no, that can't be right, so I'll start over.", B),
        ("Hmm, I'm not sure about this.", U),
        ("Suppose there are 4 boxes.", E),
        ("I remember that the sum of angles is 180 degrees.", "adding-knowledge"),
        ("So the total is 3 + 4 = 7.", D),
    ]
    for text, label in texts:
        chain = Trace("a", "a", f"<think>Okay. So we go on. That is 4.\n\n{text} Then 5.</think>")
        spans = {chain.response[s.start : s.end]: s.label for s in annotate(chain, made)[0].spans}
        assert spans[text] == label, text


@pytest.mark.slow
def test_bundled_classifier_is_what_fitting_gives():
    """To the last bit on the machine that made it; elsewhere in what it says."""
    gold = sk.read_traces(sk.data("traces/reasoning.jsonl"))
    made = read_classifier()
    again = fit_classifier(gold, threshold=made.threshold)
    assert again.vocabularies == made.vocabularies
    np.testing.assert_allclose(again.weights, made.weights, atol=1e-2)
    assert annotate(gold, again, keep_spans=True).counts() == pytest.approx(
        annotate(gold, made, keep_spans=True).counts(), abs=3
    )


# -- the reference chains


@pytest.mark.slow
def test_reference_chains_cross_validated(reference):
    """A floor under what was measured; the aim of 0.55 and 0.64 is not reached."""
    gold, _ = sk.read_tagged(reference / "r1_distill_qwen_1.5b_annotated.json")
    made = cross_annotate(gold, folds=5, keep_spans=True)
    found = agree(gold, made, units=("spans",), resamples=100)
    assert found.value("kappa", "spans") >= 0.47
    assert found.value("macro_f1", "spans") >= 0.56


@pytest.mark.slow
def test_reference_chains_by_the_bundled_annotators(reference):
    gold, _ = sk.read_tagged(reference / "r1_distill_qwen_1.5b_annotated.json")
    measured = {
        name: agree(gold, annotate(gold, name, keep_spans=True), units=("spans",), resamples=100)
        for name in ("classifier", "rules")
    }
    assert measured["classifier"].value("kappa_labelled", "spans") > 0.34
    assert measured["rules"].value("kappa_labelled", "spans") > 0.28
