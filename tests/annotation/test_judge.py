"""The judge: right labels from a server that answers, and none that are guessed from one that
does not; nothing is asked twice, and the key is nowhere."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from steerkit.annotation import Annotator, Judge, Price, annotate
from steerkit.annotation.judge_cost import CHARACTERS_PER_TOKEN, TOKENS_AROUND, TOKENS_PER_LABEL
from steerkit.behaviors import UNPARSED, Behavior, declare
from steerkit.errors import AnnotationError, BehaviorError
from steerkit.traces import Trace, Traces, read_traces, write_traces
from tests.annotation.judge_server import RIGHT, completion, drop, hang, says, status
from tests.annotation.test_classifier import planted
from tests.annotation.test_rate_limit import Still

KEY = "sk-secret0123456789"


def judge(server, **options):
    quick = {"backoff": 0.001, "timeout": 5.0, "base_url": server.url}
    return Judge(**{"model": "some-model", **quick, **options})


def labels(traces):
    return [[span.label for span in trace.spans] for trace in traces]


# -- a server that answers


def test_it_labels_sentences_as_the_model_says(server):
    chains = planted(5)
    made = judge(server)
    assert isinstance(made, Annotator)
    found = annotate(chains, made)
    assert labels(found) == labels(chains)
    assert [t.spans for t in found] == [t.spans for t in chains], "sentences are the planted spans"
    assert {t.annotator for t in found} == {made.name}
    assert made.report.requests == made.report.pieces == 5 and made.report.failures == []
    assert (made.report.prompt_tokens, made.report.answer_tokens) == (5000, 500)
    assert dict(made.report.served) == {"served-model": 5}
    body = server.bodies[0]
    assert body["model"] == "some-model" and body["temperature"] == 0
    assert body["response_format"]["type"] == "json_schema"
    assert set(body) == {"model", "temperature", "messages", "response_format"}
    # positive control: another answer gives other labels
    server.otherwise = says(lambda rows: [{**row, "label": "backtracking"} for row in rows])
    other = annotate(chains, judge(server, cache=False))
    assert {label for chain in labels(other) for label in chain} == {"backtracking"}


def test_spans_that_are_there_can_be_kept(server):
    chains = planted(2)
    few = Traces(t.with_spans(t.spans[:3], "x") for t in chains)
    found = annotate(few, judge(server), keep_spans=True)
    assert [t.spans for t in found] == [t.spans[:3] for t in chains]


def test_long_chains_are_sent_in_parts(server):
    chains = planted(3)
    made = judge(server, sentences=4)
    found = annotate(chains, made)
    assert labels(found) == labels(chains)
    assert made.report.requests == 9, "three parts of each chain of ten sentences"


def test_chains_without_sentences_are_not_asked_about(server):
    empty = Trace("e", "e", "<think></think>Yes.")
    some = planted(1)[0]
    found = annotate([empty, some, empty], judge(server))
    assert labels(found) == [[], labels([some])[0], []] and len(server.bodies) == 1
    assert annotate([empty], judge(server, cache=False))[0].spans == ()
    assert len(server.bodies) == 1


def test_a_model_may_abstain(server):
    server.otherwise = says(lambda rows: [{**row, "label": "unparsed"} for row in rows])
    made = judge(server)
    found = annotate(planted(1), made)
    assert set(labels(found)[0]) == {UNPARSED} and made.report.failures == []


def test_requests_run_side_by_side_as_far_as_allowed(server):
    def slow(server, body):
        time.sleep(0.03)
        return RIGHT(server, body)

    server.otherwise = slow
    annotate(planted(12), judge(server, concurrency=3))
    assert 2 <= server.busiest <= 3


# -- a server that misbehaves


FAULTS = {
    "too many requests": status(429, headers={"Retry-After": "0"}),
    "error 500": status(500),
    "overloaded": status(529),
    "a page of html": lambda server, body: (503, {"Content-Type": "text/html"}, "<html>busy"),
    "no answer in time": hang,
    "connection closed": drop,
    "not json": lambda server, body: (200, {}, '{"choices": [{"mess'),
    "html for an answer": lambda server, body: (200, {"Content-Type": "text/html"}, "<html>"),
    "no choices": lambda server, body: (200, {}, json.dumps({**completion(""), "choices": []})),
    "truncated json": says(lambda rows: json.dumps({"labels": rows})[:-25]),
    "cut off by a limit": says(lambda rows: rows, ended="length"),
    "filtered": says(lambda rows: rows, ended="content_filter"),
    "refusal": says(lambda rows: "", refusal="I can't help with that."),
    "empty": says(lambda rows: " "),
    "prose": says(lambda rows: "The first sentence deduces, the second doubts."),
    "unknown label": says(lambda rows: [{**row, "label": "musing"} for row in rows]),
    "no such sentence": says(lambda rows: [*rows, {"sentence": 99, "label": "deduction"}]),
    "sentence missing": says(lambda rows: rows[1:]),
    "sentence twice": says(lambda rows: [rows[0], *rows]),
    "shifted by one": says(lambda rows: [{**r, "sentence": r["sentence"] + 1} for r in rows]),
}
BY_FAULT = pytest.mark.parametrize("fault", FAULTS)


@BY_FAULT
def test_a_fault_that_passes_costs_nothing_but_a_request(server, fault):
    chains = planted(2)
    server.script.append(FAULTS[fault])
    made = judge(server, concurrency=1, timeout=0.5 if fault == "no answer in time" else 5.0)
    assert labels(annotate(chains, made)) == labels(chains)
    assert len(server.bodies) == made.report.requests == 3
    assert made.report.failures == []


@BY_FAULT
def test_a_fault_that_stays_leaves_sentences_unparsed_and_says_so(server, fault, caplog):
    """Of one chain only: the server answers for the others."""
    chains = planted(3)
    others = chains[0].response + chains[2].response
    texts = [chains[1].response[s.start : s.end] for s in chains[1].spans]
    poison = next(text for text in texts if text not in others)

    def answer(server, body):
        bad = poison in body["messages"][0]["content"]
        return (FAULTS[fault] if bad else RIGHT)(server, body)

    server.otherwise = answer
    patience = 0.5 if fault == "no answer in time" else 5.0
    made = judge(server, attempts=2, answers=2, concurrency=1, timeout=patience)
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        found = annotate(chains, made)
    truth = labels(chains)
    assert labels(found) == [truth[0], [UNPARSED] * 10, truth[2]]
    assert [s[:2] for t in found for s in _bounds(t)] == [s for t in chains for s in _bounds(t)]
    (failure,) = made.report.failures
    assert failure.trace == chains[1].id and failure.sentences == tuple(range(1, 11))
    assert "sentences 1-10" in str(failure) and failure.reason
    assert made.report.left_out == 10 and "10 sentences were left unparsed" in caplog.text
    # nothing bad was kept: with a better server the same call asks for this chain alone
    server.otherwise = RIGHT
    before = len(server.bodies)
    assert labels(annotate(chains, judge(server))) == truth
    assert len(server.bodies) == before + 1


def _bounds(trace):
    return [(span.start, span.end) for span in trace.spans]


def test_a_label_that_is_none_costs_its_own_sentence_alone(server):
    server.otherwise = says(lambda rows: [*rows[:3], {**rows[3], "label": "musing"}, *rows[4:]])
    chains = planted(1)
    made = judge(server)
    expected = labels(chains)[0]
    expected[3] = UNPARSED
    assert labels(annotate(chains, made)) == [expected]
    assert made.report.failures[0].sentences == (4,) and len(server.bodies) == 3
    assert "'musing'" in str(made.report.failures[0])
    assert "sentence 4:" in str(made.report.failures[0])


def test_what_was_wrong_is_told_to_the_model(server):
    server.script.append(FAULTS["sentence missing"])
    annotate(planted(1), judge(server))
    first, second = server.bodies
    assert second["messages"][0] == first["messages"][0]
    said, told = second["messages"][1:]
    assert said["role"] == "assistant" and json.loads(said["content"])
    assert told["role"] == "user" and "sentence 1 is missing" in told["content"]


def test_a_server_that_is_down_ends_the_run(plain_environment):
    pytest.importorskip("openai")
    nowhere = Judge("m", "http://127.0.0.1:9/v1", attempts=2, backoff=0.001, concurrency=2)
    for count in (1, 2, 50):
        with pytest.raises(AnnotationError, match="does not answer") as caught:
            annotate(planted(count), nowhere)
        assert "127.0.0.1:9" in str(caught.value) and "no connection" in str(caught.value)
    assert nowhere.report.requests <= 12


def test_a_server_that_goes_down_ends_the_run_and_answers_are_kept(server):
    chains = planted(20)
    server.script.extend([RIGHT] * 6)
    server.otherwise = status(500)
    with pytest.raises(AnnotationError, match="does not answer"):
        annotate(chains, judge(server, attempts=2, concurrency=2))
    server.otherwise = RIGHT
    made = judge(server)
    assert labels(annotate(chains, made)) == labels(chains)
    # one more may have been under way when it ended
    assert made.report.cached in (6, 7) and made.report.requests == 20 - made.report.cached


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (status(401, "bad key"), "--key-variable"),
        (status(402), "account"),
        (status(403), "allows"),
        (status(404, "no such model"), "no such model"),
        (status(429, "You exceeded your quota", kind="insufficient_quota"), "quota is used up"),
        (status(429, headers={"Retry-After": "3600"}), "wait 3,600 seconds"),
    ],
)
def test_what_no_retry_can_mend_ends_the_run_at_once(server, way, words):
    server.otherwise = way
    with pytest.raises(AnnotationError, match=words) as caught:
        annotate(planted(5), judge(server, concurrency=1))
    assert len(server.bodies) == 1 and "127.0.0.1" in str(caught.value)


def test_a_request_that_is_refused_is_not_sent_again(server):
    """As one that is too long for the model: once, and the others go on."""
    chains = planted(2)
    server.script.extend([RIGHT, status(400, "maximum context length is 10 tokens")])
    made = judge(server, concurrency=1)
    assert labels(annotate(chains, made)) == [labels(chains)[0], [UNPARSED] * 10]
    assert len(server.bodies) == 2 and "maximum context length" in made.report.failures[0].reason


# -- servers that know less


def test_answers_are_asked_for_as_the_server_can_give_them(server, caplog):
    def no_schema(server, body):
        form = body.get("response_format", {}).get("type")
        if form == "json_schema":  # as some servers put it
            return status(500, "response_format type must be text or json_object")(server, body)
        if form == "json_object":
            return status(400, "unexpected field")(server, body)
        return says(lambda rows: f"Sure!\n```json\n{json.dumps({'labels': rows})}\n```")(
            server, body
        )

    server.otherwise = no_schema
    chains = planted(4)
    with caplog.at_level(logging.WARNING, logger="steerkit"):
        assert labels(annotate(chains, judge(server, concurrency=1))) == labels(chains)
    forms = [body.get("response_format", {}).get("type") for body in server.bodies]
    assert forms == ["json_schema", "json_object", None, None, None, None]
    assert caplog.text.count("the server refuses") == 2


def test_options_that_a_model_refuses_are_left_out(server):
    def newer(server, body):
        for option in ("temperature", "max_tokens"):
            if option in body:
                return status(400, f"Unsupported value: '{option}'")(server, body)
        return RIGHT(server, body)

    server.otherwise = newer
    chains = planted(3)
    made = judge(server, max_tokens=500, concurrency=1)
    assert labels(annotate(chains, made)) == labels(chains)
    assert len(server.bodies) == 5 and server.bodies[-1]["max_completion_tokens"] == 500
    server.bodies.clear()
    server.otherwise = RIGHT
    annotate(chains, judge(server, temperature=None, cache=False))
    assert "temperature" not in server.bodies[0]


# -- patience


def test_it_waits_as_long_as_the_server_says_and_longer_each_time(server):
    server.script.extend([status(429, headers={"Retry-After": "7"})])
    clock = Still()
    annotate(planted(1), judge(server, clock=clock, backoff=1.0))
    assert sum(clock.slept) == pytest.approx(7)
    server.script.extend([status(500)] * 4)
    clock = Still()
    annotate(planted(1), judge(server, clock=clock, backoff=1.0, cache=False))
    assert len(clock.slept) == 4
    for slept, longest in zip(clock.slept, (1, 2, 4, 8), strict=True):
        assert longest / 2 <= slept <= longest


def test_rate_limits_pace_requests(server):
    clock = Still()
    annotate(planted(4), judge(server, clock=clock, requests_per_minute=6, concurrency=1))
    assert clock.slept == [10, 10, 10]
    clock = Still()
    made = judge(server, clock=clock, tokens_per_minute=1000, concurrency=1, cache=False)
    annotate(planted(2), made)
    message = server.bodies[-2]["messages"][0]["content"]
    tokens = len(message) / CHARACTERS_PER_TOKEN + 10 * TOKENS_PER_LABEL + TOKENS_AROUND
    assert clock.slept == [pytest.approx(60 * tokens / 1000)]


# -- kept answers


def test_nothing_is_asked_twice(server, monkeypatch):
    chains = planted(4)
    first = judge(server)
    expected = annotate(chains, first)
    count = len(server.bodies)
    again = judge(server)
    assert annotate(chains, again) == expected and len(server.bodies) == count
    assert (again.report.requests, again.report.cached, again.report.pieces) == (0, 4, 4)
    # not even the client is needed, nor the order and ids of before
    monkeypatch.setitem(sys.modules, "openai", None)
    renamed = [Trace(f"new {t.id}", t.task_id, t.response) for t in reversed(chains)]
    assert labels(annotate(renamed, judge(server))) == labels(reversed(chains))


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"temperature": 0.5},
        {"max_tokens": 100},
        {"behaviors": ["deduction", "backtracking", "uncertainty"]},
        {"sentences": 5},
        {"cache": False},
    ],
)
def test_another_question_is_asked_anew(server, other):
    chains = planted(1)
    annotate(chains, judge(server))
    count = len(server.bodies)
    annotate(chains, judge(server, **other))
    assert len(server.bodies) > count


def test_kept_answers_hold_labels_and_nothing_of_the_chains(
    server, plain_environment, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    chains = planted(2)
    annotate(chains, judge(server, key_variable="MY_KEY", cache=tmp_path / "kept"))
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        record = json.loads(path.read_text())
        assert set(record) == {"format", "labels", "served", "prompt_tokens", "answer_tokens"}
        assert len(record["labels"]) == 10
    assert not list(plain_environment.iterdir()), "the usual folder is left alone"


def test_a_run_that_was_interrupted_goes_on(server):
    chains = planted(6)
    server.script.extend([RIGHT, RIGHT, RIGHT, hang])

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(chains, judge(server, concurrency=1), progress=stop)
    assert len(server.bodies) <= 4
    made = judge(server)
    server.script.clear()
    assert labels(annotate(chains, made)) == labels(chains)
    assert (made.report.cached, made.report.requests) == (3, 3)


KILLED = """
import sys
from steerkit.annotation import Judge, annotate
from steerkit.traces import read_traces
judge = Judge("some-model", sys.argv[2], concurrency=1)
annotate(read_traces(sys.argv[1]), judge, progress=lambda done, total: print(done, flush=True))
"""


def test_a_run_that_was_killed_goes_on(server, tmp_path):
    chains = planted(6)
    path = write_traces((t.with_spans([], None) for t in chains), tmp_path / "chains.jsonl")
    server.script.extend([RIGHT, RIGHT, hang])
    root = Path(__file__).parents[2]
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), server.url],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with run:
        assert run.stdout.readline() == "1\n" and run.stdout.readline() == "2\n"
        run.send_signal(signal.SIGKILL)
    server.script.clear()
    made = judge(server)
    assert labels(annotate(read_traces(path), made)) == labels(chains)
    assert (made.report.cached, made.report.requests) == (2, 4)


# -- the key


def echo(code):
    """Answers that repeat the key, as careless servers and proxies do."""

    def answer(server, body):
        key = server.headers[-1]["Authorization"]
        message = f"Incorrect API key provided: {key}"
        if code == 200:
            return says(lambda rows: [{**r, "label": key[-30:]} for r in rows])(server, body)
        if code == 201:
            return says(lambda rows: "", refusal=message)(server, body)
        return status(code, message)(server, body)

    return answer


@pytest.mark.parametrize("code", [200, 201, 400, 401, 403, 429, 500])
def test_the_key_is_nowhere(server, tmp_path, monkeypatch, caplog, capfd, code):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    chains = planted(2)
    server.script.extend([RIGHT])
    server.otherwise = echo(code)
    options = {"attempts": 2, "backoff": 0.001, "concurrency": 1, "cache": tmp_path / "kept"}
    made = Judge("some-model", **options)
    seen = [repr(made), repr(made.report), made.name]
    with caplog.at_level(logging.DEBUG):
        try:
            found = annotate(chains, made)
            write_traces(found, tmp_path / "out.jsonl")
        except AnnotationError:
            seen.append(traceback.format_exc())
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}", "positive control: it was sent"
    assert len(seen) == 4 or made.report.failures
    seen += [repr(made), repr(made.report), str(made.report.failures), caplog.text]
    seen += [str(vars(made)), *capfd.readouterr()]
    for path in tmp_path.rglob("*"):
        seen.append(str(path))
        if path.is_file():
            seen.append(path.read_text())
    assert not any(KEY in text or KEY[3:] in text for text in seen)


def test_a_key_goes_nowhere_that_it_was_not_meant_for(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MY_KEY", "mine")
    annotate(planted(1), judge(server))
    assert KEY not in str(server.headers)
    annotate(planted(1), judge(server, key_variable="MY_KEY", cache=False))
    assert server.headers[-1]["Authorization"] == "Bearer mine"
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    annotate(planted(1), Judge("m", cache=False))
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "caf\u00e9-key"])
def test_a_key_that_is_none_is_asked_for_by_its_variable(server, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(AnnotationError, match="MY_KEY") as caught:
        annotate(planted(1), judge(server, key_variable="MY_KEY"))
    assert not value or not value.strip() or value not in str(caught.value)
    assert server.bodies == []


def test_a_key_given_for_the_name_of_its_variable_is_not_repeated():
    with pytest.raises(AnnotationError, match="name of the variable") as caught:
        Judge("m", key_variable=KEY)
    assert KEY not in str(caught.value)


def test_credentials_in_an_address_are_used_and_never_shown(server):
    with_password = server.url.replace("http://", "http://user:pass-word@")
    made = judge(server, base_url=with_password)
    assert labels(annotate(planted(1), made)) == labels(planted(1))
    assert server.headers[0]["Authorization"].startswith("Basic ")
    assert made.name == judge(server).name, "the same server"
    server.otherwise = status(404, "no such model")
    with pytest.raises(AnnotationError) as caught:
        annotate(planted(2), made)
    assert "pass-word" not in repr(made) + str(caught.value) + made.name
    for strange in ("ftp://x/v1", "localhost:8000", "http://", "http://x/v1?key=abc", "http://x:y"):
        with pytest.raises(AnnotationError, match="address") as caught:
            judge(server, base_url=strange)
        assert "abc" not in str(caught.value)


# -- without asking


def test_the_estimate_asks_nothing(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    chains = planted(6)
    made = judge(server, sentences=5, price=Price(2.0, 8.0))
    found = made.estimate(chains)
    assert (found.chains, found.sentences, found.requests, found.cached) == (6, 60, 12, 0)
    assert found.cost == pytest.approx((2 * found.prompt_tokens + 8 * found.answer_tokens) / 1e6)
    assert server.bodies == [] and "characters a token" in found.basis
    assert judge(server).estimate(chains).cost is None


def test_the_estimate_leaves_out_what_is_kept_and_is_near_what_is_sent(server):
    chains = planted(6)
    made = judge(server, price=Price(2.0, 8.0))
    annotate(chains[:2], made)
    assert made.report.cost == pytest.approx(2 * (2 * 1000 + 8 * 100) / 1e6)
    found = made.estimate(chains)
    assert (found.requests, found.cached, found.sentences) == (4, 2, 60)
    server.bodies.clear()
    annotate(chains, made)
    sent = sum(len(body["messages"][0]["content"]) for body in server.bodies)
    assert found.prompt_tokens == pytest.approx(sent / CHARACTERS_PER_TOKEN, abs=1)
    assert made.estimate(chains).requests == made.estimate(chains).prompt_tokens == 0
    assert made.estimate([]).sentences == 0


def test_the_package_that_is_missing_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(AnnotationError, match=r"steerkit-thinking\[judge\]"):
        annotate(planted(1), judge(server))


def test_the_name_tells_judges_apart(server):
    def name(**options):
        return judge(server, **options).name

    assert name() == name(concurrency=9, attempts=1, cache=False, price=Price(1, 1))
    assert name().startswith("judge:some-model#")
    others = [
        name(model="another"),
        name(base_url="http://localhost:1/v1"),
        name(temperature=0.7),
        name(temperature=None),
        name(max_tokens=100),
        name(sentences=10),
        name(context=0),
        name(behaviors=["deduction", "backtracking"]),
    ]
    declare(Behavior("checking", "verifies a result"))
    others.append(name())
    assert len({name(behaviors="deduction"), *others}) == 10


@pytest.mark.parametrize(
    ("options", "words", "error"),
    [
        ({"model": " "}, "name of a model", AnnotationError),
        ({"sentences": 0}, "sentences is too small", AnnotationError),
        ({"concurrency": 0}, "concurrency", AnnotationError),
        ({"context": -1}, "context", AnnotationError),
        ({"timeout": 0.0}, "timeout", AnnotationError),
        ({"requests_per_minute": 0.0}, "a minute", AnnotationError),
        ({"behaviors": []}, "behaviours to choose from", AnnotationError),
        ({"behaviors": ["daydreaming"]}, "daydreaming", BehaviorError),
        ({"price": (-1.0, 0.0)}, "price", AnnotationError),
    ],
)
def test_settings_without_sense_are_refused(options, words, error):
    if "price" in options:
        with pytest.raises(error, match=words):
            Price(*options["price"])
        return
    with pytest.raises(error, match=words):
        Judge(**{"model": "m", **options})


def test_it_is_no_bundled_name():
    with pytest.raises(AnnotationError, match=r"Judge\(model\)"):
        annotate(planted(1), "judge:gpt")
