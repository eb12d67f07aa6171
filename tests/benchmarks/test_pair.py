"""`make pair` counts what was planted, goes on where it stopped, and shows all of it."""

from __future__ import annotations

import numpy as np
import pair
import pandas as pd
import pytest
from pair_report import draw, markdown

import steerkit as sk
from steerkit.puzzles.tasks import KINDS, generate_tasks, parse_prompt

TASKS = generate_tasks("heldout", count=24)


class Planted:
    """Stands in for a model: it is right on its first ``right`` samples of every task."""

    tokenizer = None

    def __init__(self, right: int) -> None:
        self.right, self.calls = right, 0

    def generate(self, tasks, *, samples=1, **options):
        self.calls += 1
        written = []
        for task in tasks:
            for sample in range(samples):
                answer = (
                    f"The answer is {task.answer}." if sample < self.right else "I do not know."
                )
                text = f"3 + 4 = 7. Wait, let me try something else.\n</think>\n{answer}"
                written.append(sk.Trace(f"{task.id}-{sample}", task.id, text, prompt=task.prompt))
        return sk.Traces(written)


def test_right_answers_need_a_closed_chain() -> None:
    answers = [f"The answer is {task.to_task().answer}." for task in TASKS[:3]]
    responses = [f"3 + 4 = 7.\n</think>\n{answers[0]}", answers[1], "x\n</think>\nI do not know."]
    assert pair.right_answers(TASKS[:3], responses).tolist() == [1.0, 0.0, 0.0]


def test_passes_are_those_of_the_planted_rate(tmp_path) -> None:
    models = {"countdown-base": Planted(1), "countdown-thinking": Planted(4)}
    right = {
        name: pair.counts_of_right(name, model, TASKS, 8, tmp_path)
        for name, model in models.items()
    }
    assert right["countdown-base"].tolist() == [1] * 24
    table = pair.passes(right, TASKS, 8).set_index(["model", "kind", "k"])["mean"]
    for kind in ("all", *KINDS):
        assert table["countdown-base", kind, 1] == pytest.approx(1 / 8)
        assert table["countdown-base", kind, 4] == pytest.approx(1 / 2)
        assert table["countdown-thinking", kind, 1] == pytest.approx(1 / 2)
    # what is done is not done again
    calls = models["countdown-base"].calls
    again = pair.counts_of_right("countdown-base", models["countdown-base"], TASKS, 8, tmp_path)
    assert models["countdown-base"].calls == calls
    np.testing.assert_array_equal(again, right["countdown-base"])


def test_page_and_figure_show_every_model_kind_and_behaviour(tmp_path) -> None:
    models = {"countdown-base": Planted(0), "countdown-thinking": Planted(1)}
    scores = pd.concat(
        pair.scorecard(TASKS, pair.chains(model, TASKS, tmp_path / f"{name}.jsonl"), model=name)
        for name, model in models.items()
    )
    right = {name: np.array([1, 7] * 12) for name in models}
    passes = pair.passes(right, TASKS, 8)
    without = pd.DataFrame(
        [
            {
                **{"model": "countdown-base", "forbidden": "backtracking", "left": 0.0},
                **{"accuracy": 0.3, "low": 0.2, "high": 0.4, "closed": 1.0, "sentences": 9.0},
                **{"change": -0.1, "change_low": -0.15, "change_high": -0.05},
            }
        ]
    )
    result = {
        "snapshots": [],
        "size": {"countdown-base": {"parameters": 2_700_000, "megabytes": 5.6}},
        "load_seconds": {"countdown-base": 0.12},
        "tasks": 24,
        "pass_tasks": 24,
        "samples": 8,
        "gain": {"mean": 1.0, "low": 0.9, "high": 1.0},
    }
    page = markdown(result, scores, passes, without)
    aims = page.split("## What was aimed at")[1].split("\n## ")[0]
    assert "| accuracy | 0.0 % (0.0 to 0.0) |  | 100.0 % (100.0 to 100.0) | 15 points" in aims
    assert "rises by 100.0 points (90.0 to 100.0" in aims
    assert page.count("| countdown-base |") >= 4 + 1
    assert "`countdown-base`: 2.7 M parameters, 5.6 MB, loaded in 0.12 s." in page
    assert "-10.0 points (-15.0 to -5.0)" in page
    *panels, shares = draw(result, passes, scores).axes
    assert panels[0].get_title() == "all tasks" and len(panels) == 4
    assert "%" in panels[0].get_ylabel() and "k" in panels[0].get_xlabel()
    assert len(shares.get_yticklabels()) == 6


def test_planted_prompts_read_back() -> None:
    assert [parse_prompt(task.prompt) for task in TASKS] == TASKS
