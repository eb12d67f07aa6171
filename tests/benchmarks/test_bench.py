"""`make bench`: ratios, verdicts and pages from seconds that are planted; nothing is timed."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import bench
import bench_collection
import bench_memory
import bench_sampling
import pytest
from bench_cases import Aim, Case, Unavailable, mark, rows
from bench_contenders import set_rotary_base
from bench_processes import Process
from bench_repetitions import alike, fastest, interleave, ratio, spread, verdict
from bench_report import draw, markdown, read_notes
from bench_worker import serve
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from reference import CHAINS

CASE = Case(
    "peers",
    "some model",
    "batch 1",
    "cpu",
    (
        Aim("ours", ("fast", "slow"), 1.03, agrees="same"),
        Aim("ours", ("slow",), 0.8),
        Aim("ours"),
    ),
    4,
    {"batch": 1},
)
SECONDS = {"ours": [1.0, 2.0, 1.1, 1.0], "fast": [1.0, 2.1, 1.0, 1.0], "slow": [4.0, 9.0, 4.0, 4.0]}


def measured(**changed):
    base = {"seconds": SECONDS, "agreement": {"same": "8 of 8 rows the same"}, "missing": {}}
    return {**base, "notes": [], "versions": {}, **changed}


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that is twice as slow in one round is so for both: the ratio does not feel it."""
    found = ratio(SECONDS["ours"], SECONDS["fast"])
    assert found.median == pytest.approx(1.0) and found.most == pytest.approx(1.1)
    assert spread(SECONDS["ours"]).most == 2.0
    with pytest.raises(ValueError, match="no repetition"):
        spread([])


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9), st.floats(0.1, 10))
def test_a_contender_as_slow_by_a_factor_has_that_ratio(seconds, factor) -> None:
    found = ratio([factor * s for s in seconds], seconds)
    assert found.least == pytest.approx(factor) and found.most == pytest.approx(factor)


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def run(name: str):
        return lambda: order.append(name) or float(len(order))

    found = interleave({"a": run("a"), "b": run("b")}, 3)
    assert order == ["a", "b"] * 3
    assert found == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_rows_say_against_whom_and_whether_the_target_is_met() -> None:
    first, second, third = rows(CASE, measured())
    assert first["against"] == "fast" == fastest({k: SECONDS[k] for k in ("fast", "slow")})
    assert first["figure"] == "ours / fastest peer" and first["verdict"] == "met"
    assert first["agreement"] == "8 of 8 rows the same"
    assert second["value"] == pytest.approx(0.25, abs=0.03) and second["verdict"] == "met"
    assert third["unit"] == "s" and third["value"] == 1.05 and third["verdict"] == "context"
    slower = measured(seconds={**SECONDS, "ours": [2 * s for s in SECONDS["ours"]]})
    assert [row["verdict"] for row in rows(CASE, slower)] == ["missed", "met", "context"]


def test_what_is_missing_is_said_and_never_a_number() -> None:
    without = measured(
        seconds={k: v for k, v in SECONDS.items() if k != "fast"},
        missing={"fast": "no such package"},
    )
    first, *_ = rows(CASE, without)
    assert first["against"] == "slow" and "without fast: no such package" in first["reason"]
    for row in rows(CASE, None, "no GPU"):
        assert row["verdict"] == "not measured" and row["reason"] == "no GPU"
        assert math.isnan(row["value"])
    nobody = measured(seconds={"ours": [1.0]}, missing={"fast": "gone", "slow": "gone"})
    assert rows(CASE, nobody)[0]["verdict"] == "not measured"


def test_a_target_can_be_a_least() -> None:
    assert (
        verdict(0.4, 0.3, at_least=True) == "met" and verdict(0.2, 0.3, at_least=True) == "missed"
    )
    assert verdict(1.031, 1.03) == "missed" and verdict(1.03, 1.03) == "met"


