"""The report: what it says is what was measured, and it runs and loads nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

import steerkit as sk
from steerkit.errors import EvaluationError
from steerkit.report.numbers import percent, points
from tests.browser import Browser, find_browser
from tests.evaluations import (
    GRAMMAR,
    RULES,
    SCRIPT,
    STEERED,
    planted_evaluation,
    without_settings,
)
from tests.test_plots import made as made_vectors

PARTS = (
    "claims",
    "dose",
    "controls",
    "specificity",
    "cost",
    "directions",
    "examples",
    "annotators",
    "censored",
    "again",
)


class Page(HTMLParser):
    """Tags with their attributes, text by the section it stands in, and all of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.parts, self._part = "", dict.fromkeys(PARTS, ""), None
        self._silent = False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self._silent = tag == "style"
        if tag == "section":
            self._part = found["aria-labelledby"]

    def handle_endtag(self, tag):
        self._silent = False
        if tag == "section":
            self._part = None

    def handle_data(self, data):
        if not self._silent:
            self.text += data
            if self._part:
                self.parts[self._part] += data

    def all(self, tag):
        return [found for name, found in self.tags if name == tag]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return planted_evaluation(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def path(evaluation):
    vectors = made_vectors(names=("backtracking", "uncertainty-estimation"), layer=2)
    return sk.write_report(evaluation, vectors=vectors)


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def small(monkeypatch):
    """Makes evaluations of one behaviour by one annotator, whose figures are not drawn."""
    monkeypatch.setattr("steerkit.report.pictures.figure_bytes", lambda figure, kind: b"no figure")

    def make(folder, **options):
        options = {"tasks": 6, "controls": 1, **options}
        return planted_evaluation(folder, behaviors=STEERED[:1], annotators=(GRAMMAR,), **options)

    return make


def test_every_part_is_there_and_says_something(page, path, evaluation):
    assert path == evaluation.folder / "report.html"
    assert [tag["aria-labelledby"] for tag in page.all("section")] == list(PARTS)
    for part, text in page.parts.items():
        assert len(text.split()) > 15, part
        assert "Not shown:" not in text, (part, text[:300])
    anchors = {tag["href"] for tag in page.all("a")}
    assert {f"#{part}" for part in PARTS} <= anchors


def test_the_claims_say_the_numbers_of_the_verdicts(page, evaluation):
    verdicts = evaluation.verdicts
    mine = verdicts[verdicts["annotator"] == GRAMMAR]
    assert len(mine) == 4
    for row in mine.to_dict("records"):
        said = (
            f"{percent(row['rate'])} of sentences, against {percent(row['base'])} unsteered: "
            f"{points(row['change'])} points (95\u00a0% interval {points(row['low'])} to "
            f"{points(row['high'])})"
        )
        assert said in page.parts["claims"], said
        assert row["reason"] in page.parts["claims"]
    # uncertainty is amplified beyond its fluent range, and negatives are printed as they are
    by_claim = mine.set_index(["behavior", "sign"])["holds"]
    assert not by_claim[STEERED[1], "amplify"] and by_claim[STEERED[0], "amplify"]
    held = int(mine["holds"].sum())
    assert f"{held} of 4 claims hold" in page.text
    assert "Not shown: amplifying uncertainty-estimation" in page.text
    chips = [tag["class"] for tag in page.all("span") if "chip" in (tag.get("class") or "")]
    assert chips.count("chip yes") == held and chips.count("chip no") == 4 - held


def test_a_planted_null_is_printed_as_one(small, tmp_path):
    null = small(tmp_path, tasks=20, controls=10, effect=0.0)
    page = Page(sk.write_report(null).read_text(encoding="utf-8"))
    assert "0 of 2 claims hold." in page.text and "Not shown: amplifying" in page.text
    assert not [t for t in page.all("span") if t.get("class") == "chip yes"]


def test_side_effects_stand_beside_every_rate(page, evaluation):
    rates, costs = evaluation.rates, evaluation.side_effects
    for name in STEERED:
        own = rates[(rates.label == name) & (rates.measure == "spans")]
        for row in own[own.behavior == name].to_dict("records"):
            if row["kind"] in ("steered", "prompt"):
                assert percent(row["value"]) in page.parts["cost"]
    accuracy = costs[(costs.measure == "accuracy") & costs.kind.isin(["baseline", "steered"])]
    assert len(accuracy) == 18
    for row in accuracy.to_dict("records"):
        assert percent(row["value"]) in page.parts["cost"]
    # beyond the fluent range of the second behaviour: one coefficient, by two annotators
    apart = [tag for tag in page.all("tr") if tag.get("class") == "apart"]
    assert len(apart) == 2


def test_what_a_model_wrote_is_text(page, path, evaluation):
    raw = path.read_text(encoding="utf-8")
    assert "<script" not in raw.lower() and "onerror=alert" in page.parts["examples"]
    assert page.parts["examples"].count(SCRIPT) >= 2 * len(STEERED) * 3
    assert "<b>now</b>" in page.parts["examples"]
    handlers = [k for _, found in page.tags for k in found if k.startswith("on")]
    assert handlers == [] and not page.all("script") and not page.all("iframe")


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, found in page.tags:
        for name, value in found.items():
            if name in ("src", "href") and value is not None:
                local = value.startswith(("data:", "#")) or re.fullmatch(r"[\w/.-]+", value)
                assert local and "//" not in value.partition(",")[0], (tag, value[:80])
    (policy,) = [t["content"] for t in page.all("meta") if "http-equiv" in t]
    assert policy.startswith("default-src 'none'") and "script-src" not in policy
    assert all(t.get("alt") and t["src"].startswith("data:image/") for t in page.all("img"))


def test_figures_and_tables_lie_beside_the_page(page, path, evaluation):
    names = [tag["id"].removeprefix("figure-") for tag in page.all("figure")]
    expected = {f"dose_response-{name}{who}" for name in STEERED for who in ("", "-rules")}
    expected |= {"specificity", "specificity-rules"}
    assert expected | {"side_effects", "layers", "cosines"} == set(names)
    links = {t["href"] for t in page.all("a") if not t["href"].startswith("#")}
    for link in links:
        assert (path.parent / link).stat().st_size > 100, link
    assert {f"figures/{n}.{kind}" for n in names for kind in ("png", "svg")} <= links
    assert (path.parent / "figures" / "dose_response.svg").is_file(), "all behaviours in one"
    written = pd.read_csv(path.parent / "verdicts.csv")
    assert list(written["behavior"]) == list(evaluation.verdicts["behavior"])
    vectors = made_vectors(names=("backtracking", "uncertainty-estimation"), layer=2)
    for name, table in (("layers", vectors.layers_table()), ("cosines", vectors.cosines())):
        assert len(pd.read_csv(path.parent / f"{name}.csv")) == len(table) > 0


def test_examples_are_one_task_under_one_noise_by_coefficient(page, evaluation):
    chains = [t for t in page.all("div") if t.get("class") == "chain"]
    assert len(chains) == 2 * len(STEERED) * 5
    assert "median chain" in page.parts["examples"]


def test_annotators_and_what_was_censored_are_told(page, evaluation):
    assert "it also labelled the chains" in page.parts["annotators"]
    assert "did not label the chains" in page.parts["annotators"]
    assert "kappa 0.71 (0.66 to 0.75)" in page.parts["annotators"]
    chains = evaluation.generations[evaluation.generations["annotator"] == RULES]
    assert (
        f"{len(chains):,} chains in all; {int(chains['truncated'].sum()):,} ("
        in (page.parts["censored"])
    )


def test_settings_hashes_and_the_command_are_all_there(page, evaluation):
    text = page.parts["again"]
    assert evaluation.settings["command"] in text and "1 h 6 min" in text
    for name in ("seed", "vectors.digest", "sets.extract.digest", "machine.cpu", "versions.torch"):
        assert name in text
    assert "0" * 64 in text and "window.before" in text


def test_the_same_evaluation_gives_the_same_bytes(small, tmp_path):
    # that a figure does is tested where it is drawn
    def written(name, **options):
        made = small(tmp_path / "made", tasks=4, **options)
        return sk.write_report(made, tmp_path / name / "x.html", examples=1).read_bytes()

    first = written("one")
    assert written("two") == first
    assert (tmp_path / "one" / "generations.csv").is_file()
    assert written("three", seed=1) != first


def test_settings_that_nobody_wrote_down_leave_gaps_not_errors(small, tmp_path):
    names = ("ranges", "annotators", "vectors", "controls", "sets", "seconds", "command", "unit")
    bare = without_settings(small(tmp_path), *names)
    page = Page(sk.write_report(bare).read_text(encoding="utf-8"))
    assert "fluent range was not measured" in page.parts["claims"]
    assert "No agreement was measured" in page.parts["annotators"]


def test_weak_designs_are_named_and_settings_are_escaped(page, small, tmp_path):
    few = small(tmp_path, forced=["task-01"], command=SCRIPT)
    raw = sk.write_report(few).read_text(encoding="utf-8")
    assert "<script" not in raw.lower() and SCRIPT in Page(raw).parts["again"]
    text = Page(raw).text
    assert (
        "Only 6 tasks" in text
        and "1 of these tasks were used" in text
        and "prove nothing about new ones" in text
    )
    assert "exceeds all of them in 1 of 3 cases" in text
    assert "Only 30 tasks" not in page.text and "this was forced" not in page.text


def test_no_chains_no_report(small, tmp_path):
    whole = small(tmp_path)
    with pytest.raises(EvaluationError, match="without chains"):
        sk.write_report(replace(whole, generations=whole.generations.iloc[:0]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium here: put one on the path or name it in STEERKIT_BROWSER")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


# the window's own width grows with what overflows on a phone
OVERFLOW = """[...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('.scroll, .canvas, .chains')) return e.matches('.scroll, .canvas, .chains') &&
    e.getBoundingClientRect().right > WIDTH + 0.5;
  return e.getBoundingClientRect().right > WIDTH + 0.5;
}).map(e => e.tagName + '.' + e.className)"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_renders_on_a_phone_and_on_a_desk(browser, path, width, dark):
    browser.open(path, width, dark=dark)
    assert browser.complaints == []
    assert browser.run("document.title").startswith("Steering backtracking")
    images = browser.run("[...document.images].map(i => [i.naturalWidth, i.width, i.alt.length])")
    assert len(images) == 9
    assert all(natural > 0 and shown > 300 and alt > 20 for natural, shown, alt in images)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OVERFLOW.replace("WIDTH", str(width))) == []
    colors = browser.run(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors]
    assert (light[0] > light[1]) == dark


def test_the_browser_would_tell(browser, tmp_path):
    """The positive control of the test above."""
    broken = tmp_path / "broken.html"
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
    broken.write_text(
        f"<!doctype html>{policy}<meta name=viewport content='width=device-width'>"
        "<script>document.title='owned'</script><img src='data:image/png;base64,AAAA'>"
        "<p style='width: 900px'>wide</p>"
    )
    browser.open(broken, 390)
    assert any("Content Security Policy" in said for said in browser.complaints)
    assert browser.run("document.title") != "owned"
    assert browser.run("document.images[0].naturalWidth") == 0
    wide = tmp_path / "wide.html"
    wide.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'>"
        "<p style='width: 900px'>wide</p><script>console.error('said'); missing()</script>"
    )
    browser.open(wide, 390)
    assert browser.run(OVERFLOW.replace("WIDTH", "390")) == ["P."]
    assert any("said" in said for said in browser.complaints) and len(browser.complaints) >= 2


def test_it_prints_with_nothing_cut_off(browser, path, tmp_path):
    browser.open(path, 1280)
    pdf = browser.print(tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 4
