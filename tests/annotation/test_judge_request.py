"""Requests give way to what servers refuse; replies are read, whatever they leave out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from steerkit.annotation.judge_request import FORMS, RequestForm, read_reply, said_by, shortened

SCHEMA = {"type": "object"}


def form(**options):
    return RequestForm(
        **{"model": "m", "temperature": 0.0, "max_tokens": 9, "schema": SCHEMA} | options
    )


def test_a_request_holds_what_was_asked_for():
    body = form().body([{"role": "user", "content": "x"}])
    assert body["messages"] == [{"role": "user", "content": "x"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 9)
    assert body["response_format"]["json_schema"] == {
        "name": "labels",
        "strict": True,
        "schema": SCHEMA,
    }
    assert set(form(temperature=None, max_tokens=None).body([])) == {
        "model",
        "messages",
        "response_format",
    }


@pytest.mark.parametrize(
    ("status", "message", "answered", "gives_way"),
    [
        (400, "response_format type must be text", True, True),
        (422, "body.response_format: extra fields", True, True),
        (500, "'type' must be one of json_object", True, True),
        (501, "not implemented", False, True),
        (400, "bad request", False, True),
        (400, "bad request", True, False),
        (400, "maximum context length is 100 tokens", False, False),
        (500, "internal error", False, False),
        (404, "model not found", False, False),
        (429, "response_format", False, False),
        (503, "response_format", False, False),
    ],
)
def test_when_the_form_of_the_answer_gives_way(status, message, answered, gives_way):
    made = form()
    body = made.body([])
    assert made.gives_way(status, message, body, answered=answered) is gives_way
    asked = made.body([])["response_format"]["type"]
    assert asked == FORMS[1 if gives_way else 0]


def test_it_gives_way_once_for_several_that_were_refused_at_once():
    made = form()
    bodies = [made.body([]) for _ in range(3)]
    assert all(made.gives_way(400, "json_schema", b, answered=False) for b in bodies)
    assert made.body([])["response_format"] == {"type": "json_object"}
    assert made.gives_way(400, "json_object", made.body([]), answered=False)
    plain = made.body([])
    assert "response_format" not in plain
    assert not made.gives_way(400, "response_format", plain, answered=False), "nothing is left"


def test_options_give_way_by_name():
    made = form()
    assert made.gives_way(400, "Unsupported value: 'temperature'", made.body([]), answered=True)
    assert "temperature" not in made.body([])
    assert made.gives_way(400, "'max_tokens' is not supported", made.body([]), answered=True)
    renamed = made.body([])
    assert renamed["max_completion_tokens"] == 9 and "max_tokens" not in renamed
    assert not made.gives_way(400, "'max_tokens' again", renamed, answered=True)
    too_long = "maximum context length exceeded; lower max_tokens"
    assert not form().gives_way(400, too_long, form().body([]), answered=True)


def reply(content="{}", ended="stop", refusal=None, **more):
    message = SimpleNamespace(content=content, refusal=refusal)
    choice = SimpleNamespace(message=message, finish_reason=ended)
    return read_reply(SimpleNamespace(choices=[choice], **more), "asked-for")


def test_a_reply_is_read():
    usage = SimpleNamespace(prompt_tokens=7, completion_tokens=3)
    assert reply(usage=usage, model="served") == ("{}", "", 7, 3, "served")
    assert reply() == ("{}", "", 0, 0, "asked-for")


@pytest.mark.parametrize(
    ("completion", "problem"),
    [
        ("<html>", "it is empty"),
        (None, "it is empty"),
        (SimpleNamespace(choices=None), "it is empty"),
        (SimpleNamespace(choices=[]), "it is empty"),
        (SimpleNamespace(choices=[SimpleNamespace()]), "it is empty"),
    ],
)
def test_a_reply_that_is_none_has_a_problem(completion, problem):
    assert read_reply(completion, "m").problem == problem


def test_replies_that_are_no_answers_have_a_problem():
    assert "cut off" in reply(ended="length").problem
    assert "refuses" in reply(ended="content_filter").problem
    assert reply(content=None, refusal="No way.").problem == "the model refuses: No way."
    assert reply(content=" \n").problem == "it is empty"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"message": "no", "code": None}, "no"),
        ({"message": "no", "code": "q", "type": "q", "param": "p"}, "no (q, p)"),
        ({"message": "no response_format", "param": "response_format"}, "no response_format"),
        ({"detail": [{"loc": ["body"]}]}, '{"detail": [{"loc": ["body"]}]}'),
        ("<html>busy", "<html>busy"),
        (None, "null"),
    ],
)
def test_what_a_server_says_of_a_refusal(body, said):
    assert said_by(body) == said


def test_long_messages_are_shortened_to_one_line():
    assert shortened("a\n b\t c") == "a b c"
    assert len(shortened("x " * 1000)) == 203
