"""Chains to look at, labelled by two hands, and a page's elements as a parser finds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from steerkit.traces import Span, Trace, Traces

HOSTILE = (
    '<think>\nSo <script>document.title = "owned"</script> is 3.\n'
    'Wait, <img src=x onerror="document.title=1"> no.\n</think>\n\n"&amp;" </p></mark> \x1b[31m7'
)


def _spans(text: str, *parts: tuple[str, str]) -> tuple[Span, ...]:
    found = []
    for words, label in parts:
        start = text.index(words)
        found.append(Span(start, start + len(words), label))
    return tuple(found)


PLAIN = "I need 29 from 3, 7 and 8. 3 * 7 = 21. Maybe not. Wait, no. 21 + 8 = 29.\n</think>\n29"
ONE = Traces(
    [
        Trace(
            "a",
            "a",
            PLAIN,
            prompt="Use 3, 7, 8 to make 29.",
            category="puzzle",
            spans=_spans(
                PLAIN,
                ("I need 29 from 3, 7 and 8.", "initializing"),
                ("3 * 7 = 21.", "deduction"),
                ("Maybe not.", "uncertainty-estimation"),
                ("Wait, no.", "backtracking"),
                ("21 + 8 = 29.", "deduction"),
            ),
            annotator="first",
        ),
        Trace(
            "<b>",
            "t<i>",
            HOSTILE,
            prompt="<script>document.title = 'prompt'</script>",
            category="<u>",
            model="<m>",
            spans=_spans(
                HOSTILE,
                ('So <script>document.title = "owned"</script> is 3.', "deduction"),
                ('Wait, <img src=x onerror="document.title=1"> no.', "backtracking"),
            ),
            annotator="first",
        ),
        Trace("c", "c", "no labels, cut", annotator="first", metadata={"truncated": True}),
    ]
)
OTHER = Traces(
    [
        ONE[0].with_spans(
            _spans(
                PLAIN,
                ("I need 29 from 3, 7 and 8.", "initializing"),
                ("3 * 7 = 21.", "deduction"),
                ("Maybe not. Wait, no.", "backtracking"),
                ("21 + 8 = 29.", "unparsed"),
            ),
            "second",
        ),
        Trace("z", "z", "only here", annotator="second"),
    ]
)
"""The same chain by another hand: of the labels of ``a`` two differ; ``c`` is missing."""

VOID = {"meta", "input", "br", "img", "link"}


@dataclass
class Element:
    """An element with its attributes and all the text in it."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> str | None:
        return self.attributes.get(name)


class Page(HTMLParser):
    """All elements of a page, in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(page)
        self.close()
        assert not self._open, [element.tag for element in self._open]

    def handle_starttag(self, tag, attrs):
        made = Element(tag, dict(attrs), inside=[element.tag for element in self._open])
        self.elements.append(made)
        if tag not in VOID:
            self._open.append(made)

    def handle_endtag(self, tag):
        assert self._open and self._open[-1].tag == tag, (tag, self.getpos())
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Elements of a tag whose attributes have these values; ``cls`` is one of its classes."""
        wanted = attributes.pop("cls", None)
        return [
            e
            for e in self.elements
            if e.tag == tag
            and (wanted is None or wanted in (e["class"] or "").split())
            and all(e[name.replace("_", "-")] == value for name, value in attributes.items())
        ]
