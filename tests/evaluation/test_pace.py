"""Pace: times as they are, and what is said of them."""

from __future__ import annotations

import pytest

from steerkit.evaluation.pace import Pace, duration, expected_tokens, seconds_per_token
from steerkit.tasks import Task
from steerkit.traces import Trace
from tests.tiny import tiny_model


def test_a_timed_run_writes_as_many_rows_as_asked(monkeypatch) -> None:
    from steerkit.evaluation import pace

    asked, clock = [], iter([10.0, 14.0])

    def write(model, prompts, *, max_new_tokens, **options):
        asked.append((len(prompts), max_new_tokens))
        return [Trace("a", "a", "", token_ids=tuple(range(8))) for _ in prompts]

    monkeypatch.setattr(pace, "generate", write)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))
    tasks = [Task("a", "Use 3 to make 3."), Task("b", "Use 4 to make 4.")]
    assert seconds_per_token(tiny_model(), tasks, 5, max_new_tokens=400) == pytest.approx(4 / 40)
    assert asked == [(1, 2), (5, 16)]


def test_a_real_timed_run() -> None:
    tasks = [Task("a", "Use 3 to make 3.")]
    found = seconds_per_token(tiny_model(), tasks, 2, batch_size=2, max_new_tokens=300)
    assert 0 < found < 1


def test_how_long_chains_are_comes_from_the_model_s_own() -> None:
    model = tiny_model()
    own = [Trace("a", "a", "", model=model.name, token_ids=tuple(range(n))) for n in (100, 300)]
    others = [Trace("b", "b", "", model="other", token_ids=(1,) * 999)]
    assert expected_tokens(model, [*own, *others], None) == 200
    assert expected_tokens(model, own, 200) == 150  # cut off
    assert expected_tokens(model, others, 100) == pytest.approx(60)


def test_what_is_left_follows_what_was_measured() -> None:
    pace = Pace(10, 2.0)
    assert pace.left == 20.0
    pace.add(4, 2.0)
    assert pace.per_chain == 0.5 and pace.left == 3.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 seconds"), (80, "80 seconds"), (200, "3 minutes"), (9000, "2.5 hours")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
