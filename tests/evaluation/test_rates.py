"""Rates are ratios of sums over tasks; their intervals hold the planted truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap

from steerkit.evaluation.rates import COLUMNS, _rates, rates
from tests.evaluation.planted import BASELINE, LABELS, Sums, experiment, steered, table


@pytest.fixture(scope="module")
def generations():
    return table(experiment(controls=2, control_tasks=6), tasks=12, silent=0.1, truncated=0.2)


def test_values_are_those_of_the_raw_sentences(generations) -> None:
    found = rates(generations)
    assert list(found.columns) == COLUMNS
    keys = ["annotator", "condition", "label", "measure"]
    assert not found.duplicated(keys).any()
    per_label = {label: 3 if label == "unparsed" else 4 for label in LABELS}
    assert len(found) == generations.condition.nunique() * sum(per_label.values())
    for condition, rows in generations.groupby("condition"):
        texts = list(rows.labels)
        words = [w for chain in rows.words for w in chain]
        flat = [label for text in texts for label in text]
        part = found[found.condition == condition].set_index(["label", "measure"])
        for label in LABELS:
            spans = flat.count(label)
            assert part.value[label, "spans"] == pytest.approx(spans / len(flat))
            assert part.value[label, "count"] == pytest.approx(spans / len(texts))
            mine = sum(w for w, name in zip(words, flat, strict=True) if name == label)
            assert part.value[label, "tokens"] == pytest.approx(mine / sum(words))
        pairs = [p for text in texts for p in zip([None, *text], text, strict=False)]
        onsets = [here == "backtracking" for before, here in pairs if before != "backtracking"]
        assert part.value["backtracking", "hazard"] == pytest.approx(np.mean(onsets))
        assert (part.chains == len(rows)).all() and (part.tasks == rows.task.nunique()).all()
        assert (part.truncated == rows.truncated.sum()).all()
        assert (part.silent == (rows.sentences == 0).sum()).all()
    assert found.silent.sum() > 0 and found.truncated.sum() > 0
    assert set(found.tasks) == {6, 12}


def test_intervals_agree_with_scipys_bootstrap() -> None:
    generations = table([BASELINE], tasks=80, samples=2)
    row = rates(generations).set_index(["label", "measure"]).loc[("backtracking", "spans")]
    sums = generations.groupby("task")[["spans:backtracking", "sentences"]].sum()
    theirs = bootstrap(
        (sums["spans:backtracking"].to_numpy(), sums["sentences"].to_numpy()),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        method="percentile",
        confidence_level=0.956,  # expanded, for 80 tasks
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert row.low == pytest.approx(theirs.low, abs=0.003)
    assert row.high == pytest.approx(theirs.high, abs=0.003)


def test_intervals_cover_the_planted_rates() -> None:
    """Of 900 experiments at once: every condition has tasks of its own."""
    kinds = [BASELINE, steered("backtracking", 0.2, 0.25), steered("backtracking", -0.2, 0.03)]
    plan = [replace(p, condition=f"{p.condition} {i}") for i in range(300) for p in kinds]
    found = _rates(Sums(plan, tasks=24).draw(np.random.default_rng(0), paired=False))
    found = found[(found.label == "backtracking") & (found.measure == "spans")]
    truth = np.array([p.rates["backtracking"] for p in plan])
    assert 0.92 < covers(found, truth) < 0.98
    for kind in range(3):
        assert 0.90 < covers(found[kind::3], truth[kind::3]) < 0.99
    assert covers(found, 1.7 * truth) < 0.5  # positive control


def covers(found, truth: np.ndarray) -> float:
    return float(((found.low <= truth) & (truth <= found.high)).mean())


def test_chains_without_sentences_add_nothing() -> None:
    generations = table([BASELINE], tasks=4, silent=1.0)
    found = rates(generations)
    assert (found.silent == 8).all()
    assert found[found.measure != "count"][["value", "low", "high"]].isna().all(axis=None)
    assert (found[found.measure == "count"].value == 0).all()
