"""``steerkit report``: the library's page, from a folder alone."""

import html
import json
import sys

import pytest

from steerkit.evaluation.record import read_evaluation
from steerkit.report import write_report
from tests.evaluations import SCRIPT, STEERED, planted_evaluation, stored


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Its annotator is one that comes with steerkit: the chains are labelled again."""
    place = tmp_path_factory.mktemp("evaluation")
    small = {"tasks": 6, "controls": 1, "annotators": ("rules",), "behaviors": STEERED[:1]}
    return stored(planted_evaluation(place, **small))


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """Figures take most of the time, and are tested where they are drawn."""
    monkeypatch.setattr("steerkit.report.pictures.figure_bytes", lambda figure, kind: b"figure")


def test_the_page_is_the_librarys(run, folder, tmp_path):
    result = run("report", folder)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"Report: {folder / 'report.html'}\n"
    written = (folder / "report.html").read_bytes()
    again = write_report(read_evaluation(folder), tmp_path / "other" / "report.html")
    assert again.read_bytes() == written
    text = written.decode()
    assert "<script" not in text and text.count('class="chain"') == 10
    assert html.escape(SCRIPT.partition(">")[0]) in text


def test_it_can_go_elsewhere_with_figures_and_tables(run, folder, tmp_path):
    result = run("report", folder, "--out", "page/x.html", "--examples", 1)
    assert result.code == 0, result.err
    page = tmp_path / "page"
    assert (page / "x.html").read_text().count('class="chain"') == 5
    names = {path.name for path in page.iterdir()}
    assert {"x.html", "figures", "verdicts.csv", "generations.csv", "settings.json"} <= names
    assert (page / "verdicts.csv").read_bytes() == (folder / "verdicts.csv").read_bytes()


def test_json_is_one_object_and_nothing_else(run, folder):
    result = run("report", folder, "--json")
    found = json.loads(result.out)
    assert result.out.count("\n") == 1 and list(found) == ["report", "verdicts"]
    table = read_evaluation(folder).verdicts
    assert [row["holds"] for row in found["verdicts"]] == [bool(h) for h in table["holds"]]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere"], "no evaluation here"),
        ([], "no evaluation here"),
        (["--examples", "0"], "at least 1"),
        (["--vectors", "none.safetensors"], "no such vectors file"),
    ],
)
def test_what_cannot_be_done_is_refused(run, folder, tmp_path, words, named):
    place = [folder] if words and words[0].startswith("--") else []
    result = run("report", *place, *words)
    assert result.code == 2 and named in result.err, result.err
    assert result.out == "" and not list(tmp_path.iterdir())


def test_help_needs_no_model(run):
    before = {name for name in sys.modules if name.startswith("steerkit.evaluation")}
    result = run("report", "--help")
    assert result.code == 0 and "No model is loaded" in result.out
    assert {n for n in sys.modules if n.startswith("steerkit.evaluation")} == before
