"""Pooling adds up samples, task by task, and loses nothing on the way."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from steerkit.errors import StatisticsError
from steerkit.evaluation.pooled import MEASURES, alike, pool, share
from tests.evaluation.planted import BASELINE, LABELS, controls_of, experiment, steered, table

PLAN = [
    steered("backtracking", 0.2, 0.3),
    BASELINE,
    *controls_of("backtracking", 0.2, [0], tasks=3),
]


@pytest.fixture(scope="module")
def generations() -> pd.DataFrame:
    return table(PLAN, tasks=5, samples=3, silent=0.2, truncated=0.3)


def test_sums_are_those_of_the_raw_sentences(generations) -> None:
    (pooled,) = pool(generations)
    # whatever the order in the table
    assert pooled.conditions.condition.iloc[0] == "baseline"
    assert pooled.labels == ("backtracking", "deduction", "uncertainty-estimation", "unparsed")
    for c, condition in enumerate(pooled.conditions.condition):
        for t, task in enumerate(pooled.tasks):
            rows = generations[(generations.condition == condition) & (generations.task == task)]
            texts = list(rows.labels)
            assert pooled.sums["chains"][c, t] == len(rows)
            assert pooled.sums["silent"][c, t] == sum(not text for text in texts)
            assert pooled.sums["sum:truncated"][c, t] == sum(rows.truncated)
            for label in LABELS:
                tops, bottoms = pooled.fraction(label, "spans")
                assert tops[c, t] == sum(text.count(label) for text in texts)
                assert bottoms[c, t] == sum(map(len, texts))
                if label != "unparsed":
                    tops, bottoms = pooled.fraction(label, "hazard")
                    pairs = [p for text in texts for p in zip([None, *text], text, strict=False)]
                    at_risk = [here for before, here in pairs if before != label]
                    assert (tops[c, t], bottoms[c, t]) == (at_risk.count(label), len(at_risk))
    assert pooled.sums["silent"].sum() > 0 and pooled.sums["sum:truncated"].sum() > 0
    assert pooled.measures("backtracking") == list(MEASURES)
    assert pooled.measures("unparsed") == ["spans", "tokens", "count"]


def test_unknown_outcomes_are_not_counted_as_no(generations) -> None:
    (pooled,) = pool(generations)
    column = pooled.tasks.index("task-04")
    assert (pooled.sums["n:correct"][:, column] == 0).all()
    known = generations[generations.correct.notna()]
    assert pooled.sums["n:correct"].sum() == len(known)
    assert pooled.sums["sum:correct"].sum() == sum(known.correct)
    # parsed is weighed by sentences: what comes out is the share over all of them
    spans, sentences = pooled.fraction("unparsed", "spans")
    np.testing.assert_allclose(pooled.sums["n:parsed"], sentences)
    np.testing.assert_allclose(pooled.sums["sum:parsed"], sentences - spans)


def test_a_file_gives_what_the_table_gives(generations) -> None:
    read = pd.read_csv(io.StringIO(generations.drop(columns=["labels", "words"]).to_csv()))
    (mine,), (theirs,) = pool(generations), pool(read)
    assert set(mine.sums) == set(theirs.sums) and mine.tasks == theirs.tasks
    for name, sums in mine.sums.items():
        np.testing.assert_allclose(sums, theirs.sums[name])
    assert list(mine.conditions.headline) == list(theirs.conditions.headline)


def test_annotators_are_pooled_apart() -> None:
    first = table(experiment(controls=1), tasks=3, annotator="exact")
    second = table(experiment(controls=1), tasks=3, annotator="rules", seed=1)
    lost = [name for name in second if name.endswith(":uncertainty-estimation")]
    second[lost] = np.nan  # a label that this annotator does not know
    exact, rules = pool(pd.concat([first, second], ignore_index=True))
    assert (exact.annotator, rules.annotator) == ("exact", "rules")
    assert "uncertainty-estimation" in exact.labels
    assert "uncertainty-estimation" not in rules.labels
    np.testing.assert_allclose(exact.sums["sentences"], pool(first)[0].sums["sentences"])
    np.testing.assert_allclose(rules.sums["sentences"], pool(second)[0].sums["sentences"])


def test_conditions_with_the_same_tasks_go_together(generations) -> None:
    (pooled,) = pool(generations)
    found = [(rows, tasks.tolist()) for rows, tasks in alike(pooled.ran, range(4))]
    assert found == [([0, 1], [0, 1, 2, 3, 4]), ([2, 3], [0, 1, 2])]
    none = pooled.ran & np.array([False])
    assert list(alike(none, range(4))) == []


def test_a_share_of_nothing_is_missing() -> None:
    found = share(np.array([0.0, 1.0, 0.0]), np.array([0.0, 2.0, 4.0]))
    np.testing.assert_array_equal(found, [np.nan, 0.5, 0.0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop(columns=["sentences"]), "no sentences"),
        (lambda t: t[:0], "no rows"),
        (lambda t: pd.concat([t, t[:1]]), "there twice"),
        (lambda t: t.assign(sentences=t.sentences.where(t.index != 3)), "missing or negative"),
        (lambda t: t.assign(sentences=-1), "missing or negative"),
    ],
)
def test_what_is_no_table_of_generations_is_refused(generations, spoil, message) -> None:
    with pytest.raises(StatisticsError, match=message):
        pool(spoil(generations))


def test_effects_need_one_baseline(generations) -> None:
    (pooled,) = pool(generations[generations.kind != "baseline"])
    with pytest.raises(StatisticsError, match="unsteered chains"):
        _ = pooled.baseline
