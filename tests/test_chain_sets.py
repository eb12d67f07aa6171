"""Chain sets: what is extracted from and chosen on never shares a task; progress is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.chain_sets import Passes, chain_sets
from steerkit.errors import BehaviorError, ExtractionError
from steerkit.traces import Traces
from tests.tiny import tiny_traces


def test_a_file_is_divided_by_its_tasks() -> None:
    traces = tiny_traces(40)
    sets, asked, contrast = chain_sets(traces, None, None, "rest")
    assert sets.used == traces.split("extract") and sets.kept == traces.split("select")
    assert (asked, contrast) == (None, "rest")
    assert not {t.task_key for t in sets.used} & {t.task_key for t in sets.kept}
    assert {t.task_key for t in traces.split("evaluate")}.isdisjoint(
        t.task_key for t in (*sets.used, *sets.kept)
    )


def test_chains_for_choosing_leave_all_others_to_extract_from() -> None:
    traces = tiny_traces(40)
    sets, _, _ = chain_sets(traces[:30], traces[30:], None, "rest")
    assert sets.used == traces[:30] and sets.kept == traces[30:]
    none, _, _ = chain_sets(traces, Traces(), None, "rest")
    assert none.used == traces and not len(none.kept)
    # another chain of a task that is extracted from is refused, however it is called
    again = replace(traces[3], id="again", response=traces[3].response + " So it is.")
    with pytest.raises(ExtractionError, match=r"1 tasks are both.*task 'task-3' in both"):
        chain_sets(traces[:30], Traces([again]), None, "rest")


def test_behaviours_that_only_others_show_are_named_with_the_reason() -> None:
    def alone(trace):
        rare = [replace(span, label="adding-knowledge") for span in trace.spans[:1]]
        return trace.with_spans([*rare, *trace.spans[1:]], "planted")

    traces = Traces(alone(t) if t.split != "extract" else t for t in tiny_traces(40))
    n = traces.counts()["adding-knowledge"]
    sets, _, _ = chain_sets(traces, None, None, "rest")
    assert sets.elsewhere == {
        "adding-knowledge": f"no span in the chains to extract from, {n} in others"
    }
    kept = traces.split("select")
    sets, _, _ = chain_sets(traces.split("extract"), kept, None, "rest")
    n = kept.counts()["adding-knowledge"]
    assert f"{n} in others" in sets.elsewhere["adding-knowledge"]
    assert chain_sets(traces, None, "deduction", "rest")[0].elsewhere == {}  # not asked for
    assert chain_sets(tiny_traces(40), None, None, "rest")[0].elsewhere == {}


def test_names_are_spelled_out() -> None:
    traces = tiny_traces(40)
    _, asked, contrast = chain_sets(traces, None, "uncertainty", "uncertainty:deduction")
    assert asked == ["uncertainty-estimation"]
    assert contrast == "uncertainty-estimation:deduction"
    _, asked, _ = chain_sets(traces, None, ["uncertainty", "backtracking"], "rest")
    assert asked == ["uncertainty-estimation", "backtracking"]


def test_what_has_no_spans_is_named() -> None:
    traces = tiny_traces(40)
    with pytest.raises(ExtractionError, match=r"no spans of 'adding-knowledge'.*deduction \d+"):
        chain_sets(traces, None, "adding-knowledge", "rest")
    with pytest.raises(BehaviorError, match="unknown behaviour 'wishing'"):
        chain_sets(traces, None, "wishing", "rest")
    unparsed = Traces(
        t.with_spans([replace(s, label="unparsed") for s in t.spans], None) for t in traces
    )
    with pytest.raises(ExtractionError, match=r"no annotated spans.*whole file has 0"):
        chain_sets(unparsed, None, None, "rest")


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    steps=st.lists(st.integers(1, 5), min_size=4, max_size=4),
)
def test_passes_are_told_as_one(sizes: list[int], steps: list[int]) -> None:
    told: list[tuple[int, int]] = []
    report = Passes(lambda done, total: told.append((done, total)), sizes)
    for total in steps[: len(sizes)]:
        progress = report.next()
        for done in range(total + 1):
            progress(done, total)
    report.end()
    counts = [done for done, _ in told]
    assert counts == sorted(counts) and counts[0] == 0
    assert {total for _, total in told} == {sum(sizes)} and told[-1] == (sum(sizes), sum(sizes))
    for number in range(len(sizes)):  # a pass ends where the next one begins
        assert sum(sizes[: number + 1]) in counts


def test_nobody_need_listen() -> None:
    report = Passes(None, [3])
    report.next()(1, 3)
    report.end()
    empty = Passes(lambda done, total: None, [0])
    empty.next()(0, 0)  # nothing to do, and nothing divided by
