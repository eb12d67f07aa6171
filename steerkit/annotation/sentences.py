"""Sentences: where they begin and end in prose mixed with formulas, lists and code."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from itertools import pairwise

from steerkit.traces import Trace

Bounds = tuple[int, int]
"""Half-open Unicode-character offsets [start, end)."""

SPLITTER = 1
"""Raised whenever this module may cut the same text in another way than before."""

# Nothing is cut within fenced or inline code and LaTeX. A mark that is opened and never
# closed protects nothing.
_WHOLE = re.compile(
    r"```.*?```|`[^`\n]+`|\\\[.*?\\\]|\\\(.*?\\\)|\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    re.DOTALL,
)
_BREAK = re.compile(r"[^\S\n]*\n\s*")
_ENDED = re.compile(r"[.!?:;,\u2026](?:[\"')\]*_\u201d\u2019]*)$")
# Punkt takes single letters and units for abbreviations; in formulas they end sentences, and
# a word that opens one tells.
_OPENED = re.compile(
    r"(?<![Ee]\.g)(?<![Ii]\.e)(?<!\bcf)(?<!\bvs)(?<!\bDr)(?<!\bM[rs])(?<!\bMrs)(?<=\w)\.[\"')\u201d]*\s+"
    r"(?=(?:A|Actually|All|Also|Alternatively|And|Are|As|At|Because|Both|But|By|Does|Each|Even|"
    r"Every|First|For|From|He|Hence|Hmm|Hold|How|However|I|I'm|I'll|If|In|Instead|Is|It|It's|"
    r"Let|Let's|Maybe|Next|No|Not|Now|OK|Okay|Or|Perhaps|Right|Say|She|Since|So|Suppose|Take|"
    r"That|That's|The|Then|There|Therefore|These|They|This|Thus|To|Try|Wait|We|What|When|Where|"
    r"Which|Why|With|Yes|You)\b)"
)
_MARKER = re.compile(r"\s*(?:[-+*\u2022\u2013>#]+|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.):])\s*")


def sentence_bounds(text: str) -> list[Bounds]:
    """Where the sentences of a text stand, in order and without overlap.

    Every character that is not white space is in exactly one of them; what lies between
    two sentences is white space. Boundaries are those of the Punkt model in ``nupunkt``
    (after Kiss and Strunk 2006), which knows abbreviations, decimals and initials; a
    full stop before a word that opens a sentence ("so x = 3 kg. Then"); and the line breaks
    of lists, formulas and paragraphs. A single line break between words of one sentence, as
    in wrapped text, is no boundary, nor is the mark of a factorial. Nothing is cut inside
    code or LaTeX. A list's marker stays with its item, and marks alone (``---``, ``**``)
    with the sentence before them.

    The model is one of English. Do not use it for languages that end sentences otherwise.
    """
    from nupunkt import sent_spans

    cuts = {0, len(text)}
    for start, end in pairwise([0, *_line_ends(text), len(text)]):
        found = (start + last for _, last in sent_spans(text[start:end]))
        cuts |= {start, *(cut for cut in found if not _is_factorial(text, cut))}
        cuts |= {opened.end() for opened in _OPENED.finditer(text, start, end)}
    for whole in _WHOLE.finditer(text):
        cuts -= set(range(whole.start() + 1, whole.end()))
    bounds: list[Bounds] = []
    opened: int | None = None  # where a list's marker waits for its item
    for start, end in pairwise(sorted(cuts)):
        piece = text[start:end]
        words = piece.strip()
        if not words:
            continue
        first = start + len(piece) - len(piece.lstrip())
        last = first + len(words)
        if _MARKER.fullmatch(words) and "\n" not in text[last : end + 1]:
            opened = first if opened is None else opened
        elif opened is None and bounds and not any(c.isalnum() for c in words):
            bounds[-1] = (bounds[-1][0], last)
        else:
            bounds.append((first if opened is None else opened, last))
            opened = None
    if opened is not None:
        bounds.append((opened, len(text.rstrip())))
    return bounds


def trace_sentences(trace: Trace) -> list[Bounds]:
    """The sentences of a thinking section, in characters of ``trace.response``."""
    offset = trace.thinking_bounds[0]
    return [(offset + start, offset + end) for start, end in sentence_bounds(trace.thinking)]


@cache
def splitter_name() -> str:
    """What decides where sentences end: the version of this module and that of ``nupunkt``."""
    return f"{SPLITTER} nupunkt {version('nupunkt')}"


def _is_factorial(text: str, cut: int) -> bool:
    """Whether a cut stands behind the mark of ``5! / 3!`` and not behind an exclamation."""
    start = max(cut - 20, 0)
    before = text[start:cut].rstrip()
    after = text[cut : cut + 2].lstrip("\"'(\u201c")
    mark = before[-1:] == "!" and (before[-2:-1].isalnum() or before[-2:-1] == ")")
    joined = "\n" not in text[start + len(before) : cut]
    return mark and joined and after != "" and not after[0].isupper()


def _line_ends(text: str) -> list[int]:
    """Ends of the lines after which a new sentence begins."""
    ends = []
    for gap in _BREAK.finditer(text):
        before = text[max(gap.start() - 8, 0) : gap.start()]
        after = text[gap.end() : gap.end() + 1]
        wrapped = gap[0].count("\n") == 1 and after.islower() and not _ENDED.search(before)
        if not wrapped:
            ends.append(gap.end())
    return ends
