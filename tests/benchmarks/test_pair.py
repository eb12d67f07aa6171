"""`make pair` counts what was planted, goes on where it stopped, and shows all of it."""

from __future__ import annotations

import numpy as np
import pair
import pair_without
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
    assert pair_without.right_answers(TASKS[:3], responses).tolist() == [1.0, 0.0, 0.0]


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
        pair.scorecard(
            TASKS, pair_without.chains(model, TASKS, tmp_path / f"{name}.jsonl"), model=name
        )
        for name, model in models.items()
    )
    right = {name: np.array([1, 7] * 12) for name in models}
    passes = pair.passes(right, TASKS, 8)
    gains = pair.gains(right, TASKS, 8)
    plain = {"model": "countdown-base", "forbidden": "backtracking", "way": "resampled"}
    figures = dict.fromkeys(pair_without.SHOWN, 0.5) | {"left": 0.0, "stuck": 2, "holm": 0.03}
    found, alone = np.array([1.0, 0.0] * 12), np.array([1.0, 1.0] * 12)
    without = pd.DataFrame(
        {**plain, "kind": kind, **pair_without.compare(found, alone), **figures}
        for kind in ("all", *KINDS)
    )
    result = {
        "snapshots": {},
        "size": {"countdown-base": {"parameters": 2_700_000, "megabytes": 5.6}},
        "load_seconds": {"countdown-base": 0.12},
        "tasks": 24,
        "pass_tasks": 24,
        "samples": 8,
        "gain": {"mean": 1.0, "low": 0.9, "high": 1.0},
    }
    page = markdown(result, scores, passes, gains, without)
    aims = page.split("## What was aimed at")[1].split("\n## ")[0]
    assert "| accuracy | 0.0 % (0.0 to 13.8) |  | 100.0 % (86.2 to 100.0) | 15 points" in aims
    assert "rises by 100.0 points (90.0 to 100.0" in aims
    assert page.count("| countdown-base |") >= 4 + 1
    assert "`countdown-base`: 2.7 M parameters, 5.6 MB, loaded in 0.12 s." in page
    assert (
        "| resampled | 0.0 % | 50.0 % (31.4 to 68.6) | -50.0 (-70.8 to -29.2) | 0.0300 | 2 |"
        in (page)
    )
    assert page.count("-50.0 (-70.8 to -29.2)") == 1 + len(KINDS)
    assert "| all tasks | +0 (+0 to +0) |" in page
    *panels, shares = draw(result, passes, scores).axes
    assert panels[0].get_title() == "all tasks" and len(panels) == 4
    assert "%" in panels[0].get_ylabel() and "k" in panels[0].get_xlabel()
    assert len(shares.get_yticklabels()) == 6


def test_planted_prompts_read_back() -> None:
    assert [parse_prompt(task.prompt) for task in TASKS] == TASKS


def test_gains_are_paired_by_task() -> None:
    """Tasks differ much, the models by one answer in eight on each: the interval has no width."""
    base = np.array([0, 6] * 12)
    right = {"countdown-base": base, "countdown-thinking": base + 1}
    table = pair.gains(right, TASKS, 8)
    first = table[(table["kind"] == "all") & (table["k"] == 1)].iloc[0]
    assert (first["change"], first["low"], first["high"]) == pytest.approx((1 / 8,) * 3)


class Writer:
    """Stands in for a model: writes the planted sentences, one after another, from its prefix on.

    The n-th sentence that it is asked for in round r is ``texts[r]``'s n-th.
    """

    def __init__(self, tokenizer, texts: list[str]) -> None:
        self.tokenizer, self.texts, self.asked = tokenizer, texts, []

    def generate(self, tasks, *, prefix, seed, **options):
        self.asked.append([len(ids) for ids in prefix])
        text = self.texts[min(seed, len(self.texts) - 1)]
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        written = []
        for number, (task, begun) in enumerate(zip(tasks, prefix, strict=True)):
            whole = (*begun, *ids[len(begun) :])
            response = self.tokenizer.decode(whole)
            written.append(sk.Trace(f"{number}", task.id, response, token_ids=whole))
        return sk.Traces(written)


GOOD = "3 + 7 = 10. That is too small. 7 * 8 = 56.\n</think>\nI do not know."
BAD = "3 + 7 = 10. Wait, let me try something else. 7 * 8 = 56.\n</think>\nI do not know."


def test_a_sentence_is_thrown_away_alone_and_what_stood_before_it_stays() -> None:
    tokenizer = sk.load("countdown-base", device="cpu").tokenizer
    model = Writer(tokenizer, [BAD, GOOD])
    tasks = [task.to_task() for task in TASKS[:2]]
    found = pair_without.resample(model, tasks, "backtracking")
    assert [trace.response for trace in found] == [GOOD] * 2
    kept = len(tokenizer("3 + 7 = 10.", add_special_tokens=False)["input_ids"])
    assert model.asked == [[0, 0], [kept, kept]]
    # a behaviour that is not there costs no second round
    again = Writer(tokenizer, [BAD])
    assert pair_without.resample(again, tasks, "uncertainty-estimation")[0].response == BAD
    assert len(again.asked) == 1


def test_a_chain_that_cannot_go_on_otherwise_is_stuck_and_wrong() -> None:
    tokenizer = sk.load("countdown-base", device="cpu").tokenizer
    model = Writer(tokenizer, [BAD])
    (found,) = pair_without.resample(model, [TASKS[0].to_task()], "backtracking")
    assert len(model.asked) == pair_without.TRIES
    assert found.metadata["stuck"] and not found.closed and found.response == "3 + 7 = 10."
    assert pair_without.right_answers(TASKS[:1], [found.response]).tolist() == [0.0]
