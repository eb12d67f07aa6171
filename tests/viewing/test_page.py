"""The page: what is on it, that nothing written by a model acts, and how it is used."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

import steerkit as sk
from steerkit.behaviors import UNPARSED
from steerkit.viewing.visible import visible
from tests.browser import Browser, find_browser
from tests.test_steering import direction
from tests.tiny import tiny_model, tiny_traces
from tests.viewing.chains import HOSTILE, ONE, OTHER, PLAIN, Page

COLUMN = re.compile(r'<p class="text" dir="auto">(.*?)</p>', re.DOTALL)


@pytest.fixture(scope="module")
def view():
    return sk.show(ONE, OTHER)


@pytest.fixture(scope="module")
def parsed(view):
    return Page(view.html())


# -- what is on it


def test_every_response_stands_whole_in_every_column(parsed) -> None:
    texts = [element.text for element in parsed.all("p", cls="text")]
    assert texts == [PLAIN, PLAIN, visible(HOSTILE), "no labels, cut"]
    assert len(parsed.all("p", cls="none")) == 2, "columns without the chain"


def test_every_span_is_marked_with_its_label_and_colour(view, parsed) -> None:
    marks = parsed.all("mark")
    expected = [
        (chain.trace.response[s.start : s.end], s.label)
        for chain in view.chains
        for spans in chain.columns
        for s in spans or ()
    ]
    assert [(m.text, m["data-l"]) for m in marks] == expected
    style = parsed.all("style")[0].text
    for mark in marks:
        assert f"b-{mark['data-l']}" in mark["class"].split()
        assert f".b-{mark['data-l']} {{ --c: #" in style
        assert (UNPARSED in mark["class"].split()) == (mark["data-l"] == UNPARSED)


def test_places_where_annotators_differ_are_hatched(parsed) -> None:
    found = {}
    for piece in parsed.all("i", cls="x"):
        found.setdefault(piece["data-x"], []).append(piece.text)
    assert {number: "".join(texts) for number, texts in found.items()} == {
        "0": "Maybe not." * 2,
        "1": "21 + 8 = 29." * 2,
    }


def test_counts_facts_and_notes_are_told(view, parsed) -> None:
    chips = {b["data-label"]: b.text for b in parsed.all("button") if b["data-label"]}
    assert list(chips) == list(view.counts)
    assert "2 | 1" in chips["backtracking"] and "0 | 1" in chips[UNPARSED]
    heads = [element.text for element in parsed.all("h2")]
    assert heads[0] == "a puzzle" and "task t<i>" in heads[1] and "<m>" in heads[1]
    assert "cut off by the token limit" in heads[2]
    foot = parsed.all("footer")[0].text
    assert "Labelled by first, second." in foot and all(note in foot for note in view.notes)
    prompts = [element.text for element in parsed.all("div", cls="prompt")]
    assert prompts[0] == ONE[0].prompt and "not known" in prompts[2]


def test_labels_asked_for_are_chosen_at_first() -> None:
    page = Page(sk.show(ONE, labels="deduction").html())
    pressed = {b["data-label"]: b["aria-pressed"] for b in page.all("button") if b["data-label"]}
    assert [name for name, on in pressed.items() if on == "true"] == ["deduction"]


# -- what was written by a model is text


def test_only_the_pages_own_script_and_style_are_elements(parsed) -> None:
    scripts = parsed.all("script")
    assert [s["type"] for s in scripts] == ["application/json", None]
    assert not any(s["src"] for s in scripts) and len(parsed.all("style")) == 1
    assert parsed.all("img") == [] and parsed.all("u") == []
    for element in parsed.elements:
        assert not [name for name in element.attributes if name.startswith("on")]
        assert not {"src", "href", "style"} & set(element.attributes)


def test_the_policy_lets_nothing_else_run(parsed) -> None:
    (policy,) = (
        m["content"] for m in parsed.all("meta") if m["http-equiv"] == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "unsafe" not in policy
    for element, rule in (
        (parsed.all("script")[1], "script-src"),
        (parsed.all("style")[0], "style-src"),
    ):
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_values_cannot_end_the_element_they_stand_in() -> None:
    from steerkit.viewing.page import _values
    from steerkit.viewing.view import ChainView, ViewedDirection

    view = ChainView((), (), directions=(ViewedDirection("</script><b>", "x", 0.0, 1.0),))
    assert "<" not in _values(view)
    assert json.loads(_values(view))["directions"][0]["name"] == "</script><b>"


def test_the_check_would_see_markup_that_got_through() -> None:
    page = Page("<p><script src=x>1</script><img src=x onerror=y></p>")
    assert page.all("script") and page.all("img")[0]["onerror"] == "y"


# -- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium here: name one in STEERKIT_BROWSER, or put one on the path")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def open_page(browser, tmp_path):
    def call(view, width=1200, **options):
        browser.open(view.save(tmp_path / "page.html"), width, **options)
        return browser.run

    return call


def key(run, name):
    event = f"new KeyboardEvent('keydown', {{key: '{name}', bubbles: true}})"
    run(f"document.body.dispatchEvent({event})")


NOW = "document.querySelector('.now')?.textContent ?? null"
PLACE = "document.getElementById('place').textContent"


def test_nothing_that_a_model_wrote_acts(browser, open_page, view) -> None:
    run = open_page(view)
    assert run("document.title") == "3 chains"
    assert run("document.querySelectorAll('main script, main img').length") == 0
    assert run("[...document.querySelectorAll('p.text')].map(p => p.textContent)") == [
        *(PLAIN, PLAIN),
        *(visible(HOSTILE), "no labels, cut"),
    ]
    assert browser.complaints == []


def test_markup_that_got_through_would_not_run_either(browser, view, tmp_path) -> None:
    """The policy holds on its own: markup put into the page by hand does nothing."""
    act = "document.title = 'owned'"
    markup = f'<script>{act}</script><img src=x onerror="{act}">'
    broken = view.html().replace("<main>", f"<main>{markup}")
    (tmp_path / "broken.html").write_text(broken)
    browser.open(tmp_path / "broken.html", 1200)
    assert browser.run("document.title") == "3 chains"
    assert any("Content Security Policy" in told for told in browser.complaints)
    # and without the policy it would
    bare = re.sub(r"<meta http-equiv=.Content-Security-Policy.*?>", "", broken)
    (tmp_path / "bare.html").write_text(bare)
    browser.open(tmp_path / "bare.html", 1200)
    assert browser.run("document.title") == "owned"


def test_next_and_previous_go_from_span_to_span(open_page, view) -> None:
    run = open_page(view)
    assert run(PLACE) == "11 spans"
    run("document.getElementById('next').click()")
    assert (run(NOW), run(PLACE)) == ("I need 29 from 3, 7 and 8.", "1 of 11 spans")
    key(run, "n")  # the same span by the other annotator
    assert (run(NOW), run(PLACE)) == ("I need 29 from 3, 7 and 8.", "2 of 11 spans")
    for _ in range(2):
        key(run, "ArrowRight")
    key(run, "n")
    assert run(NOW) == "Maybe not."
    key(run, "p")
    assert (run(NOW), run(PLACE)) == ("3 * 7 = 21.", "4 of 11 spans")
    for _ in range(4):
        run("document.getElementById('previous').click()")
    assert run(PLACE) == "11 of 11 spans", "from the first to the last"
    assert "backtracking, span 2 of 2" in run("document.getElementById('about').textContent")
    assert run("document.getElementById('about').textContent").startswith("<b>: ")


def test_a_label_alone_hides_chains_without_it_and_is_stepped_through(open_page, view) -> None:
    run = open_page(view)
    run("document.querySelector('[data-label=backtracking]').click()")
    hidden = "[...document.querySelectorAll('article')].map(a => a.hidden)"
    assert run(hidden) == [False, False, True]
    assert run("document.getElementById('chains').textContent") == "2 of 3 chains have it"
    coloured = "[...document.querySelectorAll('mark:not(.off)')].map(m => m.dataset.l)"
    assert set(run(coloured)) == {"backtracking"}
    seen = []
    for _ in range(4):
        key(run, "n")
        seen.append(run(NOW))
    assert seen[:2] == ["Maybe not. Wait, no.", "Wait, no."]
    assert seen[2].startswith("Wait, <img") and seen[3] == seen[0], "and round again"
    key(run, "3")  # the third label
    assert set(run(coloured)) == {"uncertainty-estimation"}
    key(run, "3")
    assert len(set(run(coloured))) == 5
    key(run, "1")
    key(run, "0")
    assert run(hidden) == [False] * 3


def test_shift_adds_a_label(open_page, view) -> None:
    run = open_page(view)
    run("document.querySelector('[data-label=backtracking]').click()")
    run(
        "document.querySelector('[data-label=deduction]')"
        ".dispatchEvent(new MouseEvent('click', {shiftKey: true}))"
    )
    coloured = run("[...document.querySelectorAll('mark:not(.off)')].map(m => m.dataset.l)")
    assert set(coloured) == {"backtracking", "deduction"}


def test_differences_are_stepped_through_with_what_each_says(open_page, view) -> None:
    run = open_page(view)
    key(run, "d")
    assert run(PLACE) == "2 differences"
    key(run, "n")
    about = run("document.getElementById('about').textContent")
    assert run(NOW) == "Maybe not."
    assert about == "a: first: uncertainty-estimation / second: backtracking"
    key(run, "n")
    assert run(NOW) == "21 + 8 = 29."
    assert "unparsed" in run("document.getElementById('about').textContent")


def test_a_span_is_chosen_by_a_click_and_found_in_the_window(open_page) -> None:
    many = sk.show(tiny_traces(60))
    run = open_page(many, height=500)
    total = sum(sum(counts) for counts in many.counts.values())
    key(run, "p")
    assert run(PLACE) == f"{total} of {total} spans"
    inside = (
        "(r => r.top >= document.querySelector('header').getBoundingClientRect().bottom"
        " && r.bottom <= innerHeight)(document.querySelector('.now').getBoundingClientRect())"
    )
    assert run(inside), "the page has scrolled to it"
    run("document.querySelector('article:nth-of-type(30) mark').click()")
    first = run(PLACE)
    key(run, "n")
    assert int(run(PLACE).split()[0]) == int(first.split()[0]) + 1
    select = "document.getElementById('chain')"
    run(f"{select}.value = '5'; {select}.dispatchEvent(new Event('change'))")
    top = "document.querySelectorAll('article')[5].getBoundingClientRect().top"
    assert 0 <= run(top) <= 250
    key(run, "]")
    assert run("document.getElementById('chain').value") == "6"


def test_projections_lie_under_the_text_in_the_right_strength(open_page) -> None:
    model, traces = tiny_model(), tiny_traces(3)
    view = sk.show(traces, model=model, vectors=[direction()], window=sk.Window(1, 10))
    run = open_page(view)
    colours = (
        "[...document.querySelectorAll('article:first-of-type i[data-t]')]"
        ".map(i => [i.dataset.t, i.style.backgroundColor, getComputedStyle(i).backgroundColor])"
    )
    assert {colour for _, colour, _ in run(colours)} == {""}
    key(run, "u")
    found = run(colours)
    (shown,) = view.directions
    values = view.chains[0].reading.projections[0]
    assert len({token for token, _, _ in found}) == len(values)
    for token, colour, computed in found:
        away = values[int(token)] - shown.mean
        strength = min(abs(away) / shown.reach, 1) * 0.75
        numbers = [float(n) for n in re.findall(r"[\d.]+", computed)]
        assert colour and numbers[:3] == ([178, 24, 43] if away > 0 else [33, 102, 172])
        assert (numbers[3] if len(numbers) > 3 else 1.0) == pytest.approx(strength, abs=0.005)
    assert run("document.getElementById('scale').hidden") is False
    key(run, "n")
    about = run("document.getElementById('about').textContent")
    assert "mean projection there on backtracking at layer 1" in about
    key(run, "u")
    assert {colour for _, colour, _ in run(colours)} == {""}


def test_tokens_that_are_read_are_underlined_until_told_otherwise(open_page) -> None:
    run = open_page(sk.show(tiny_traces(2), model=tiny_model()))
    lines = "[...document.querySelectorAll('i.r')].map(i => getComputedStyle(i).textDecorationLine)"
    assert set(run(lines)) == {"underline"}
    key(run, "r")
    assert set(run(lines)) == {"none"}
    key(run, "r")
    run("document.querySelector('[data-label]').click()")
    assert set(run(lines)) == {"underline", "none"}, "those of the label alone"


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window(browser, open_page, view, width, dark) -> None:
    run = open_page(view, width, dark=dark)
    assert run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints == []
    columns = run(
        "getComputedStyle(document.querySelector('.columns')).gridTemplateColumns.split(' ').length"
    )
    assert columns == (1 if width < 720 else 2)
