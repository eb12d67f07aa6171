import io
import json

import pytest
from rich.console import Console

import steerkit as sk
from steerkit.behaviors import behavior
from steerkit.cli.chain_rows import print_chain, rows
from steerkit.viewing import show
from tests.tiny import SENTENCES, tiny_traces
from tests.viewing.chains import HOSTILE, ONE, OTHER, PLAIN, Page


@pytest.fixture
def files(tmp_path):
    sk.write_traces(ONE, tmp_path / "one.jsonl")
    sk.write_traces(OTHER, tmp_path / "other.jsonl")
    sk.write_traces(tiny_traces(8), tmp_path / "tiny.jsonl")


def printed(chain, annotators, labels=(), width=100, colors=True):
    """What a terminal of this width gets."""
    screen = io.StringIO()
    system = "truecolor" if colors else None
    console = Console(
        file=screen, force_terminal=True, width=width, color_system=system, highlight=False
    )
    print_chain(console, chain, annotators, labels)
    return screen.getvalue()


def test_every_stretch_is_a_row_with_its_label(run, files):
    result = run("show", "one.jsonl")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].split() == ["a", "puzzle"] and lines[1] == ONE[0].prompt
    found = [tuple(line.split(maxsplit=1)) for line in lines[3:8]]
    expected = [(s.label, PLAIN[s.start : s.end]) for s in ONE[0].spans]
    assert found == expected
    assert lines[8].strip() == "</think>" and lines[9].strip() == "29"
    assert "a bare chain" in result.out and "[cut off by the token limit]" in result.out
    assert "deduction 3" in result.out and "labelled by first (one.jsonl)" in result.out


def test_the_same_for_machines(run, files):
    result = run("show", "one.jsonl", "other.jsonl", "--json", "--count", "1")
    assert result.code == 0, result.err
    (chain,) = result.json["chains"]
    view = show(ONE, OTHER)
    expected = [(row.text, list(row.labels), row.kind) for row in rows(view.chains[0])]
    assert [(row["text"], row["labels"], row["kind"]) for row in chain["rows"]] == expected
    assert (chain["id"], chain["prompt"]) == (ONE[0].id, ONE[0].prompt)
    assert len(result.json["annotators"]) == 2 and result.json["left"] == len(ONE) - 1
    labelled = sum(1 for span in ONE[0].spans if span.label == "deduction")
    assert result.json["counts"]["deduction"][0] == labelled
    both = run("show", "one.jsonl", "--json", "--html", "page.html")
    assert both.code == 2 and "exclude each other" in both.err


def test_nothing_of_the_text_is_lost_but_white_space():
    for chain in show(ONE, OTHER).chains:
        text = "".join(row.text for row in rows(chain))
        assert "".join(text.split()).replace("\u241b", "\x1b") == "".join(
            chain.trace.response.split()
        )


def test_a_terminal_obeys_nothing_that_a_model_wrote(run, files):
    result = run("show", "one.jsonl", "--chain", "<b>")
    assert "\x1b" not in result.out and "\u241b[31m7" in result.out
    assert "<script>" in result.out, "as text"
    shown = printed(show(ONE[1]).chains[0], ["first"])
    assert "\x1b[31m" not in shown and HOSTILE.count("\x1b") == 1


def test_colours_are_the_behaviours():
    shown = printed(show(ONE[0]).chains[0], ["first"])
    for name in ("deduction", "backtracking"):
        color = behavior(name).color
        code = ";".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))
        assert f";48;2;{code}m{name}" in shown
    assert "48;2" not in printed(show(ONE[0]).chains[0], ["first"], colors=False)
    # with a label asked for, only this has its colour
    alone = printed(show(ONE[0]).chains[0], ["first"], labels=["backtracking"])
    assert 0 < alone.count("48;2") < shown.count("48;2")


def test_annotators_stand_side_by_side_and_differences_have_a_sign(run, files):
    result = run("show", "one.jsonl", "other.jsonl", "--chain", "a")
    lines = [line.split() for line in result.out.splitlines() if line.strip()]
    words = PLAIN[: PLAIN.index(" 3 * 7")].split()
    assert ["initializing", "initializing", *words] in lines
    assert ["uncertainty-estimation", "backtracking", "\u2260", "Maybe", "not."] in lines
    assert ["backtracking", "backtracking", "Wait,", "no."] in lines
    assert ["deduction", "unparsed", "\u2260", "21", "+", "8", "=", "29."] in lines
    assert "A: first (one.jsonl)" in result.out and "B: second (other.jsonl)" in result.out
    assert "has 1 others" in result.out
    # not asked for is not missing
    assert "lacks 0 of the chains shown" in result.out