def test_results_of_other_code_settings_or_machines_are_made_again() -> None:
    one = mark(CASE, "a", {"threads": 2})
    assert one == mark(CASE, "a", {"threads": 2})
    assert one != mark(CASE, "b", {"threads": 2}) != mark(CASE, "a", {"threads": 1})


def test_rows_of_tokens_are_compared_up_to_where_they_part() -> None:
    assert alike([[1, 2, 3]], [[1, 2, 3]]).share == 1.0
    found = alike([[1, 2, 3, 4], [5, 6]], [[1, 2, 9, 4], [5, 6]])
    assert found.share == pytest.approx(4 / 6) and "1 of 2 rows" in found.text
    assert alike([[1]], []).share == 0.0


def content(**changed):
    listed = [{**row, "code": "abc"} for row in rows(CASE, measured(**changed))]
    case = {**measured(**changed), "machine": {"processor": "p", "threads": 2}, "code": "abc"}
    return {
        "questions": {"peers": "Against peers"},
        "quick": False,
        "rows": listed,
        "cases": {CASE.key: {**case, "setting": {}, "load_average_at_start": 0.1}},
    }


def test_the_page_shows_every_figure_and_the_figure_draws() -> None:
    page = markdown(content())
    assert "Against peers" in page and "ours / fastest peer (fast)" in page and "met" in page
    assert isinstance(draw(content()), Figure)
    slow = markdown(content(seconds={**SECONDS, "ours": [3 * s for s in SECONDS["ours"]]}))
    assert "missed" in slow and "missed" not in page.split("## ")[-1].split("verdict")[0]


def test_every_missed_row_says_why_and_what_was_tried() -> None:
    slow = content(seconds={**SECONDS, "ours": [3 * s for s in SECONDS["ours"]]})
    said = {CASE.key: {"reason": "it is slow", "tried": "being quick"}}
    page = markdown(slow, said)
    assert (
        f"`{CASE.key}`, ours / fastest peer, missed. Why: it is slow. Tried: being quick." in page
    )
    assert "Why: not known yet. Tried: nothing yet." in markdown(slow, {})
    head = page.split("\n\nEvery figure")[0]
    assert "- missed: some model, batch 1, ours / fastest peer: 3.00, at most 1.03" in head
    assert "Why" not in markdown(content(), said) and "- missed" not in markdown(content(), said)


def test_notes_are_of_cases_that_exist() -> None:
    keys = {case.key for case in bench.planned(bench.DEVICES, False, 9)}
    notes = read_notes()
    assert notes and set(notes) <= keys
    assert all(set(note) == {"reason", "tried"} for note in notes.values())


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.8024, "0.802"), (0.80004, "0.80004"), (0.79, "0.79"), (0.8, "0.80")]
)
def test_a_figure_near_its_target_is_shown_on_its_own_side_of_it(seconds, shown) -> None:
    aim = Aim("ours", ("slow",), 0.8)
    case = Case("peers", "some model", "batch 1", "cpu", (aim,), 1)
    given = measured(seconds={"ours": [seconds], "slow": [1.0]})
    page = markdown({**content(), "rows": [{**row, "code": "abc"} for row in rows(case, given)]})
    assert f"| ours / slow | {shown} |" in page


def test_the_memory_row_is_of_its_own_code_and_of_one_file(tmp_path, monkeypatch) -> None:
    file = tmp_path / "memory.json"
    monkeypatch.setattr(bench_memory, "RESULT", file)
    runs = [{"chains": n, "peak_mib": 600 + n / 100, "model": "m"} for n in (200, 2000)]
    marks = set()
    for code in ("aaa", "bbb"):
        file.write_text(json.dumps({"runs": runs, "code": code, "measured_at": "2026-01-01"}))
        (case,) = bench_memory.cases("cpu", False, 9)
        made = bench_memory.measure(case, None)
        assert made.code == code and "2026-01-01, by code " + code in made.notes[0]
        marks.add(mark(case, "same", {}))
    assert len(marks) == 2


