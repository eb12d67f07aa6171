"""Examples are the typical chains, by a rule that can be checked, at several coefficients."""

import numpy as np
import pytest

from steerkit.report.examples import find_examples
from tests.evaluations import COEFFICIENTS, GRAMMAR, STEERED, planted_evaluation


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return planted_evaluation(folder, tasks=15, controls=0, annotators=(GRAMMAR,))


def changes(evaluation, behavior):
    """How far the share at 0.4 lies above that at -0.4, from the chains alone."""

    def shares(coefficient):
        chains = evaluation.chains[f"{behavior}{coefficient:+.2f}@2"]
        return {
            (t.task_id, t.metadata["sample"]): np.mean([s.label == behavior for s in t.spans])
            for t in chains
        }

    low, high = shares(-0.4), shares(0.4)
    return {pair: high[pair] - low[pair] for pair in low}


def test_they_are_those_nearest_to_the_median_change(evaluation):
    found = find_examples(evaluation, 3, GRAMMAR)
    assert [example.behavior for example in found] == [name for name in STEERED for _ in range(3)]
    for name in STEERED:
        all_changes = changes(evaluation, name)
        middle = np.median(list(all_changes.values()))
        distances = sorted(abs(change - middle) for change in all_changes.values())
        tasks = [example.task for example in found if example.behavior == name]
        # a task has two samples: the shown one is at most as far as the third of all
        nearest = [
            min(abs(c - middle) for (task, _), c in all_changes.items() if task == shown)
            for shown in tasks
        ]
        assert max(nearest) <= distances[2] + 1e-12
        assert distances[2] < distances[-1], "the rule would pick others otherwise"


def test_each_shows_one_task_at_every_coefficient_with_its_own_text(evaluation):
    for example in find_examples(evaluation, 1, GRAMMAR):
        heads = [chain.head for chain in example.chains]
        assert heads == ["\u22120.40", "\u22120.20", "unsteered", "+0.20", "+0.40"]
        assert example.prompt == f"Use {int(example.task[5:])}, 7, 8 to make 29 <b>now</b>."
        ids = [f"{example.behavior}{c:+.2f}@2" for c in COEFFICIENTS]
        for chain, condition in zip(example.chains, [*ids[:2], "baseline", *ids[2:]], strict=True):
            own = [t for t in evaluation.chains[condition] if t.task_id == example.task]
            counts = [sum(s.label == example.behavior for s in t.spans) for t in own]
            shown = int(chain.facts.split(" in ")[1].split()[0])
            assert shown in counts
            assert "<script" not in chain.html and "&lt;script&gt;" in chain.html


def test_behaviours_that_nothing_was_written_for_have_none(evaluation):
    settings = {**evaluation.settings, "behaviors": ["deduction"]}
    from dataclasses import replace

    assert find_examples(replace(evaluation, settings=settings), 2, GRAMMAR) == []
