"""Ranges: borders that are planted are found, and generation warns beyond them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import steerkit as sk
from steerkit.ranges import Measured, Range, _compressed, _falls, _fluent, find_ranges
from steerkit.repetition import zlib_ratio
from steerkit.tasks import Task
from steerkit.traces import Trace, Traces
from tests.test_steering import direction
from tests.tiny import tiny_model


class Scripted:
    """Chains whose fluency depends on the coefficient alone."""

    def __init__(self, low: float, high: float, wrong: float = 9.0) -> None:
        self.low, self.high, self.wrong, self.asked = low, high, wrong, []

    def __call__(self, model, prompts, *, steer, **options):
        traces = []
        for number, (task, term) in enumerate(zip(prompts, steer, strict=True)):
            c = 0.0 if term is None else term.coefficient
            self.asked.append(c)
            good = self.low <= c <= self.high
            right = "3 * 7 + 8 = 29" if abs(c) < self.wrong else "3 + 7 + 8 = 18"
            thinking = "I try it." if good else "no, no, no, no, no, no, no, no, no, no, no, no."
            end = "</think> " + right if good else ""
            traces.append(
                Trace(id=f"{number}", task_id=task.id, prompt=task.prompt, response=thinking + end)
            )
        return Traces(traces)


def test_ranges_are_bisected_to_the_border(monkeypatch) -> None:
    tasks = [Task(f"t{i}", "Use 3, 7, 8 to make 29.") for i in range(4)]
    scripted = Scripted(-0.37, 0.22, wrong=0.15)
    monkeypatch.setattr("steerkit.ranges.generate", scripted)
    found = find_ranges(tiny_model(), direction(), tasks, tolerance=0.02)
    assert -0.37 <= found.fluent.low <= -0.35 and 0.2 <= found.fluent.high <= 0.22
    assert found.free is not None
    assert -0.15 < found.free.low <= -0.13 and 0.13 <= found.free.high < 0.15
    assert 0.1 in found.fluent and 0.5 not in found.fluent
    table = found.table.set_index("coefficient")
    assert table.loc[0.0].fluent and not table.loc[1.0].fluent
    assert len(scripted.asked) == len(set(scripted.asked)) * 4 < 120  # each coefficient once
    everything = Scripted(-9, 9)
    monkeypatch.setattr("steerkit.ranges.generate", everything)
    assert find_ranges(tiny_model(), direction(), tasks).fluent == Range(-1.0, 1.0)


def test_ranges_without_checkable_answers_know_no_free_range(monkeypatch) -> None:
    monkeypatch.setattr("steerkit.ranges.generate", Scripted(-0.5, 0.5))
    found = find_ranges(tiny_model(), direction(), [Task("a", "Why?")])
    assert found.free is None and found.fluent == Range(-0.5, 0.5)
    with pytest.raises(sk.SteerkitError, match="needs tasks"):
        find_ranges(tiny_model(), direction(), [])


def test_generation_outside_the_fluent_range_warns(caplog) -> None:
    model = tiny_model()
    d = replace(direction(), fluent=(-0.2, 0.3))
    model.generate("Use 3 to make 3.", steer=0.25 * d, max_new_tokens=2)
    assert "fluent" not in caplog.text
    model.generate("Use 3 to make 3.", steer=0.5 * d.at(layer=2), max_new_tokens=2)
    assert "fluent" not in caplog.text  # nothing is known of another layer
    model.generate("Use 3 to make 3.", steer=-0.4 * d, samples=3, max_new_tokens=2)
    assert caplog.text.count("backtracking at -0.4 is outside") == 1


@pytest.mark.parametrize(
    ("base", "found", "fluent"),
    [(0.99, 0.96, True), (0.99, 0.94, False), (0.8, 0.76, True), (0.8, 0.74, False)],
)
def test_an_annotator_that_abstains_leaves_room(base: float, found: float, fluent: bool) -> None:
    def measured(parsed: float | None) -> Measured:
        ones, texts = np.ones(4), ["a b"] * 4
        counts = (None, None) if parsed is None else (100 * parsed * ones, 100 * ones)
        return Measured(ones, 0 * ones, ones, *counts, texts)

    assert _fluent(measured(found), measured(base)) is fluent
    assert _fluent(measured(None), measured(None))  # nobody who could tell


def test_longer_text_is_not_taken_for_repetitive_text() -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 5)) for _ in range(200)]

    def texts(length: int, of: int) -> list[str]:
        return [" ".join(rng.choice(words[:of], length)) for _ in range(8)]

    short, long, circling = texts(60, 200), texts(240, 200), texts(240, 12)
    # whole, the long ones would be below 0.9 of the short ones
    assert np.mean([zlib_ratio(t) for t in long]) < 0.9 * np.mean([zlib_ratio(t) for t in short])
    assert _compressed(long, short) == pytest.approx(1.0, abs=0.05)
    assert _compressed(circling, short) < 0.7  # positive control
    assert _compressed(short, circling) > 1.2
    assert _compressed(short, short) == 1.0


@pytest.mark.parametrize(
    ("closed", "falls"),
    [
        ("1111111111 1111111111", False),
        ("1111111111 1111111110", False),  # 5 points
        ("1111111111 1111111100", True),  # 10 points, standard error 6.9
        ("0111100111 1101111101", True),
    ],
)
def test_fewer_closed_chains_of_a_model_that_closes_all(closed: str, falls: bool) -> None:
    found = np.array([float(c) for c in closed if c != " "])
    assert _falls(found, np.ones(20)) is falls


def test_chance_sets_no_border_where_half_of_the_chains_are_cut_off() -> None:
    rng = np.random.default_rng(0)

    def share_of_falls(down: float) -> float:
        before, after = rng.random((2, 2000, 12)) < np.array([0.5, 0.5 - down])[:, None, None]
        pairs = zip(before.astype(float), after.astype(float), strict=True)
        return float(np.mean([_falls(found, base) for base, found in pairs]))

    # no difference: a one-sided test at one standard error, against one of two at 5 points
    assert 0.1 < share_of_falls(0.0) < 0.22
    assert share_of_falls(0.45) > 0.95  # positive control


def test_answers_that_nobody_can_check_fall_nowhere() -> None:
    unknown = np.full(4, np.nan)
    assert not _falls(unknown, unknown)
    assert not _falls(np.array([np.nan, 1.0]), np.array([1.0, 1.0]))
    assert _falls(np.array([np.nan, 0.0]), np.array([1.0, 1.0]))


def test_a_tolerance_finer_than_coefficients_are_tried_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("steerkit.ranges.generate", Scripted(-0.37, 0.22))
    with pytest.raises(sk.SteerkitError, match=r"tolerance of at least 0\.0001"):
        find_ranges(tiny_model(), direction(), [Task("a", "Why?")], tolerance=9e-5)
    found = find_ranges(tiny_model(), direction(), [Task("a", "Why?")], tolerance=1e-4)
    assert found.fluent.high == pytest.approx(0.22, abs=1.1e-4)


def test_unsteered_chains_are_written_once_for_several_directions(monkeypatch) -> None:
    scripted, shared = Scripted(-0.37, 0.22), Measured()
    monkeypatch.setattr("steerkit.ranges.generate", scripted)
    tasks = [Task("a", "Use 3, 7, 8 to make 29.")]
    first = find_ranges(tiny_model(), direction(), tasks, unsteered=shared)
    second = find_ranges(tiny_model(), direction(3), tasks, unsteered=shared)
    assert scripted.asked.count(0.0) == 1
    assert second.fluent == first.fluent and second.free == first.free
    assert second.table.equals(first.table)
    find_ranges(tiny_model(), direction(), tasks)  # alone it writes its own
    assert scripted.asked.count(0.0) == 2


def test_a_search_does_not_warn_of_what_an_earlier_one_found(caplog) -> None:
    stale = replace(direction(), fluent=(-0.01, 0.01), free=(0.0, 0.0))
    tasks = [Task("a", "Use 3 to make 3.")]
    find_ranges(tiny_model(), stale, tasks, tolerance=0.5, max_new_tokens=2)
    assert "outside the range" not in caplog.text
    # positive control: generation beyond it does
    tiny_model().generate("Use 3 to make 3.", steer=1.0 * stale, max_new_tokens=2)
    assert "outside the range" in caplog.text
