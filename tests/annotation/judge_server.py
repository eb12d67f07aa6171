"""A local server that speaks the chat protocol and misbehaves as it is told."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.annotation.test_classifier import SENTENCES

_WORDS = {
    re.compile(re.escape(form).replace(r"\{\}", r"\d+")): label
    for label, forms in SENTENCES.items()
    for form in forms
}


def asked_sentences(body):
    """Number and text of the sentences that a request asks about."""
    message = body["messages"][0]["content"]
    asked = message.split("\nTo be labelled:\n")[1].split("\nAfter (context):\n")[0]
    lines = [line.partition(". ") for line in asked.split("\n")]
    return [(int(number), json.loads(text)) for number, _, text in lines]


def planted_label(text):
    """The label that a sentence of planted chains has."""
    return next(label for words, label in _WORDS.items() if words.fullmatch(text))


def right_answer(body):
    """What a judge without fault would say of planted chains."""
    rows = [{"sentence": n, "label": planted_label(text)} for n, text in asked_sentences(body)]
    return {"labels": rows}


def completion(text, *, ended="stop", refusal=None):
    """A reply of the chat protocol."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "served-model",
        "choices": [{"index": 0, "message": message, "finish_reason": ended}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }


def status(code, message="something is wrong", headers=(), kind=None):
    """A way to answer by an error."""
    error = {"error": {"message": message, "type": kind, "code": kind, "param": None}}
    return lambda server, body: (code, dict(headers), json.dumps(error))


def says(change, **options):
    """A way to answer with what ``change`` makes of the right rows: rows, or a text."""

    def answer(server, body):
        made = change(right_answer(body)["labels"])
        text = made if isinstance(made, str) else json.dumps({"labels": made})
        return 200, {}, json.dumps(completion(text, **options))

    return answer


def hang(server, body):
    """No answer, until the server is closed."""
    server.closing.wait(5)
    return


def drop(server, body):
    """The connection is closed instead of an answer."""
    return


RIGHT = says(lambda rows: rows)


class Server:
    """What was asked of it, and how it answers: ``script`` one by one, then ``otherwise``."""

    def __init__(self, url):
        self.url = url
        self.script = deque()
        self.otherwise = RIGHT
        self.bodies = []
        self.headers = []
        self.busy = self.busiest = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def answer(self, headers, body):
        with self.lock:
            self.headers.append(headers)
            self.bodies.append(body)
            way = self.script.popleft() if self.script else self.otherwise
            self.busy += 1
            self.busiest = max(self.busy, self.busiest)
        try:
            return way(self, body)
        finally:
            with self.lock:
                self.busy -= 1


@contextmanager
def judge_server():
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            assert self.path == "/v1/chat/completions", self.path
            answer = served.answer({k.title(): v for k, v in self.headers.items()}, body)
            self.close_connection = True
            if answer is None:
                return
            code, headers, text = answer
            raw = text.encode()
            self.send_response(code)
            fields = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
            for name, value in {**fields, "Connection": "close", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *words):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            """A client that went away is no news."""

    listening = Quiet(("127.0.0.1", 0), Handler)
    served = Server(f"http://127.0.0.1:{listening.server_port}/v1")
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        listening.shutdown()
        listening.server_close()
        thread.join()


@pytest.fixture
def plain_environment(monkeypatch, tmp_path_factory):
    """Nothing of the machine's settings reaches the client; answers are kept in a new folder."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("STEERKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def server(plain_environment):
    pytest.importorskip("openai", reason="the extra judge is not installed")
    with judge_server() as served:
        yield served
