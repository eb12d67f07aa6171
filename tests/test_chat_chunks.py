"""Streamed answers are put together, however they were cut and mixed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.chat_chunks import chunk_choices, join_chunks
from steerkit.chat_log import read_chat_log
from steerkit.chat_messages import NoChainError, answers_of, response_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def chunk(answer: str | None, finish: str | None = None, index: int = 0, **delta) -> dict:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    named = {} if answer is None else {"id": answer}
    return {**named, "object": "chat.completion.chunk", "model": "r1", "choices": [choice]}


def joined(records: list) -> list:
    return [record for _, record in join_chunks((str(n), r) for n, r in enumerate(records))]


@settings(deadline=None)
@given(st.data())
def test_pieces_of_several_answers_mixed_are_what_was_cut(data) -> None:
    """The law: cutting and mixing change nothing, as long as every answer keeps its order."""
    texts = data.draw(st.lists(st.tuples(st.lists(TEXT), st.lists(TEXT)), min_size=1, max_size=3))
    queues = []
    for number, (thoughts, words) in enumerate(texts):
        pieces = [chunk(f"a{number}", reasoning_content=piece) for piece in thoughts]
        pieces += [chunk(f"a{number}", content=piece) for piece in words]
        queues.append([*pieces, chunk(f"a{number}", "stop")])
    mixed, first = [], []
    while any(queues):
        number = data.draw(st.sampled_from([n for n, queue in enumerate(queues) if queue]))
        first += [] if number in first else [number]
        mixed.append(queues[number].pop(0))
    found = joined(mixed)
    assert [record["id"] for record in found] == [f"a{number}" for number in first]
    for record in found:
        thoughts, words = texts[int(record["id"][1:])]
        (choice,) = record["choices"]
        assert choice["message"].get("reasoning_content", "") == "".join(thoughts)
        assert choice["message"].get("content", "") == "".join(words)
        assert choice["finish_reason"] == "stop" and record["model"] == "r1"


def as_parts(draw, piece: str, kind: str):
    """One piece of a text or thought in one of the forms in which servers send it."""
    if kind == "text" and draw(st.booleans()):
        return piece
    nested = kind == "thinking" and draw(st.booleans())
    return [{"type": kind, kind: [{"type": "text", "text": piece}] if nested else piece}]


def read_as(record) -> list[str]:
    """What the reader makes of every answer in a record: the response, or why there is none."""
    found = []
    for answer in answers_of(record):
        try:
            found.append(response_of(answer))
        except NoChainError as problem:
            found.append(f"no chain: {problem}")
    return found


@settings(deadline=None)
@given(st.data())
def test_lists_of_parts_are_joined_as_texts_are(data) -> None:
    """The law again: parts of one type are one part, however each was cut and spelled."""
    thoughts, words = (data.draw(st.lists(TEXT)) for _ in range(2))
    pieces = [chunk("a", content=as_parts(data.draw, piece, "thinking")) for piece in thoughts]
    pieces += [chunk("a", content=as_parts(data.draw, piece, "text")) for piece in words]
    before = json.dumps(pieces)
    (found,) = joined([chunk("a", role="assistant", content=""), *pieces, chunk("a", "stop")])
    assert json.dumps(pieces) == before, "what was read is left as it is"
    parts = [("thinking", "".join(thoughts)), ("text", "".join(words))]
    message = {"content": [{"type": kind, kind: text} for kind, text in parts if text]}
    whole = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert read_as(found) == read_as(whole)


def test_parts_of_two_types_take_turns() -> None:
    def thought(text: str) -> list[dict]:
        return [{"type": "thinking", "thinking": text}]

    pieces = [thought("3 + "), thought("4"), "It ", [{"type": "text", "text": "is "}], "7."]
    (found,) = joined([chunk("a", content=piece) for piece in pieces])
    said = found["choices"][0]["message"]["content"]
    assert said == [*thought("3 + 4"), {"type": "text", "text": "It is 7."}]
    (found,) = joined([chunk("a", content="Hm. "), chunk("a", content=thought("3"))])
    assert found["choices"][0]["message"]["content"] == [
        {"type": "text", "text": "Hm. "},
        *thought("3"),
    ]


@pytest.mark.parametrize(
    "strange", [7, True, {"a": 1}, [7], [{"type": ["x"]}], [{"type": "image"}]]
)
def test_what_is_no_text_is_reported_and_never_lost(strange, tmp_path) -> None:
    good = [chunk("b", reasoning_content="3 + 4 = 7."), chunk("b", "stop", content="7.")]
    for pieces in (["a", strange, "b"], [strange, [{"type": "text", "text": "b"}]]):
        sent = [chunk("a", reasoning_content="Hm."), *(chunk("a", content=p) for p in pieces)]
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, [*sent, *good])))
        (trace,), (unread,) = read_chat_log(tmp_path / "log.jsonl")
        assert (trace.id, unread.reason) == ("b", "no text")


def test_ids_and_indices_may_be_any_json() -> None:
    records = [chunk(None, content=text) for text in "abc"]
    for record, name in zip(records, ([1], [1], {"x": 2}), strict=True):
        record["id"] = name
    texts = [r["choices"][0]["message"]["content"] for r in joined(records)]
    assert texts == ["ab", "c"]
    pieces = [chunk("a", index=index, content=text) for index, text in (([0], "a"), ([0], "b"))]
    (found,) = joined([*pieces, chunk("a", index={}, content="c", tool_calls={"id": 1})])
    assert [choice["message"]["content"] for choice in found["choices"]] == ["ab", "c"]


def test_pieces_without_an_id_end_with_the_reason_to_finish() -> None:
    pieces = [chunk(None, content="a"), chunk(None, "stop", content="b"), chunk(None, content="c")]
    found = joined([*pieces, {"messages": []}, chunk(None, content="d")])
    texts = [r["choices"][0]["message"]["content"] if "choices" in r else None for r in found]
    assert texts == ["ab", "c", None, "d"]


def test_choices_stay_apart_and_other_records_go_through() -> None:
    other = [{"some": "thing"}, [1], "text", {"choices": [{"message": {"content": "x"}}]}]
    found = joined(
        [other[0], chunk("a", content="1"), *other[1:], chunk("a", index=1, content="2")]
    )
    assert [record for record in found if record in other] == other
    messages = [choice["message"]["content"] for choice in found[1]["choices"]]
    assert messages == ["1", "2"]
    usage = {"id": "a", "object": "chat.completion.chunk", "choices": [], "usage": {}}
    assert chunk_choices(usage) == [] and chunk_choices({"choices": []}) is None


def test_a_streamed_log_gives_the_chain_of_the_whole_answer(tmp_path) -> None:
    pieces = [
        chunk("a", role="assistant", content=""),
        chunk("a", reasoning_content="3 + 4"),
        chunk("a", reasoning_content=" = 7."),
        chunk("a", content="It is "),
        chunk("a", "stop", content="7."),
    ]
    whole = {"id": "a", "choices": [{"message": {}, "finish_reason": "stop"}]}
    whole["choices"][0]["message"] = {
        "role": "assistant",
        "reasoning_content": "3 + 4 = 7.",
        "content": "It is 7.",
    }
    forms = {
        "whole": json.dumps(whole),
        "chunks": "\n".join(map(json.dumps, pieces)),
        "wire": ": hello\n\n"
        + "".join(f"event: message\ndata: {json.dumps(piece)}\n\n" for piece in pieces)
        + "data: [DONE]\n",
    }
    responses = set()
    for name, text in forms.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
        (trace,), unread = read_chat_log(tmp_path / f"{name}.jsonl")
        assert unread == [] and trace.id == "a" and not trace.truncated
        responses.add(trace.response)
    assert responses == {"<think>\n3 + 4 = 7.\n</think>\n\nIt is 7."}


def test_a_stream_that_broke_off_leaves_its_chain_open(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(chunk("a", reasoning_content="Let me")) + "\n")
    (trace,), _ = read_chat_log(path)
    assert trace.thinking.strip() == "Let me" and not trace.closed
