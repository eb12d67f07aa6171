"""Tagged text: what can be placed is placed where it stands; every other part is reported."""

from __future__ import annotations

import json
import logging
import re
from itertools import combinations, pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steerkit import behaviors
from steerkit.annotation import read_tagged
from steerkit.annotation.tagged import END, Section, Unplaced, parse_sections, place_sections
from steerkit.behaviors import Behavior, declare
from steerkit.errors import ResourceError, SteerkitError, TraceError
from steerkit.traces import Span, read_traces, write_traces

NAMES = [b.name for b in behaviors.behaviors()]


def tagged(*parts):
    """The text an annotator writes for (label, text) pairs."""
    return "\n\n".join(f'["{label}"] {text} ["end-section"]' for label, text in parts)


def sections(*texts, label="deduction"):
    return [Section(f'["{label}"]', label, text) for text in texts]


def texts(results, response):
    return [response[r.start : r.end] if isinstance(r, Span) else r for r in results]


def file_of(tmp_path, *records, name="chains.json"):
    path = tmp_path / name
    path.write_text(json.dumps(list(records)))
    return path


# -- reading tags


@pytest.mark.parametrize(
    "tag",
    [
        '["deduction"]',
        "[deduction]",
        "['deduction']",
        "[`deduction`]",
        "[\u201cdeduction\u201d]",
        '["Deduction"]',
        '[ "deduction" ]',
        '["3. deduction"]',
        "[3) deduction]",
        '["deduction]',
    ],
)
def test_mangled_tags_are_understood(tag):
    for end in ('["end-section"]', "[end-section]", '["End Section"]', '["end_section"]'):
        (section,) = parse_sections(f"{tag} So it is 3. {end}")
        assert (section.label, section.text, section.known) == ("deduction", "So it is 3.", True)
        assert section.tag == tag


def test_words_of_a_label_may_be_joined_otherwise():
    for written in ("uncertainty-estimation", "Uncertainty Estimation", "uncertainty_estimation"):
        (section,) = parse_sections(f'["{written}"] Hm. ["end-section"]')
        assert section.label == "uncertainty-estimation"
    (short,) = parse_sections('["uncertainty"] Hm. ["end-section"]')
    assert short.label == "uncertainty-estimation"


@pytest.mark.parametrize("name", ["self-check", "self_check", "step2", "a-1"])
def test_declared_behaviours_are_known_by_any_name_they_may_have(name, monkeypatch):
    monkeypatch.setattr(behaviors, "_known", dict(behaviors._known))
    text = f'["{name}"] Is it 3? ["end-section"]'
    assert [(s.label, s.known) for s in parse_sections(text)] == [(name.replace("_", "-"), False)]
    declare(Behavior(name, "one of the user's own"))
    assert [(s.label, s.known) for s in parse_sections(text)] == [(name, True)]


def test_an_end_that_is_missing_is_where_the_next_part_begins():
    text = '["deduction"] One. ["backtracking"] Two. ["end-section"] ["deduction"] Three.'
    assert [(s.label, s.text) for s in parse_sections(text)] == [
        ("deduction", "One."),
        ("backtracking", "Two."),
        ("deduction", "Three."),
    ]


def test_an_end_without_a_beginning_is_reported_with_its_text():
    text = 'Lost. ["end-section"] ["deduction"] Kept. ["end-section"] Gone. ["end-section"]'
    assert [(s.label, s.text, s.known) for s in parse_sections(text)] == [
        (END, "Lost.", False),
        ("deduction", "Kept.", True),
        (END, "Gone.", False),
    ]


def test_brackets_of_the_text_itself_are_text():
    inside = "So [see below] the list [1, 2] and [x] give [Hint] \\[3\\]."
    (section,) = parse_sections(f'["deduction"] {inside} ["end-section"]')
    assert section.text == inside


# -- placing


def test_white_space_quotes_and_dashes_are_forgiven():
    response = "It\u2019s  a\n\nstart \u2014 \u201cso\u201d   it  goes.\tEnd."
    results = place_sections(sections('It\'s a start - "so" it goes.', "End."), response)
    assert texts(results, response) == [response[:-5], "End."]