def test_labels_stand_above_where_the_terminal_is_narrow():
    lines = printed(show(ONE[0]).chains[0], ["first"], width=50, colors=False).splitlines()
    at = next(n for n, line in enumerate(lines) if line.strip() == "backtracking")
    assert lines[at + 1].strip() == "Wait, no."


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_is_wider_than_the_terminal(width):
    for chain in show(ONE, OTHER).chains:
        for line in printed(chain, ["first", "second"], width=width, colors=False).splitlines():
            assert len(line) <= width


def test_chains_are_chosen_by_label_id_and_count(run, files):
    assert run("show", "tiny.jsonl").out.count("Use ") == 3
    assert "5 more chains: --count N shows more" in run("show", "tiny.jsonl").out
    assert run("show", "tiny.jsonl", "--count", 5).out.count("Use ") == 5
    found = run("show", "one.jsonl", "--label", "uncertainty").out
    assert ONE[0].prompt in found and "<script>" not in found and "more chain" not in found
    both = run("show", "one.jsonl", "--label", "uncertainty", "--label", "deduction").out
    assert ONE[0].prompt in both and "<script>" in both and "[cut off" not in both
    one = run("show", "tiny.jsonl", "--chain", "chain-3", "--chain", "chain-5").out
    assert one.count("Use ") == 2 and "Use 3," in one and "Use 5," in one


def test_the_page_has_all_chains_and_those_asked_for(run, files, tmp_path):
    result = run("show", "one.jsonl", "other.jsonl", "--html", "out/page.html")
    assert result.code == 0 and "Page: out/page.html (3 chains)" in result.out
    assert "takes a tokenizer" in result.out
    page = Page((tmp_path / "out" / "page.html").read_text())
    assert len(page.all("article")) == 3
    assert [h.text for h in page.all("h3")][:2] == ["first (one.jsonl)", "second (other.jsonl)"]
    run("show", "one.jsonl", "--html", "few.html", "--label", "backtracking", "--count", 1)
    few = Page((tmp_path / "few.html").read_text())
    assert [a["data-id"] for a in few.all("article")] == ["a"]


def test_the_page_knows_the_tokens_of_a_model(run, files, tmp_path, model_folder, vectors):
    words = ["show", "tiny.jsonl", "--html", "page.html", "--model", model_folder]
    assert run(*words).code == 0
    page = Page((tmp_path / "page.html").read_text())
    assert page.all("i", cls="r") and not page.all("select", id="under")
    result = run(*words, "--vectors", vectors)
    assert result.code == 0, result.err
    page = Page((tmp_path / "page.html").read_text())
    assert len(page.all("select", id="under")) == 1
    values = json.loads(page.all("script", id="values")[0].text)
    assert len(values["directions"]) == len(SENTENCES) and len(values["values"]) == 8
    other = run(*words, "--window", "0,2")
    assert other.code == 0
    assert "at most 2 of its own" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jsonl"], "no such file"),
        (["one.jsonl", "--chain", "x"], "no chain 'x'"),
        (["one.jsonl", "--label", "adding-knowledge"], "no chain has adding-knowledge"),
        (["one.jsonl", "--label", "reflection"], "unknown behaviour"),
        (["one.jsonl", "tiny.jsonl"], "no chain in common"),
        (["one.jsonl", "--html", "one.jsonl"], "overwrite"),
        (["one.jsonl", "--model", "countdown-thinking"], "--model is for pages"),
        (["one.jsonl", "--vectors", "x"], "--vectors is for pages"),
        (["one.jsonl", "--html", "p.html", "--vectors", "x"], "Give --model"),
        (["one.jsonl", "--html", "p.html", "--window", "1,2"], "Give --model"),
        (["one.jsonl", "--html", "p.html", "--model", "/no/x"], "cannot load the tokenizer"),
        (
            ["one.jsonl", "--html", "p.html", "--model", "countdown-thinking", "--window", "x"],
            "not a window",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_message(run, files, tmp_path, words, message):
    result = run("show", *words)
    assert result.code == 2 and message in result.err, result.err
    assert "Traceback" not in result.err and not (tmp_path / "p.html").exists()


def test_own_labels_are_declared(run, files, tmp_path):
    sk.declare(sk.Behavior("checking", "checks"))
    spans = [sk.Span(0, 10, "checking")]
    sk.write_traces([ONE[0].with_spans(spans, "me")], tmp_path / "own.jsonl")
    result = run("show", "own.jsonl", "--declare", "checking")
    assert result.code == 0 and "checking" in result.out


def test_chains_without_labels_are_shown_as_they_are(run, tmp_path):
    (tmp_path / "chain.txt").write_text("Wait.\nNo.")
    result = run("show", "chain.txt")
    assert result.code == 0 and "Wait." in result.out and "no spans" in result.out
