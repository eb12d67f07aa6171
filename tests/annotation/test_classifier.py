"""The classifier: what it learns, how sure it is, what its file holds."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import TfidfVectorizer

import steerkit as sk
from steerkit import behaviors
from steerkit.annotation import (
    agree,
    annotate,
    cross_annotate,
    fit_classifier,
    read_classifier,
)
from steerkit.annotation.annotator import units
from steerkit.annotation.classifier import BUNDLED, softmax
from steerkit.annotation.features import (
    BLOCKS,
    context_features,
    counted,
    inverse_frequency,
    matrix,
    trace_units,
    word_features,
    words,
)
from steerkit.annotation.fitting import assigned_folds, calibration
from steerkit.behaviors import UNPARSED, Behavior, declare
from steerkit.errors import AnnotationError, ResourceError
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


@pytest.fixture(scope="module")
def fitted():
    return fit_classifier(planted(30))


# -- features


def test_words_are_plain():
    assert words("Wait\u2014it\u2019s 3.5 \u00d7 x, no?") == [
        *("wait", "-".replace("-", "+"), "it's", "0", "+", "x", ",", "no", "?")
    ]


def test_features_of_a_unit_see_its_neighbours():
    trace = Trace("a", "t", "<think>One two. Three?\n\nFour.</think>")
    first, second, third = trace_units(trace, units(trace, keep=False))
    assert [second.before, second.text, second.after] == ["One two.", "Three?", "Four."]
    assert [u.number for u in (first, second, third)] == [0, 1, 2]
    assert [u.broken for u in (first, second, third)] == [True, False, True]
    assert (first.before, third.after, first.place) == ("", "", 0.0)
    assert {"one", "one two", "^one", "two .", ". $".replace(". $", "two .$")} <= set(
        word_features(first)
    )
    assert {"<one", "<^one", ">^four"} <= set(context_features(second))


def test_weights_are_those_of_scikit_learn():
    trace = planted(6)[0]
    chain = trace_units(trace, units(trace, keep=True))
    for block, features in BLOCKS.items():
        known = sorted({feature for unit in chain for feature in features(unit)})[::2]
        idf = inverse_frequency(counted(chain, block, known))
        oracle = TfidfVectorizer(analyzer=features, vocabulary=known, sublinear_tf=True)
        expected = oracle.fit_transform(chain).toarray()
        found = matrix(chain, {block: known}, {block: idf}).toarray()[:, : len(known)]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert len(known) > 3 and found.any()


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


# -- cross-validation


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


def test_chains_it_was_fitted_on_are_warned_about(fitted, caplog):
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        annotate(planted(3), fitted)
    assert "3 of 3 chains" in caplog.text
    caplog.clear()
    annotate(planted(3, seed=9), fitted)
    assert caplog.text == ""


# -- what is refused


def test_chains_that_cannot_be_learned_from():
    with pytest.raises(AnnotationError, match="at least two labels"):
        fit_classifier(planted(10, sentences={D: SENTENCES[D]}))
    with pytest.raises(AnnotationError, match="at least two labels"):
        fit_classifier(t.with_spans([], None) for t in planted(10))
    with pytest.raises(AnnotationError, match="at least 5 tasks"):
        fit_classifier(planted(4))


def test_unparsed_spans_are_not_learned(fitted):
    chains = [
        t.with_spans([*t.spans[:-1], Span(t.spans[-1].start, t.spans[-1].end, UNPARSED)], "x")
        for t in planted(30)
    ]
    made = fit_classifier(chains)
    assert UNPARSED not in made.labels and made.fitted_on["units"] == 270
    assert fitted.fitted_on["units"] == 300


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