def test_only_whole_words_match():
    response = "another other, other."
    results = place_sections(sections("other"), response)
    assert results == [Span(8, 13, "deduction")]
    assert place_sections(sections("the"), response) == ["not found"]


def test_every_reason_is_given():
    response = "One. Two. Three."
    parts = [
        *sections("One.", "Four.", "Three.", "Two.", "Three.", ""),
        Section('["reflection"]', "reflection", "Two.", known=False),
        Section('["end-section"]', END, "Two.", known=False),
    ]
    assert place_sections(parts, response) == [
        Span(0, 4, "deduction"),
        "not found",
        "out of order",
        Span(5, 9, "deduction"),
        Span(10, 16, "deduction"),
        "empty",
        "unknown label",
        "stray end-section",
    ]


def test_as_many_as_possible_are_placed():
    """A part that was copied to the wrong place does not push out those that are right."""
    response = "A one. B two. C three. D four. E five."
    parts = sections("E five.", "A one.", "B two.", "C three.", "D four.")
    assert texts(place_sections(parts, response), response) == [
        "out of order",
        "A one.",
        "B two.",
        "C three.",
        "D four.",
    ]


@pytest.mark.parametrize(
    ("response", "parts", "starts"),
    [
        # all repetitions are tagged
        ("Wait. Wait. Wait.", ["Wait.", "Wait.", "Wait."], [0, 6, 12]),
        # its neighbour on the right tells which
        ("Start. Text. Wait. More. Wait. So 4.", ["Start.", "Wait.", "So 4."], [0, 25, 31]),
        # its neighbour on the left tells which
        ("Start. Wait. More. Wait. Text. So 4.", ["Start.", "Wait.", "So 4."], [0, 7, 31]),
        # between two neighbours
        ("Hm. No. X. Hm. Y. Hm. So. Z.", ["X.", "Hm.", "Y."], [8, 11, 15]),
        # two repeated sentences, the second pair tagged
        ("A. u. B. C. v. B. C. D.", ["A.", "B.", "C.", "D."], [0, 15, 18, 21]),
        # a sentence that is part of a longer one
        ("I try 3. No, I try 3. Then 4.", ["No, I try 3.", "Then 4."], [9, 22]),
    ],
)
def test_a_repeated_sentence_goes_where_its_neighbours_are(response, parts, starts):
    assert [r.start for r in place_sections(sections(*parts), response)] == starts


def touching(spans, response, start=0):
    """How many spans follow directly on the one before, or on the start of the text."""
    ends = [start, *(s.end for s in spans)]
    return sum(not response[e : s.start].strip() for e, s in zip(ends, spans, strict=False))


def best_score(parts, response):
    """The most parts that can be placed and the most that touch, by trying everything."""
    places = [[m.start() for m in re.finditer(f"(?={re.escape(p)})", response)] for p in parts]
    best = (0, 0)
    for size in range(len(parts), 0, -1):
        for chosen in combinations(range(len(parts)), size):
            for starts in product(*(places[i] for i in chosen)):
                spans = [
                    Span(s, s + len(parts[i]), "deduction")
                    for i, s in zip(chosen, starts, strict=True)
                ]
                if all(a.end <= b.start for a, b in pairwise(spans)):
                    best = max(best, (size, touching(spans, response)))
        if best[0]:
            return best
    return best


WORDS = ["a.", "b.", "c."]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9),
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2), max_size=4),
)
@example(["a.", "c.", "b."], [["c."], ["b."], ["a.", "c."], ["a."], ["b."]])
def test_the_choice_is_the_best_of_all(words, wanted):
    response, parts = " ".join(words), [" ".join(part) for part in wanted]
    results = place_sections(sections(*parts), response)
    spans = [r for r in results if isinstance(r, Span)]
    assert spans == sorted(spans) and all(a.end <= b.start for a, b in pairwise(spans))
    assert (len(spans), touching(spans, response)) == best_score(parts, response)
    for part, result in zip(parts, results, strict=True):
        if isinstance(result, Span):
            assert response[result.start : result.end] == part
        else:
            assert result == ("out of order" if part in response else "not found")


