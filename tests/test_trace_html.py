"""A trace in a notebook: its text and spans, and never markup of its own."""

from __future__ import annotations

from html.parser import HTMLParser

from steerkit import behaviors
from steerkit.behaviors import UNPARSED
from steerkit.traces import Span, Trace
from tests.test_traces import TRACES


class _Page(HTMLParser):
    """The text of a page, and each piece of it that stands inside a titled element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.marked, self._open = "", [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._open.append(dict(attributes))

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        self.text += data
        if self._open and "title" in self._open[-1]:
            self.marked.append((self._open[-1]["title"], data, self._open[-1]["style"]))


def test_a_notebook_shows_the_chain_with_its_spans_in_colour():
    page = _Page(TRACES[1]._repr_html_())
    assert "Wie groß?" in page.text and TRACES[1].response in page.text
    chain, legend = page.marked[:2], page.marked[2:]
    assert [(title, text) for title, text, _ in chain] == [
        ("uncertainty-estimation", "Größe 🙂"),
        (UNPARSED, "ist\u2028offen."),
    ]
    assert behaviors.behavior("uncertainty").color in chain[0][2]
    assert "#" not in chain[1][2], "text that nobody could label has no colour"
    assert [text for _, text, _ in legend] == ["uncertainty-estimation 1", f"{UNPARSED} 1"]
    assert "no spans" in _Page(TRACES[2]._repr_html_()).text


def test_a_chain_is_text_in_a_notebook_never_markup():
    response = "<think>\n<script>x</script> & <b>\n</think>\"'&amp;"
    trace = Trace("a", "t", response, prompt="<i>p", spans=(Span(8, 26, "deduction"),))
    page = _Page(trace._repr_html_())
    assert response in page.text and "<i>p" in page.text
    assert set(page.tags) == {"div", "b", "span", "small"} and page.tags.count("b") == 1
    assert page.marked[0][:2] == ("deduction", response[8:26])
