"""``steerkit annotate --annotator judge``: told what it costs, asked, resumed, reported."""

from __future__ import annotations

import json
import sys

import pytest

import steerkit as sk
from tests.annotation.judge_server import says, status
from tests.annotation.test_classifier import planted

JUDGE = ("--annotator", "judge", "--judge-model", "some-model")


@pytest.fixture
def chains(tmp_path):
    """A file of chains without labels; what is returned has them."""
    made = planted(4)
    sk.write_traces((t.with_spans([], None) for t in made), tmp_path / "chains.jsonl")
    return made


def counts(result):
    """Rows of the table of the estimate."""
    rows = [line.rsplit(None, 1) for line in result.err.splitlines() if line.strip()]
    return {row[0].strip(): row[1] for row in rows if len(row) == 2}


def test_labels_and_tells_what_it_took(run, chains, server, tmp_path):
    words = ["annotate", "chains.jsonl", *JUDGE, "--base-url", server.url]
    result = run(*words, "--yes", "--price", 2, 8)
    assert result.code == 0, result.err
    found = sk.read_traces(tmp_path / "chains.annotated.jsonl")
    assert [t.spans for t in found] == [t.spans for t in chains]
    told = counts(result)
    assert (told["chains"], told["sentences"], told["requests to send"]) == ("4", "40", "4")
    assert float(told["cost, about"]) > 0 and "Based on" in result.err
    assert "4 requests; 0 of 4 kept before; 4,000 + 400 tokens; cost 0.0112" in result.out
    assert "Answered by served-model" in result.out and found[0].annotator in result.out
    again = run(*words, "--json", "--quiet")  # nothing to ask: nothing to confirm
    assert again.code == 0 and again.json == [t.to_json() for t in found]
    assert len(server.bodies) == 4