sentences = st.lists(
    st.text(alphabet="abé 7=.,'\u2019-\u2014\n", min_size=1, max_size=12)
    .map(str.strip)
    .filter(bool),
    min_size=1,
    max_size=3,
).map(" ".join)


@settings(deadline=None)
@given(
    st.lists(st.tuples(sentences, st.sampled_from(NAMES), st.sampled_from([" ", "\n\n", "\t"]))),
    st.sampled_from(["", "<think>", "<think>\n"]),
)
def test_a_text_cut_into_tagged_parts_comes_back_as_exactly_those_spans(parts, opening):
    response, spans = opening, []
    for text, label, gap in parts:
        spans.append(Span(len(response), len(response) + len(text), label))
        response += text + gap
    written = tagged(*((label, text) for text, label, _ in parts))
    start = len(opening)
    assert place_sections(parse_sections(written), response, start) == spans


# -- files


def test_tagged_chains_are_read_with_what_could_not_be_placed(tmp_path, caplog):
    first = {
        "id": "one",
        "task_id": "t",
        "prompt": "How much?",
        "model": "m",
        "response": "<think>\nSo 2.  Wait, no. So 3.\n</think>3",
        "annotated_response": tagged(
            ("deduction", "So 2."),
            ("backtracking", "Wait, no."),
            ("reflection", "So 3."),
            ("deduction", "So 4."),
        ),
    }
    second = {"response": "So 5.", "annotated_response": '["deduction"]So 5.["end-section"]'}
    with caplog.at_level(logging.WARNING):
        traces, unplaced = read_tagged(file_of(tmp_path, first, second))
    assert unplaced == [
        Unplaced("one", "reflection", "So 3.", "unknown label"),
        Unplaced("one", "deduction", "So 4.", "not found"),
    ]
    assert "3 spans placed, 2 parts not (1 not found, 1 unknown label)" in caplog.text
    one, two = traces
    assert one.spans == (Span(8, 13, "deduction"), Span(15, 24, "backtracking"))
    assert (one.id, one.task_id, one.prompt, one.model) == ("one", "t", "How much?", "m")
    assert (two.id, two.task_id, two.prompt) == ("chains-1", "chains-1", None)
    assert {t.annotator for t in traces} == {"tagged"}
    assert read_traces(write_traces(traces, tmp_path / "traces.jsonl")) == traces


def test_what_a_chain_was_generated_with_is_kept(tmp_path):
    record = {
        "response": "[T]So 5.[/T]",
        "annotated_response": tagged(("deduction", "So 5.")),
        "token_ids": [4, 0, 7],
        "metadata": {"truncated": True, "think": ["[T]", "[/T]"], "seed": 1},
    }
    (trace,), _ = read_tagged(file_of(tmp_path, record))
    assert trace.token_ids == (4, 0, 7) and trace.metadata == record["metadata"]
    assert trace.truncated and trace.thinking == "So 5." and trace.spans[0].start == 3


def test_a_list_and_json_lines_are_the_same(tmp_path):
    records = [
        {"id": i, "response": f"So {i}.", "annotated_response": tagged(("deduction", f"So {i}."))}
        for i in range(3)
    ]
    path = file_of(tmp_path, *records)
    lines = tmp_path / "chains.jsonl"
    lines.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert read_tagged(path) == read_tagged(lines)
    assert [trace.id for trace in read_tagged(path)[0]] == ["0", "1", "2"]


def test_nothing_is_said_when_everything_was_placed(tmp_path, caplog):
    record = {"response": "So 5.", "annotated_response": tagged(("deduction", "So 5."))}
    assert read_tagged(file_of(tmp_path, record))[1] == []
    assert not caplog.records


