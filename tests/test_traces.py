"""Traces: derived sections, files that round trip, and bad input that is named exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit import behaviors
from steerkit.behaviors import UNPARSED, Behavior, declare
from steerkit.errors import BehaviorError, ResourceError, SteerkitError, TraceError
from steerkit.tasks import split_of, task_hash
from steerkit.traces import Span, Trace, Traces, read_traces, write_traces

RESPONSE = "<think>\nWait, no. So 3.\n</think>\n\n**3**"
TRACES = Traces(
    [
        Trace("a", "t", RESPONSE, spans=(Span(8, 17, "backtracking"), Span(18, 23, "deduction"))),
        Trace(
            "b",
            "t",
            "Größe 🙂 ist\u2028offen.</think>",
            prompt="Wie groß?",
            category="maß",
            spans=(Span(0, 7, "uncertainty-estimation"), Span(8, 18, UNPARSED)),
            annotator="hand",
            model="m",
            revision="r",
            token_ids=(5, 0, 12),
            metadata={"truncated": True, "nested": {"x": [1, None]}},
        ),
        Trace("c", "u", "cut off in the", prompt="p"),
    ]
)


def span(start, end, label="deduction"):
    return {"start": start, "end": end, "label": label}


def file_of(tmp_path, *records, name="chains.jsonl"):
    path = tmp_path / name
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records))
    return path


# -- derived sections


@pytest.mark.parametrize("answer", ["", " ", "\n\nIt is 3.\n", "one </think> more"])
@pytest.mark.parametrize("thinking", ["", "\nWait, no.\n", "a <think> inside"])
@pytest.mark.parametrize("opening", ["", "<think>", "\n <think>"])
@pytest.mark.parametrize("closed", [True, False])
def test_thinking_answer_and_closed(opening, thinking, closed, answer):
    response = opening + thinking + (f"</think>{answer}" if closed else "")
    trace = Trace("a", "t", response)
    assert trace.thinking == thinking
    assert trace.closed is closed
    assert trace.answer == (answer.strip() if closed else "")
    start, end = trace.thinking_bounds
    assert response[start:end] == thinking and start == len(opening)


def test_other_think_strings_are_named_in_metadata():
    response = "[T]a </think> b[/T] c"
    assert Trace("a", "t", response).thinking == "[T]a "
    own = Trace("a", "t", response, metadata={"think": ["[T]", "[/T]"]})
    assert (own.thinking, own.answer, own.closed) == ("a </think> b", "c", True)


def test_a_chain_that_was_cut_off_says_so():
    assert not Trace("a", "t", "x").truncated
    assert Trace("a", "t", "x", metadata={"truncated": True}).truncated


def test_the_split_is_that_of_the_prompt_or_of_a_bare_chains_task():
    trace = Trace("a", "some task", "x", prompt="Use 3, 7, 8 to make 29.")
    assert trace.split == split_of("Use 8, 7, 3 to make 29.") == "select"
    bare = {split_of(f"task {i}"): f"task {i}" for i in range(40)}
    for name, task in bare.items():
        assert replace(trace, prompt=None, task_id=task).split == name
        # samples of one task stay together whatever they are called
        assert replace(trace, prompt=None, task_id=task, id="other").split == name


# -- files


def test_what_is_written_is_read_back(tmp_path):
    path = write_traces(TRACES, tmp_path / "chains.jsonl")
    assert read_traces(path) == TRACES
    assert path.read_bytes().count(b"\n") == len(TRACES)
    assert path.read_bytes() == write_traces(read_traces(path), tmp_path / "again").read_bytes()


@st.composite
def chains(draw):
    text = draw(st.text(min_size=1, max_size=40))
    borders = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    names = [*(b.name for b in behaviors.behaviors()), UNPARSED]
    spans = [
        Span(a, b, draw(st.sampled_from(names)))
        for a, b in pairwise(borders)
        if draw(st.booleans())
    ]
    ids = draw(st.none() | st.lists(st.integers(0, 10**6), max_size=5).map(tuple))
    prompt = draw(st.none() | st.text(max_size=10))
    return Trace("x", "t", text, prompt=prompt, spans=tuple(spans), token_ids=ids)


@settings(max_examples=40, deadline=None)
@given(st.lists(chains(), min_size=1, max_size=4))
def test_any_traces_round_trip(tmp_path_factory, drawn):
    traces = Traces(replace(trace, id=str(i)) for i, trace in enumerate(drawn))
    path = tmp_path_factory.mktemp("round") / "x.jsonl"
    assert read_traces(write_traces(traces, path)) == traces


def test_only_id_and_response_are_needed(tmp_path):
    (trace,) = read_traces(file_of(tmp_path, {"id": "a", "response": "x"}))
    assert trace == Trace("a", "a", "x")
    nothing = dict.fromkeys(TRACES[0].to_json()) | {"id": "b", "response": "", "token_ids": None}
    assert read_traces(file_of(tmp_path, nothing))[0] == Trace("b", "b", "")


def test_several_files_are_read_in_order(tmp_path):
    one = file_of(tmp_path, {"id": "b", "response": "x"}, name="1")
    two = file_of(tmp_path, {"id": "a", "response": "y"}, name="2")
    assert [t.id for t in read_traces(one, two)] == ["b", "a"]


def test_offsets_count_characters_not_bytes(tmp_path):
    (trace,) = read_traces(
        file_of(
            tmp_path, {"id": "a", "response": "ß🙂 wait", "spans": [span(3, 7, "backtracking")]}
        )
    )
    assert trace.response[slice(trace.spans[0].start, trace.spans[0].end)] == "wait"


def test_spans_are_sorted_and_short_names_spelled_out(tmp_path, monkeypatch):
    monkeypatch.setattr(behaviors, "_known", dict(behaviors._known))
    declare(Behavior("self-check", "checks", short="check"))
    labels = ["check", "uncertainty", "self-check", "deduction", UNPARSED]
    spans = [span(i, i + 1, label) for i, label in enumerate(labels)]
    (trace,) = read_traces(
        file_of(tmp_path, {"id": "a", "response": "12345", "spans": spans[::-1]})
    )
    full = ("self-check", "uncertainty-estimation", "self-check", "deduction", UNPARSED)
    assert trace.spans == tuple(Span(i, i + 1, label) for i, label in enumerate(full))
    given_short = [Span(i, i + 1, label) for i, label in enumerate(labels)]
    assert Trace("a", "a", "12345").with_spans(given_short[::-1], None).spans == trace.spans


def test_pandas_reads_it(tmp_path):
    path = write_traces(TRACES, tmp_path / "chains.jsonl")
    frame = pd.read_json(path, lines=True, encoding="utf-8")
    assert frame["id"].tolist() == ["a", "b", "c"]
    assert frame["response"].tolist() == [t.response for t in TRACES]
    for spans, trace in zip(frame["spans"], TRACES, strict=True):
        assert [(s["start"], s["end"], s["label"]) for s in spans] == [
            (s.start, s.end, s.label) for s in trace.spans
        ]


def test_datasets_reads_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = write_traces(TRACES, tmp_path / "chains.jsonl")
    rows = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows["response"][:] == [t.response for t in TRACES]
    assert rows[1]["spans"] == TRACES[1].to_json()["spans"]
    assert rows[1]["token_ids"] == [5, 0, 12] and rows[0]["token_ids"] is None


# -- bad input

GOOD = {"id": "good", "response": "a good chain"}


@pytest.mark.parametrize(
    ("spans", "words", "place"),
    [
        ([span(0, 5), span(4, 9, "backtracking")], "overlaps the next one, [4, 9)", "[0, 5) 'ded"),
        ([span(4, 9, "backtracking"), span(0, 5)], "overlaps the next one, [4, 9)", "[0, 5) 'ded"),
        ([span(0, 9), span(2, 3)], "overlaps the next one, [2, 3)", "[0, 9) 'deduction'"),
        ([span(0, 5), span(0, 5)], "overlaps the next one", "[0, 5) 'deduction'"),
        ([span(5, 14)], "leaves the text (expected offsets within 0 and 13", "[5, 14) 'deduction'"),
        ([span(-1, 4)], "leaves the text", "[-1, 4) 'deduction'"),
        ([span(20, 30)], "leaves the text", "[20, 30) 'deduction'"),
        ([span(3, 3)], "is empty", "[3, 3) 'deduction'"),
        ([span(5, 3)], "is empty", "[5, 3) 'deduction'"),
        ([span(0, 2, "reflection")], "unknown behaviour 'reflection'", "[0, 2) 'reflection'"),
        ([span(0, 2, "Deduction")], "unknown behaviour 'Deduction'", "[0, 2) 'Deduction'"),
    ],
)
def test_bad_spans_name_file_line_and_label(tmp_path, spans, words, place):
    path = file_of(tmp_path, GOOD, "", {"id": "x", "response": "thirteen char", "spans": spans})
    with pytest.raises(SteerkitError) as error:
        read_traces(path)
    message = str(error.value)
    assert words in message and message.startswith(f"{path}, line 3, span [")
    assert place in error.value.where
    unknown = "unknown" in words
    assert isinstance(error.value, BehaviorError if unknown else TraceError)
    if unknown:
        assert all(known.name in message for known in behaviors.behaviors())


def test_neighbours_and_the_whole_text_are_good_spans(tmp_path):
    for spans in ([span(0, 6), span(6, 13)], [span(0, 13)], []):
        record = {"id": "x", "response": "thirteen char", "spans": spans}
        assert len(read_traces(file_of(tmp_path, record))[0].spans) == len(spans)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('{"id": "x", "resp', "not valid JSON"),
        ("[]", "not a JSON object"),
        ({"response": "x"}, "a trace has no id"),
        ({"id": "", "response": "x"}, "a trace has no id"),
        ({"id": 3, "response": "x"}, "a trace has no id"),
        ({"id": "x"}, "a trace has no response"),
        ({"id": "x", "response": None}, "a trace has no response"),
        ({"id": "x", "response": ["x"]}, "a trace has no response"),
        ({"id": "x", "response": "x", "prompt": 3}, "'prompt' has the wrong type"),
        ({"id": "x", "response": "x", "task_id": 3}, "'task_id' has the wrong type"),
        ({"id": "x", "response": "x", "spans": {}}, "'spans' has the wrong type"),
        ({"id": "x", "response": "x", "metadata": []}, "'metadata' has the wrong type"),
        ({"id": "x", "response": "x", "token_ids": "1 2"}, "'token_ids' has the wrong type"),
        ({"id": "x", "response": "x", "token_ids": [1, -1]}, "non-negative integers"),
        ({"id": "x", "response": "x", "token_ids": [1, 2.0]}, "non-negative integers"),
        ({"id": "x", "response": "x", "token_ids": [True]}, "non-negative integers"),
        ({"id": "x", "response": "x", "spans": [[0, 1, "deduction"]]}, "span is ill-formed"),
        ({"id": "x", "response": "x", "spans": [span(0, 1.0)]}, "span is ill-formed"),
        ({"id": "x", "response": "x", "spans": [span(False, 1)]}, "span is ill-formed"),
        ({"id": "x", "response": "x", "spans": [span(0, 1, None)]}, "span is ill-formed"),
        ({"id": "x", "response": "x", "spans": [{"start": 0, "end": 1}]}, "span is ill-formed"),
        ({"id": "x", "response": "x", "metadata": {"think": "[T]"}}, "think strings"),
        ({"id": "x", "response": "x", "metadata": {"think": ["[T]"]}}, "think strings"),
        ({"id": "x", "response": "x", "metadata": {"think": ["[T]", ""]}}, "think strings"),
        ({"id": "x", "response": "x", "metadata": {"think": None}}, "think strings"),
        ({"id": "good", "response": "x"}, "id 'good' occurs twice"),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path, bad, words):
    path = file_of(tmp_path, GOOD, bad)
    with pytest.raises(TraceError) as error:
        read_traces(path)
    assert words in str(error.value) and error.value.where == f"{path}, line 2"


def test_an_id_may_not_occur_in_two_files(tmp_path):
    one, two = (file_of(tmp_path, GOOD, name=name) for name in ("1", "2"))
    with pytest.raises(TraceError, match="occurs twice") as error:
        read_traces(one, two)
    assert f"first in {one}, line 1" in str(error.value) and f"{two}, line 1" in str(error.value)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ResourceError, match=r"none\.jsonl: no such file"):
        read_traces(tmp_path / "none.jsonl")
    with pytest.raises(TraceError, match="holds no traces") as error:
        read_traces(file_of(tmp_path, "", ""))
    assert error.value.where == str(tmp_path / "chains.jsonl")


def test_a_trace_refuses_bad_spans_too():
    trace = TRACES[2]
    for spans in ([Span(0, 0, "deduction")], [Span(0, 99, "deduction")]):
        with pytest.raises(TraceError, match="trace 'c', span"):
            trace.with_spans(spans, "hand")
    with pytest.raises(TraceError, match="overlaps"):
        trace.with_spans([Span(2, 5, "deduction"), Span(0, 3, "deduction")], "hand")
    with pytest.raises(BehaviorError, match="trace 'c', span"):
        trace.with_spans([Span(0, 1, "reflection")], "hand")
    assert trace.spans == () and trace.with_spans([], "hand").annotator == "hand"


@pytest.mark.parametrize(
    ("spans", "kind", "words"),
    [
        ([Span(0, 0, "deduction")], TraceError, "span [0, 0) 'deduction': the span is empty"),
        ([Span(0, 99, "deduction")], TraceError, "span [0, 99) 'deduction': the span leaves"),
        ([Span(-1, 3, "deduction")], TraceError, "leaves the text"),
        ([Span(0, 3, "deduction"), Span(2, 5, "deduction")], TraceError, "overlaps the next one"),
        ([Span(2, 5, "deduction"), Span(0, 3, "deduction")], TraceError, "overlaps the next one"),
        ([Span(0, 1, "reflection")], BehaviorError, "unknown behaviour 'reflection'"),
    ],
)
def test_no_trace_can_be_made_with_bad_spans(spans, kind, words):
    for make in (
        lambda: Trace("c", "t", "cut off in the", spans=tuple(spans)),
        lambda: replace(TRACES[2], spans=tuple(spans)),
    ):
        with pytest.raises(kind) as error:
            make()
        assert words in str(error.value) and error.value.where.startswith("trace 'c', span [")
    with pytest.raises(TraceError, match="leaves the text"):
        replace(TRACES[0], response="short")


def test_every_trace_sorts_its_spans_and_spells_names_out(unchecked):
    given = [Span(2, 3, "uncertainty"), Span(np.int64(0), np.int64(1), "deduction")]
    trace = Trace("a", "t", "123", spans=given)
    assert trace.spans == (Span(0, 1, "deduction"), Span(2, 3, "uncertainty-estimation"))
    assert isinstance(trace.spans, tuple) and json.dumps(trace.to_json())
    for nonsense in (["deduction"], [(0, 1, "deduction")], [None]):
        with pytest.raises(TraceError, match="trace 'a': this is no span"):
            Trace("a", "t", "123", spans=nonsense)
    with pytest.raises(TraceError, match="offsets are whole numbers"):
        Trace("a", "t", "123", spans=[Span(0.0, 1, "deduction")])


def test_the_task_key_is_the_hash_of_the_prompt_or_of_a_bare_chains_task():
    assert TRACES[1].task_key == task_hash("Wie groß?")
    assert TRACES[0].task_key == task_hash("t") != TRACES[2].task_key == task_hash("p")


def test_writing_that_fails_leaves_the_old_file(tmp_path):
    path = write_traces(TRACES[:1], tmp_path / "chains.jsonl")
    before = path.read_bytes()

    def interrupted():
        yield TRACES[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_traces(interrupted(), path)
    with pytest.raises(TypeError):  # not JSON
        write_traces([TRACES[1], replace(TRACES[2], metadata={"x": object()})], path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# -- Traces as a sequence


def test_traces_slice_count_and_add():
    assert isinstance(TRACES[1:], Traces) and TRACES[1:][0] is TRACES[1]
    assert TRACES[:1] + TRACES[1:] == TRACES != TRACES[1:]
    assert TRACES.counts() == {
        "backtracking": 1,
        "deduction": 1,
        "uncertainty-estimation": 1,
        UNPARSED: 1,
    }
    assert repr(TRACES) == "Traces(3 chains of 2 tasks, 4 spans)"


def test_what_is_made_of_interrupted_traces_says_so():
    whole = Traces(Trace(id=f"c{n}", task_id=f"t{n}", response="3 + 8 = 11.") for n in range(40))
    part = Traces(whole[:20])
    part.interrupted = True
    assert part[2:5].interrupted and part[:0].interrupted and Traces(part).interrupted
    assert (part + whole).interrupted and (whole + part).interrupted
    assert any(len(part.split(name)) for name in ("extract", "select", "evaluate"))
    assert all(part.split(name).interrupted for name in ("extract", "select", "evaluate"))
    assert "interrupted" in repr(part)
    # and what is not stays so
    assert not (whole + whole).interrupted and not whole[2:5].interrupted
    assert "interrupted" not in repr(whole)


def test_splits_part_the_traces_by_task():
    traces = Traces(Trace(str(i), f"task {i // 2}", "x") for i in range(60))
    parts = [traces.split(name) for name in ("extract", "select", "evaluate")]
    assert sorted((t for p in parts for t in p), key=lambda t: int(t.id)) == list(traces)
    tasks = [{t.task_id for t in part} for part in parts]
    assert all(tasks) and not (tasks[0] & tasks[1] | tasks[1] & tasks[2] | tasks[0] & tasks[2])


def test_an_unknown_set_is_refused(unchecked):
    with pytest.raises(TraceError, match=r"unknown set 'train'.*extract, select, evaluate"):
        TRACES.split("train")


def test_what_are_no_traces_is_refused(tmp_path, unchecked):
    for path in ("chains.jsonl", tmp_path):
        with pytest.raises(TraceError, match=r"a path is no traces.*sk\.read_traces"):
            Traces(path)
    for nonsense, kind in ((TRACES[0], "Trace"), (["a"], "str"), (3, "int"), ([None], "NoneType")):
        with pytest.raises(TraceError, match=f"these are no traces.*found {kind}"):
            Traces(nonsense)


def test_a_single_trace_is_read_directly():
    one = TRACES[:1]
    assert (one.response, one.thinking, one.answer) == (RESPONSE, TRACES[0].thinking, "**3**")
    for several in (TRACES, Traces()):
        with pytest.raises(TraceError, match=f"expected exactly 1; found {len(several)}"):
            _ = several.response


def test_the_table_has_a_row_a_trace_and_a_column_a_label():
    frame = TRACES.to_frame()
    assert frame["id"].tolist() == ["a", "b", "c"]
    assert frame["backtracking"].tolist() == [1, 0, 0] and frame[UNPARSED].tolist() == [0, 1, 0]
    assert frame["closed"].tolist() == [True, True, False]
    assert frame["thinking_characters"].tolist() == [len(t.thinking) for t in TRACES]
    assert len(Traces().to_frame()) == 0
    assert "<table" in TRACES._repr_html_() and "3 chains" in TRACES._repr_html_()