def test_the_planted_logits_have_the_nucleus_that_is_told() -> None:
    sizes = bench_sampling.nucleus_sizes(bench_sampling.peaked(16, 151_936), 0.95, 0.6)
    assert 100 <= max(sizes) <= 120 and min(sizes) == 1


@pytest.mark.parametrize("named", [True, False])
def test_collection_on_the_small_real_model_reads_100_chains_uncut(
    named, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("STEERKIT_REFERENCE", str(tmp_path))
    if named:
        (tmp_path / CHAINS).write_text("[]")
    made = bench_collection.cases("cpu", False, 9)
    whole = [case for case in made if case.model == "smollm2-135m-instruct"]
    assert [case.variant for case in whole] == [
        "all layers, 100 real chains uncut",
        "up to the middle, 100 real chains uncut",
    ]
    assert all(case.setting["from"] == ("reference" if named else "bundled") for case in whole)
    assert all(case.aims[0].target for case in whole)
    others = {case.variant.split(", ")[1] for case in made if case not in whole}
    assert others == {"200 bundled chains", "16 real chains cut at 400 tokens"}
    if not named:
        read = bench_collection.chains_of(whole[0], None)
        assert len(read) == 100 and not any(trace.truncated for trace in read)


def test_results_say_from_which_commit_they_are() -> None:
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", bench.commit())
    case = {**measured(), "machine": {}, "code": "abc", "commit": "0123456789abcdef+"}
    case |= {"setting": {}, "load_average_at_start": 0.1}
    page = markdown({**content(), "cases": {CASE.key: case}})
    assert "code abc, commit 0123456789ab+" in page


def test_a_worker_answers_line_by_line_and_survives_mistakes() -> None:
    def fail(asked):
        raise RuntimeError("no room\nfor more")

    out = io.StringIO()
    asked = [{"do": "add", "a": 1}, {"do": "fail"}, {"do": "dance"}, {"do": "add", "a": 2}]
    lines = io.StringIO("\n".join(json.dumps(line) for line in asked) + "\n")
    serve({"add": lambda asked: {"sum": asked["a"] + 1}, "fail": fail}, lines, out)
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert answers[0] == {"sum": 2} and answers[3] == {"sum": 3}
    assert answers[1] == {"error": "RuntimeError: no room"} and "KeyError" in answers[2]["error"]


WORKER = """
import json, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "die":
        print("out of luck", file=sys.stderr)
        sys.exit(3)
    if asked["do"] == "sleep":
        time.sleep(60)
    answer = {"error": "no"} if asked["do"] == "refuse" else {"echo": asked}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


def test_a_process_that_fails_dies_or_hangs_is_unavailable(script) -> None:
    with Process("peer", script=script) as process:
        assert process.ask("echo", x=1) == {"echo": {"do": "echo", "x": 1}}
        with pytest.raises(Unavailable, match="peer: no"):
            process.ask("refuse")
        assert process.ask("echo")["echo"]["do"] == "echo"
        with pytest.raises(Unavailable, match="out of luck"):
            process.ask("die")
        with pytest.raises(Unavailable, match="out of luck"):
            process.ask("echo")
    with (
        Process("peer", script=script, longest=0.5) as process,
        pytest.raises(Unavailable, match="no answer to 'sleep'"),
    ):
        process.ask("sleep")


def test_transformers_4_gets_the_rotary_base_that_transformers_5_stored() -> None:
    stored = {"rope_parameters": {"rope_theta": 100_000.0, "rope_type": "default"}}
    older = SimpleNamespace(rope_theta=10_000.0, rope_parameters=stored["rope_parameters"])
    newer = SimpleNamespace(rope_parameters=stored["rope_parameters"])
    set_rotary_base(older, stored)
    set_rotary_base(newer, stored)
    assert older.rope_theta == 100_000.0
    assert not hasattr(newer, "rope_theta")
    older.rope_theta = 500.0
    set_rotary_base(older, {"rope_theta": 500.0})  # a folder of transformers 4 says it itself
    assert older.rope_theta == 500.0
