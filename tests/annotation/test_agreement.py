"""Agreement: worked examples, laws, scikit-learn as oracle, and intervals that hold."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

import steerkit as sk
from steerkit.annotation import agree
from steerkit.annotation.agreement_measures import f1, kappa
from steerkit.behaviors import UNPARSED
from steerkit.errors import AnnotationError
from steerkit.traces import Span, Trace, Traces

D, B, U, E = "deduction", "backtracking", "uncertainty-estimation", "example-testing"
LABELS = [D, B, U, UNPARSED]


def labelled(key, labels, words="So it is."):
    """A chain of one sentence for each label, every sentence a span."""
    text = " ".join([words] * len(labels))
    spans = [
        Span(i * (len(words) + 1), i * (len(words) + 1) + len(words), label)
        for i, label in enumerate(labels)
        if label is not None
    ]
    return Trace(key, key, text, spans=tuple(spans))


def pair(*chains):
    """Two annotations from (labels of A, labels of B) of every chain."""
    a = [labelled(f"c{i}", x) for i, (x, _) in enumerate(chains)]
    b = [labelled(f"c{i}", y) for i, (_, y) in enumerate(chains)]
    return a, b


# -- kappa and F1


def test_a_worked_example():
    """Fifty proposals read by two people: 20 yes-yes, 15 no-no, 5 and 10 apart (kappa 0.4)."""
    table = np.array([[20, 5], [10, 15]])
    assert kappa(table) == pytest.approx(0.4)
    np.testing.assert_allclose(f1(table), [40 / 55, 30 / 45])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60).filter(
        lambda pairs: len({x for pair in pairs for x in pair}) > 1
    )
)
def test_kappa_and_f1_are_scikit_learns(pairs):
    a, b = (list(side) for side in zip(*pairs, strict=True))
    table = confusion_matrix(a, b, labels=range(4))
    assert kappa(table) == pytest.approx(cohen_kappa_score(a, b))
    assert kappa(table) == pytest.approx(kappa(table.T))
    used = sorted({*a, *b})
    np.testing.assert_allclose(f1(table)[used], f1_score(a, b, labels=used, average=None))


def test_kappa_without_room_for_chance_is_undefined():
    assert math.isnan(kappa(np.array([[5, 0], [0, 0]])))
    assert math.isnan(kappa(np.zeros((2, 2))))


# -- chains


def test_perfect_and_chance():
    rng = np.random.default_rng(0)
    labels = [list(rng.choice(LABELS[:3], 12)) for _ in range(60)]
    a, same = pair(*[(x, x) for x in labels])
    found = agree(a, same)
    for unit in ("sentences", "characters"):
        for measure in ("kappa", "accuracy", "macro_f1", "coverage", "kappa_labelled"):
            assert found.value(measure, unit) == 1.0
    _, shuffled = pair(*[(x, list(rng.permutation(x))) for x in labels])
    row = agree(a, shuffled).summary.query("unit == 'sentences' and measure == 'kappa'").iloc[0]
    assert row["low"] < 0.05 and abs(row["value"]) < 0.1


def test_what_is_counted_by_hand():
    a, b = pair(([D, D, B, U], [D, B, B, UNPARSED]), ([U, None, D], [U, None, None]))
    found = agree(a, b, resamples=50)
    matrix = found.matrix()
    assert matrix.loc[D, D] == 1 and matrix.loc[D, B] == 1 and matrix.loc[B, B] == 1
    assert matrix.loc[U, UNPARSED] == 1 and matrix.loc[D, UNPARSED] == 1
    assert matrix.to_numpy().sum() == 6 and found.counts["unlabelled"]["sentences"] == 1
    assert found.value("accuracy") == pytest.approx(3 / 6)
    assert found.value("coverage") == pytest.approx(4 / 6)
    assert found.value("accuracy_labelled") == pytest.approx(3 / 4)
    rows = found.labels.query("unit == 'sentences'").set_index("label")
    assert rows.loc[D, ["precision", "recall"]].tolist() == pytest.approx([1.0, 1 / 3])
    assert rows.loc[B, ["count_a", "count_b"]].tolist() == [1, 2]
    assert found.value("macro_f1") == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)
    # the same in characters: sentences here have seven characters that are no space
    weighed = agree(a, b, resamples=50).matrix("characters")
    assert weighed.to_numpy().tolist() == (7 * matrix.to_numpy()).tolist()


def test_a_sentence_has_the_label_of_most_of_its_characters():
    text = "So it is, but wait."
    a = Trace("a", "a", text, spans=(Span(0, 9, D), Span(10, 19, B)))
    b = Trace("a", "a", text, spans=(Span(0, 9, D), Span(10, 13, B)))
    matrix = agree([a], [b], resamples=10).matrix()
    assert matrix.loc[B, D] == 1 and matrix.to_numpy().sum() == 1, "8 of 15 are B's in A"


def test_spans_of_a_are_units_and_tokens_are_those_of_a_tokenizer():
    text = "So it is, but wait."
    a = Trace("a", "a", text, spans=(Span(0, 9, D), Span(10, 19, B)))
    b = Trace("a", "a", text, spans=(Span(0, 19, D),))

    def tokenize(thinking):
        assert thinking == text
        return [(0, 2), (2, 5), (5, 9), (9, 13), (13, 18), (18, 19), (19, 19)]

    found = agree([a], [b], units=("spans", "tokens"), tokenize=tokenize, resamples=10)
    assert found.matrix("spans").loc[[D, B], D].tolist() == [1, 1]
    assert found.matrix("tokens").loc[[D, B], D].tolist() == [3, 3]


def test_only_the_thinking_section_counts():
    text = "<think>\nSo it is.\n</think>\nSo it is."
    a = Trace("a", "a", text, spans=(Span(8, 17, D), Span(27, 36, D)))
    b = Trace("a", "a", text, spans=(Span(8, 17, D), Span(27, 36, B)))
    found = agree([a], [b], resamples=10)
    assert found.value("accuracy") == 1.0 and found.matrix("characters").to_numpy().sum() == 7


def test_chains_are_matched_by_id_and_what_is_left_is_counted():
    a, b = pair(([D, B], [D, B]), ([D], [B]), ([U], [U]))
    found = agree(a, [b[2], b[0], labelled("other", [D])], resamples=10)
    assert {k: found.counts[k] for k in ("chains", "only_a", "only_b")} == {
        "chains": 2,
        "only_a": 1,
        "only_b": 1,
    }
    assert found.value("accuracy") == 1.0


def test_intervals_resample_tasks_and_cover_the_truth():
    """Chains that are right or wrong as a whole: the interval is that of so many coins."""
    draw = np.random.default_rng(3)
    hits = 0
    for _ in range(20):
        right = draw.random(40) < 0.7
        a, b = pair(*[([D] * 5 + [B] * 5, ([D] * 5 + [B] * 5)[:: 1 if r else -1]) for r in right])
        row = agree(a, b, resamples=200).summary.query("measure == 'accuracy'").iloc[0]
        hits += row["low"] <= 0.7 <= row["high"]
        assert row["high"] - row["low"] > 0.15, "ten sentences of a chain are one coin"
    assert hits >= 16
    assert agree(a, b).summary.equals(agree(a, b).summary)


def test_tables_are_json_without_nan():
    a, b = pair(([D, D], [D, None]))
    found = agree(a, b, resamples=10)
    text = json.dumps(found.to_json(), allow_nan=False)
    back = json.loads(text)
    assert {row["measure"] for row in back["summary"]} >= {"kappa", "coverage"}
    assert back["counts"]["chains"] == 1 and back["annotators"] == ["unknown", "unknown"]
    assert "kappa" in found._repr_html_()


def test_what_cannot_be_compared_is_refused():
    a, b = pair(([D], [D]))
    with pytest.raises(AnnotationError, match="no chain in common"):
        agree(a, [labelled("z", [D])])
    with pytest.raises(AnnotationError, match="another text"):
        agree(a, [labelled("c0", [D], words="So it was.")])
    with pytest.raises(AnnotationError, match="unknown units"):
        agree(a, b, units=("words",))
    with pytest.raises(AnnotationError, match="tokenizer"):
        agree(a, b, units=("tokens",))
    with pytest.raises(AnnotationError, match="no 'gamma'"):
        agree(a, b, resamples=10).value("gamma")


def test_the_public_name():
    assert sk.agree is agree
    a, b = pair(([D, B], [D, B]))
    assert sk.agree(Traces(a), Traces(b), resamples=10).value("kappa") == 1.0