GOOD = {"id": "good", "response": "So 5.", "annotated_response": tagged(("deduction", "So 5."))}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"response": "x"}, "a tagged chain has no annotated_response"),
        ({"annotated_response": "x"}, "a tagged chain has no response"),
        ({**GOOD, "response": 3}, "a tagged chain has no response"),
        ({**GOOD, "id": "x", "prompt": 3}, "'prompt' has the wrong type"),
        ({**GOOD, "id": "x", "category": [3]}, "'category' has the wrong type"),
        ({**GOOD, "id": "x", "token_ids": [1, -1]}, "non-negative integers"),
        ({**GOOD, "id": "x", "metadata": [1]}, "'metadata' has the wrong type"),
        ({**GOOD, "id": "x", "metadata": {"think": "[T]"}}, "think strings"),
        (GOOD, "chain id 'good' occurs twice"),
        (["x"], "not a JSON object"),
    ],
)
def test_bad_records_are_named(tmp_path, bad, words):
    path = file_of(tmp_path, GOOD, bad)
    with pytest.raises(TraceError) as error:
        read_tagged(path)
    assert words in str(error.value) and error.value.where == f"{path}, record 1"


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ResourceError, match=r"none\.json: no such file"):
        read_tagged(tmp_path / "none.json")
    with pytest.raises(ResourceError, match="not a file"):
        read_tagged(tmp_path)
    for content, words in [
        (b'[{"response": ', "not valid JSON"),
        (b"[\xff]", "not UTF-8"),
        (b'[{"response": NaN}]', "NaN, which JSON does not have"),
        (b'[{"response": "\\ud83d"}]', "record 0: a string holds half of a surrogate pair"),
        (b"[]", "holds no chains"),
        (b"", "holds no chains"),
        (b'{"response": "x"', "line 1: not valid JSON"),
    ]:
        path = tmp_path / "bad.json"
        path.write_bytes(content)
        with pytest.raises(SteerkitError, match=words) as error:
            read_tagged(path)
        assert str(path) in str(error.value)


# -- the reference chains


@pytest.fixture(scope="module")
def real(reference):
    path = reference / "r1_distill_qwen_1.5b_annotated.json"
    return json.loads(path.read_text()), *read_tagged(path)


def plain(text):
    """Words and marks with every white space and quotation mark made the same."""
    return " ".join(re.sub("[\u2018\u2019]", "'", re.sub("[\u201c\u201d]", '"', text)).split())


def test_the_reference_spans_are_placed(real):
    records, traces, _ = real
    assert len(traces) == 100
    counted = sum(sum(record["label_counts"].values()) for record in records)
    assert counted == 2984
    # beside those that were counted there are parts with numbered labels
    placed = 0
    for record, trace in zip(records, traces, strict=True):
        parts = parse_sections(record["annotated_response"])
        results = place_sections(parts, record["response"], trace.thinking_bounds[0])
        assert tuple(r for r in results if isinstance(r, Span)) == trace.spans
        placed += sum(
            isinstance(result, Span) and not re.search(r"\d", part.tag)
            for part, result in zip(parts, results, strict=True)
        )
    assert placed >= 2950


def test_every_reference_part_is_a_span_with_its_text_or_reported(real):
    """Tags are found again by an expression of their own, and texts compared directly."""
    records, traces, unplaced = real
    tag = re.compile(rf'\["?(?:\d+\. )?({"|".join([*NAMES, END])})"?\]')
    for record, trace in zip(records, traces, strict=True):
        pieces = tag.split(record["annotated_response"])
        parts = [
            (label, plain(text))
            for label, text in zip(pieces[1::2], pieces[2::2], strict=True)
            if label != END
        ]
        reported = [u for u in unplaced if u.chain == trace.id]
        spans = [(s.label, plain(trace.response[s.start : s.end])) for s in trace.spans]
        rest = list(parts)
        for found in [*spans, *((u.label, plain(u.text)) for u in reported)]:
            rest.remove(found)
        assert rest == []
        # what was placed stands in the order in which it was tagged
        remaining = iter(parts)
        assert all(span in remaining for span in spans)


def test_what_is_reported_of_the_reference_has_its_reason(real):
    _, traces, unplaced = real
    assert len(unplaced) <= 34
    responses = {trace.id: plain(trace.response) for trace in traces}
    for part in unplaced:
        assert part.reason in ("not found", "out of order")
        there = plain(part.text) in responses[part.chain]
        assert there == (part.reason == "out of order"), part
