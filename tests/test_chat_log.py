"""Chat logs: every chain becomes a trace, and everything else is reported with its place."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import steerkit as sk
from steerkit.chat_log import read_chat_log
from steerkit.chat_messages import is_chat_record
from steerkit.errors import ResourceError, TraceError

USER = {"role": "user", "content": "What is 3 + 4?"}


def answer(reasoning="3 and 4 make 7.", content="It is **7**.", **fields):
    return {"role": "assistant", "reasoning_content": reasoning, "content": content, **fields}


def talk(*messages, **fields):
    return {"messages": list(messages), **fields}


def completion(*messages, finish="stop", **fields):
    choices = [
        {"index": n, "message": message, "finish_reason": finish}
        for n, message in enumerate(messages)
    ]
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": choices, **fields}


def written(tmp_path, *records, name="log.jsonl"):
    path = tmp_path / name
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_conversation_becomes_a_trace(tmp_path) -> None:
    (trace,), unread = read_chat_log(written(tmp_path, talk(USER, answer(), model="deepseek-r1")))
    assert unread == []
    assert trace.prompt == "What is 3 + 4?"
    assert trace.response == "<think>\n3 and 4 make 7.\n</think>\n\nIt is **7**."
    assert (trace.thinking.strip(), trace.answer) == ("3 and 4 make 7.", "It is **7**.")
    assert trace.closed and not trace.truncated
    assert (trace.id, trace.task_id, trace.model) == ("log-0", "log-0", "deepseek-r1")
    assert trace.metadata == {} and trace.spans == ()


@pytest.mark.parametrize(
    "message",
    [
        answer(),
        {"role": "assistant", "reasoning": "3 and 4 make 7.", "content": "It is **7**."},
        # both fields, as some servers send them, say the same
        {**answer(), "reasoning": "3 and 4 make 7."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "3 and 4 make 7."},
                {"type": "text", "text": "It is **7**."},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "3 and 4 make 7."}]},
                {"type": "text", "text": "It is "},
                {"type": "text", "text": "**7**."},
            ],
        },
        {
            "role": "assistant",
            "content": "<think>\n3 and 4 make 7.\n</think>\n\nIt is **7**.",
            "reasoning_content": None,
        },
    ],
)
def test_chains_are_found_wherever_servers_put_them(tmp_path, message) -> None:
    (trace,), unread = read_chat_log(written(tmp_path, talk(USER, message)))
    assert trace.response == "<think>\n3 and 4 make 7.\n</think>\n\nIt is **7**."
    assert unread == []


@pytest.mark.parametrize(
    ("record", "prompt", "name"),
    [
        (completion(answer(), model="m"), None, "chatcmpl-1"),
        (completion(answer(), model="m", messages=[USER]), USER["content"], "chatcmpl-1"),
        (
            {
                "id": "r1",
                "request": {"model": "m", "messages": [USER]},
                "response": completion(answer()),
            },
            USER["content"],
            "r1",
        ),
        # what OpenAI's batch interface writes
        (
            {
                "id": "batch_req_1",
                "custom_id": "task-7",
                "response": {"status_code": 200, "body": completion(answer(), model="m")},
                "error": None,
            },
            None,
            "task-7",
        ),
    ],
)
def test_completions_are_read_with_the_request_where_it_was_kept(
    tmp_path, record, prompt, name
) -> None:
    (trace,), _ = read_chat_log(written(tmp_path, record))
    assert (trace.prompt, trace.id, trace.model) == (prompt, name, "m")
    assert trace.metadata["finish_reason"] == "stop"


def test_every_choice_and_every_turn_is_a_chain(tmp_path) -> None:
    three = completion(*(answer(f"chain {n}") for n in range(3)), messages=[USER], task_id="sum")
    turns = talk(USER, answer("first"), {"role": "user", "content": "And 5?"}, answer("second"))
    traces, unread = read_chat_log(written(tmp_path, three, turns))
    assert [t.id for t in traces] == [
        *(f"chatcmpl-1-{n}" for n in range(3)),
        *("log-1-0", "log-1-1"),
    ]
    assert {t.task_id for t in traces[:3]} == {"sum"} and unread == []
    assert [t.prompt for t in traces[3:]] == ["What is 3 + 4?", "And 5?"]
    assert traces[3].metadata == {}
    assert traces[4].metadata == {"left_out": {"user": 1, "assistant": 1}}


def test_what_else_the_model_saw_is_counted(tmp_path, caplog) -> None:
    system = {"role": "system", "content": "Be brief."}
    picture = {
        "role": "user",
        "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url"}],
    }
    path = written(
        tmp_path, talk(system, USER, answer()), talk(picture, answer()), talk(USER, answer())
    )
    with caplog.at_level(logging.WARNING, "steerkit"):
        traces, _ = read_chat_log(path)
    assert [t.metadata.get("left_out") for t in traces] == [{"system": 1}, {"image_url": 1}, None]
    assert traces[1].prompt == "What is this?"
    assert "2 of 3 chains saw more than their prompt" in caplog.text


def test_chains_cut_off_are_open_and_say_so(tmp_path) -> None:
    thinking = completion(answer("3 and", None), finish="length", messages=[USER])
    answering = completion(answer(content="It is"), finish="length", messages=[USER])
    called = completion(answer(content=None, tool_calls=[{"id": "x"}]), finish="tool_calls")
    silent = talk(USER, answer(content=""))
    traces, _ = read_chat_log(written(tmp_path, thinking, answering, called, silent))
    assert [(t.closed, t.truncated) for t in traces] == [
        (False, True),
        (True, True),
        (True, False),
        (False, False),
    ]
    assert traces[0].response == "<think>\n3 and"
    assert len({t.id for t in traces}) == 4, "an id that comes again gets a number"
    assert traces[1].id == "chatcmpl-1-2"


def test_white_space_that_the_server_kept_is_kept(tmp_path) -> None:
    (trace,), _ = read_chat_log(written(tmp_path, talk(USER, answer("\n3 + 4.\n", "\n\n7"))))
    assert trace.response == "<think>\n3 + 4.\n</think>\n\n7"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_any_chain_comes_back_whole(tmp_path_factory, reasoning, content) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text(json.dumps(talk(USER, answer(reasoning, content))), encoding="utf-8")
    if not reasoning.strip():
        with pytest.raises(TraceError, match="no reasoning"):
            read_chat_log(path)
        return
    (trace,), _ = read_chat_log(path)
    assert trace.thinking.strip() == reasoning.strip()
    assert reasoning in trace.response
    if not content.strip():
        # white space is no answer: whether the model closed its thinking is not known
        assert not trace.closed
        return
    assert trace.answer == content.strip() and trace.response.endswith(content)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ('{"messages": [', "not JSON"),
        ({"some": "thing"}, "no chat record"),
        (talk(USER), "no answer"),
        ({"error": {"message": "rate limit"}}, "error"),
        ({"custom_id": "a", "response": None, "error": {"code": 500}}, "error"),
        ({"choices": [{"delta": {"content": "3"}}]}, "no reasoning"),
        ({"choices": [{"delta": {"reasoning_content": 3}}]}, "no text"),
        (talk(USER, {"role": "assistant", "content": "7"}), "no reasoning"),
        (talk(USER, answer("  \n")), "no reasoning"),
        (talk(USER, {**answer(), "reasoning": "another"}), "two reasonings"),
        (talk(USER, answer("so </think> what")), "think string inside"),
        (talk(USER, answer(7)), "no text"),
        (talk(USER, answer(content=[{"type": "audio"}])), "no text"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "no text"),
    ],
)
def test_what_is_no_chain_is_reported_with_its_place(tmp_path, caplog, record, reason) -> None:
    path = written(tmp_path, talk(USER, answer()), record, talk(USER, answer()))
    with caplog.at_level(logging.WARNING, "steerkit"):
        traces, unread = read_chat_log(path)
    assert len(traces) == 2
    (part,) = unread
    assert (part.where, part.reason) == (f"{path}, line 2", reason)
    assert part.text
    assert f"2 chains read, 1 parts are no chains (1 {reason})" in caplog.text


def test_a_log_without_any_chain_is_an_error_that_says_why(tmp_path) -> None:
    path = written(tmp_path, talk(USER), talk(USER, {"role": "assistant", "content": "7"}))
    with pytest.raises(TraceError, match=r"no chain of thought .*1 no answer, 1 no reasoning"):
        read_chat_log(path)
    with pytest.raises(ResourceError, match="no such file"):
        read_chat_log(tmp_path / "none.jsonl")


@pytest.mark.parametrize("form", ["lines", "list", "one", "pretty", "bare lines", "bare", "bom"])
def test_files_of_every_form_hold_the_same(tmp_path, form) -> None:
    records = [talk(USER, answer()), talk(USER, answer("other"))]
    if form in ("one", "pretty", "bare"):
        records = records[:1]
    content = {
        "lines": "\n".join(map(json.dumps, records)),
        "bom": "\ufeff" + "\n\n".join(map(json.dumps, records)),
        "list": json.dumps(records),
        "one": json.dumps(records[0]),
        "pretty": json.dumps(records[0], indent=2),
        "bare": json.dumps(records[0]["messages"], indent=1),
        "bare lines": "\n".join(json.dumps(r["messages"]) for r in records),
    }[form]
    (tmp_path / "log.json").write_text(content, encoding="utf-8")
    traces, unread = read_chat_log(tmp_path / "log.json")
    assert [t.thinking.strip() for t in traces] == ["3 and 4 make 7.", "other"][: len(records)]
    assert unread == []


def test_traces_are_no_chat_records(tmp_path) -> None:
    (trace,), _ = read_chat_log(written(tmp_path, talk(USER, answer())))
    assert not is_chat_record(trace.to_json()) and not is_chat_record("text")
    path = sk.write_traces([trace], tmp_path / "traces.jsonl")
    assert sk.read_traces(path)[0] == trace
    with pytest.raises(TraceError, match=r"no chain of thought .*no chat record"):
        read_chat_log(path)
