import io
import json

import pytest
from rich.console import Console

import steerkit as sk
from steerkit.chain_statistics import describe_chains
from steerkit.cli.stats import (
    _beside,
    _positions,
    _print_fitting,
    _shares,
    _transitions,
    group_names,
)
from steerkit.errors import ResourceError
from tests.test_chain_statistics import markov
from tests.tiny import tiny_traces

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def files(tmp_path):
    sk.write_traces(tiny_traces(30), tmp_path / "tiny.jsonl")
    sk.write_traces(markov(25), tmp_path / "planted.jsonl")


def parts(out):
    """Lines of the first two tables."""
    return [[x for x in part.splitlines() if x.strip()] for part in out.split("\n\n")[:2]]


def test_tables_say_what_the_library_says(run, files):
    result = run("stats", "tiny.jsonl")
    assert (result.code, result.err) == (0, "")
    found = describe_chains(tiny_traces(30))
    often, where = ({line.split()[0]: line.split() for line in part} for part in parts(result.out))
    shares = found.shares.query("unit == 'spans'").set_index("behavior")
    places = found.positions.set_index("behavior")
    for name in ("deduction", "backtracking"):
        assert int(often[name][1].replace(",", "")) == shares.loc[name, "count"]
        assert float(often[name][2]) == pytest.approx(100 * shares.loc[name, "share"], abs=0.06)
        assert float(where[name][2]) == pytest.approx(places.loc[name, "mean"], abs=0.006)
        assert float(where[name][6]) == pytest.approx(places.loc[name, "median"], abs=0.006)
    matrix, counts = found.matrix(), found.matrix(values="count")
    cell = f"{100 * matrix.loc['deduction', 'backtracking']:.0f} "
    assert cell + f"({counts.loc['deduction', 'backtracking']})" in result.out
    assert "chains of 30 tasks, 0 chains without any; models: unknown" in result.out


@pytest.mark.parametrize("width", [74, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_tables_fit_the_terminal_and_are_whole_in_a_file(files, width, terminal):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=width, color_system=None)
    found = describe_chains({name: tiny_traces(300) for name in ("a" * 20, "b" * 20)})
    for name in found.groups:
        console.print(_shares(found, name))
        console.print(_positions(found, name))
        _print_fitting(console, *(_transitions(found, name, counts=c) for c in (True, False)))
    _print_fitting(console, *(_beside(found, intervals=i) for i in (True, False)))
    printed = screen.getvalue()
    assert "\u2026" not in printed, "something was cut"
    if terminal:
        assert max(map(len, printed.splitlines())) <= width
    assert ("(" in printed.replace("(start)", "").replace("(end)", "")) == (
        width == 200 or not terminal
    )


def test_files_stand_side_by_side(run, files):
    result = run("stats", "tiny.jsonl", "planted.jsonl")
    assert result.code == 0
    assert "side by side" in result.out
    head = next(line for line in result.out.splitlines() if "tiny" in line and "planted" in line)
    assert head.split() == ["share", "of", "spans", "tiny", "planted"]
    assert result.out.count("what follows, in %") == 2


def test_json_is_one_object(run, files):
    result = run("stats", "tiny.jsonl", "planted.jsonl", "--json", "--resamples", 50)
    groups = {"tiny": tiny_traces(30), "planted": markov(25)}
    expected = describe_chains(groups, resamples=50).to_json()
    assert result.json == json.loads(
        json.dumps({**expected, "unplaced": {"tiny": 0, "planted": 0}, "plot": None})
    )
    assert result.err == ""


def test_the_figure_is_drawn(run, files, tmp_path):
    result = run("stats", "tiny.jsonl", "planted.jsonl", "--plot", "out/stats.png")
    assert result.code == 0 and "Figure: out/stats.png" in result.out
    assert (tmp_path / "out" / "stats.png").read_bytes().startswith(SIGNATURE)


def test_groups_are_named_after_their_files():
    assert group_names(["a/x.jsonl", "b/y.jsonl"]) == ["x", "y"]
    assert group_names(["a/x.jsonl", "b/x.jsonl", "y.json"]) == ["a/x.jsonl", "b/x.jsonl", "y"]
    with pytest.raises(ResourceError, match="named twice"):
        group_names(["a.jsonl", "a.jsonl"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jsonl"], "no such file"),
        (["bare.jsonl"], "bare: no labelled span"),
        (["tiny.jsonl", "--plot", "tiny.jsonl"], "overwrite"),
        (["tiny.jsonl", "--plot", "x.gif"], "not a format for figures"),
    ],
)
def test_what_cannot_be_counted_is_one_message(run, files, tmp_path, words, message):
    sk.write_traces((t.with_spans([], None) for t in tiny_traces(3)), tmp_path / "bare.jsonl")
    result = run("stats", *words)
    assert result.code == 2 and message in result.err and result.out == "", result.err
    assert "Traceback" not in result.err