def test_a_dry_run_asks_nothing_and_writes_nothing(run, chains, server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    words = ["annotate", "chains.jsonl", *JUDGE, "--base-url", server.url, "--dry-run"]
    result = run(*words, "--sentences", 5)
    assert (result.code, result.out) == (0, "")
    assert counts(result)["requests to send"] == "8" and "unknown: give --price" in result.err
    found = run(*words, "--json").json
    assert (found["requests"], found["cached"], found["cost"]) == (4, 0, None)
    assert found["annotator"].startswith("judge:some-model#")
    assert server.bodies == [] and [p.name for p in tmp_path.iterdir()] == ["chains.jsonl"]


@pytest.mark.parametrize(
    ("typed", "code", "requests"), [("y\n", 0, 4), ("\n", 2, 0), ("no\n", 2, 0), ("", 2, 0)]
)
def test_it_asks_before_it_spends(run, chains, server, monkeypatch, typed, code, requests):
    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            return typed

    monkeypatch.setattr(sys, "stdin", Terminal())
    result = run("annotate", "chains.jsonl", *JUDGE, "--base-url", server.url)
    assert result.code == code and "Begin? [y/N]" in result.err
    assert len(server.bodies) == requests
    assert ("nothing was sent" in result.err) == (code == 2)


def test_without_a_terminal_it_wants_to_be_told(run, chains, server, monkeypatch, tmp_path):
    with (tmp_path / "nothing").open("w+") as file:
        monkeypatch.setattr(sys, "stdin", file)
        result = run("annotate", "chains.jsonl", *JUDGE, "--base-url", server.url)
    assert result.code == 2 and "Add --yes" in result.err and server.bodies == []


def test_sentences_without_a_label_are_listed(run, chains, server, tmp_path):
    server.otherwise = says(lambda rows: rows[:-1])
    words = ["annotate", "chains.jsonl", *JUDGE, "--base-url", server.url, "--yes"]
    result = run(*words)
    assert result.code == 0
    assert "warning: 40 sentences were left unparsed" in result.err
    assert result.out.count("left unparsed: ") == 4 and "sentence 10 is missing" in result.out
    assert "12 requests" in result.out and "12 unusable answers" in result.out
    found = sk.read_traces(tmp_path / "chains.annotated.jsonl")
    assert found.counts() == {"unparsed": 40}
    server.otherwise = says(lambda rows: rows)
    assert run(*words).code == 0 and len(server.bodies) == 16


def test_a_server_that_refuses_is_one_line_and_no_file(run, chains, server, tmp_path):
    server.otherwise = status(404, "The model `some-model` does not exist")
    result = run("annotate", "chains.jsonl", *JUDGE, "--base-url", server.url, "--yes", "--quiet")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "does not exist" in result.err and server.url in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["chains.jsonl"]


def test_ctrl_c_says_that_answers_are_kept(run, chains, server, monkeypatch):
    from steerkit.annotation import judge

    def interrupted(*words, **options):
        raise KeyboardInterrupt

    words = ["annotate", "chains.jsonl", *JUDGE, "--base-url", server.url, "--yes"]
    monkeypatch.setattr(judge.Inquiry, "run", interrupted)
    result = run(*words)
    assert result.code == 130 and "answers that came are kept" in result.err
    assert "are kept" not in run(*words, "--no-cache").err


def test_every_option_reaches_the_judge():
    from steerkit.annotation import Price
    from steerkit.cli import build_parser
    from steerkit.cli.judging import given_options, judge_from

    given = {
        "--base-url": ["http://localhost:1/v1"],
        "--key-variable": ["MY_KEY"],
        "--judge-behaviors": ["deduction", "backtracking"],
        "--sentences": ["7"],
        "--context": ["0"],
        "--max-tokens": ["99"],
        "--concurrency": ["3"],
        "--requests-per-minute": ["30"],
        "--tokens-per-minute": ["9000"],
        "--timeout": ["9.5"],
        "--attempts": ["2"],
        "--cache": ["kept"],
        "--price": ["1", "2"],
        "--temperature": ["0.7"],
    }
    words = ["annotate", "x", *JUDGE, *(w for name, v in given.items() for w in (name, *v))]
    arguments = build_parser().parse_args(words)
    made = judge_from(arguments)
    assert set(given_options(arguments)) == {*given, "--judge-model"}
    assert (made.base_url, made.key_variable) == ("http://localhost:1/v1", "MY_KEY")
    assert made.behaviors == ["deduction", "backtracking"]
    assert (made.sentences, made.context, made.max_tokens, made.concurrency) == (7, 0, 99, 3)
    assert (made.requests_per_minute, made.tokens_per_minute) == (30, 9000)
    assert (made.timeout, made.attempts, made.cache) == (9.5, 2, "kept")
    assert (made.price, made.temperature) == (Price(1, 2), 0.7)
    parse = build_parser().parse_args
    assert judge_from(parse([*words[:6], "--temperature", "none"])).temperature is None
    assert judge_from(parse([*words[:6], "--no-cache"])).cache is False
    plain = judge_from(parse(words[:6]))
    assert (plain.temperature, plain.cache, plain.price) == (0.0, True, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--annotator", "judge"], "--judge-model"),
        (["--judge-model", "x"], "--judge-model: not for the annotator grammar"),
        (["--annotator", "rules", "--yes", "--price", "1", "1"], "--price, --yes: not for"),
        ([*JUDGE, "--fit", "chains.jsonl"], "--fit: not for the annotator judge"),
        ([*JUDGE, "--cache", "x", "--no-cache"], "exclude each other"),
        ([*JUDGE, "--temperature", "warm"], "warm"),
        ([*JUDGE, "--price", "-1", "1"], "at least 0"),
        ([*JUDGE, "--context", "-1"], "at least 0"),
        ([*JUDGE, "--requests-per-minute", "0"], "a minute"),
        ([*JUDGE, "--base-url", "localhost"], "such as http://localhost:8000/v1"),
        ([*JUDGE, "--key-variable", "sk-secret", "--yes"], "not the key"),
        ([*JUDGE, "--yes"], "OPENAI_API_KEY"),
        ([*JUDGE, "--judge-behaviors", "musing"], "unknown behaviour 'musing'"),
    ],
)
def test_options_without_effect_or_sense_are_refused(
    run, chains, plain_environment, tmp_path, words, message
):
    pytest.importorskip("openai")
    result = run("annotate", "chains.jsonl", *words)
    assert result.code == 2 and message in result.err, result.err
    assert "sk-secret" not in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["chains.jsonl"]


def test_json_of_a_dry_run_is_one_object(run, chains, plain_environment):
    result = run("annotate", "chains.jsonl", *JUDGE, "--dry-run", "--json")
    assert result.out.count("\n") == 1 and next(iter(json.loads(result.out))) == "annotator"


def test_behaviours_of_the_users_own_are_told_by_their_definitions(run, chains, server):
    words = ["annotate", "chains.jsonl", *JUDGE, "--base-url", server.url, "--yes"]
    result = run(*words, "--declare", "pondering= thinks it over = slowly")
    assert result.code == 0, result.err
    asked = server.bodies[-1]
    assert "- pondering: thinks it over = slowly\n" in asked["messages"][0]["content"]
    entry = asked["response_format"]["json_schema"]["schema"]["properties"]["labels"]["items"]
    assert "pondering" in entry["properties"]["label"]["enum"]
    result = run(*words, "--declare", "checking")
    assert result.code == 2 and "--declare checking='DEFINITION'" in result.err
    assert run(*words, "--declare", "checking", "--judge-behaviors", "deduction").code == 0
    assert "checking" not in server.bodies[-1]["messages"][0]["content"]
