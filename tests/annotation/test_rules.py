"""Rules: phrases decide as the file says; a bad file is refused with its place."""

from __future__ import annotations

import pytest

import steerkit as sk
from steerkit.annotation import Rules, agree, annotate, read_rules
from steerkit.annotation.rules import BUNDLED, Rule
from steerkit.behaviors import UNPARSED, behaviors
from steerkit.errors import AnnotationError, BehaviorError, ResourceError
from steerkit.traces import Span, Trace


def rules(*entries, **options):
    return Rules(tuple(entries), **options)


def fires(phrase, sentence, at="anywhere", **options):
    return rules(Rule("deduction", (phrase,), at=at), **options).explain(sentence).phrase == phrase


@pytest.mark.parametrize(
    ("phrase", "at", "yes", "no"),
    [
        (
            "wait no",
            "anywhere",
            ["Wait, no.", "wait \u2014 No!", "Hm, WAIT: no"],
            ["Waiting, no", "no wait"],
        ),
        ("that's", "anywhere", ["That\u2019s it"], ["that is"]),
        (
            "let me try #",
            "start",
            ["Let me try 3.", "Let me try 1,000"],
            ["Let me try it", "So let me try 3"],
        ),
        ("scrap *", "start", ["Scrap that."], []),
        (
            "take * back",
            "anywhere",
            ["I take it back", "take all of this back"],
            ["take a b c d e back", "take it"],
        ),
        ("?", "end", ["Is it?", 'Is it?"', "Is it? "], ["Is it? No."]),
        ("=", "anywhere", ["x = 2", "x=2"], ["x is 2"]),
        ("= #", "anywhere", ["x = 2", "x=2.5"], ["x = y"]),
        ("right", "end", ["That's right.", "right"], ["right here", "upright."]),
        ("c++", "anywhere", ["in C++ it is"], ["in C it is"]),
    ],
)
def test_what_a_phrase_matches(phrase, at, yes, no):
    assert [s for s in yes if not fires(phrase, s, at)] == []
    assert [s for s in no if fires(phrase, s, at)] == []


def test_openers_may_stand_before_a_start():
    openers = ("so", "and", "hmm")
    for sentence in ("So wait.", "Hmm, so, wait", "And so wait"):
        assert fires("wait", sentence, "start", openers=openers)
        assert not fires("wait", sentence, "start")
    assert not fires("wait", "Some wait.", "start", openers=openers)
    assert fires("so", "So wait.", "start", openers=openers), "an opener can be the phrase"


def test_priority_then_order_decides_and_is_explained():
    low = Rule("deduction", ("so", "thus"), priority=1)
    high = Rule("backtracking", ("wait",), priority=2)
    tie = Rule("uncertainty", ("wait",), priority=2)
    made = rules(low, high, tie)
    assert made.explain("So wait") == ("backtracking", "wait", 2)
    assert made.explain("So be it") == ("deduction", "so", 1)
    assert rules(low, tie, high).explain("wait").label == "uncertainty-estimation"
    assert made.explain("Well") == (UNPARSED, None, None)
    assert rules(low, otherwise="uncertainty").explain("Well").label == "uncertainty-estimation"


def test_unless_and_place_in_the_chain():
    made = rules(Rule("initializing", ("let me",), chain=(0.0, 0.2), unless=("check", "not *")))
    assert made.explain("Let me begin", 0.1).phrase == "let me"
    assert made.explain("Let me begin", 0.3).phrase is None
    assert made.explain("Let me check", 0.1).phrase is None


def test_spans_are_sentences_or_those_that_are_there():
    made = rules(Rule("backtracking", ("no",)), Rule("initializing", ("so",), chain=(0, 0)))
    text = "<think>So one. So no. So three, no"
    (trace,) = annotate(Trace("a", "t", text), made)
    labels = [(text[s.start : s.end], s.label) for s in trace.spans]
    assert labels == [
        ("So one.", "initializing"),
        ("So no.", "backtracking"),
        ("So three, no", "backtracking"),
    ]
    given = Trace("a", "t", text, spans=(Span(7, 13, "deduction"), Span(18, 20, "deduction")))
    (kept,) = annotate(given, made, keep_spans=True)
    assert kept.spans == (Span(7, 13, "initializing"), Span(18, 20, "backtracking"))


def test_the_name_tells_rules_apart():
    first = rules(Rule("deduction", ("so",)))
    assert first.name == rules(Rule("deduction", ("so",))).name
    others = [
        rules(Rule("deduction", ("so",), priority=1)),
        rules(Rule("deduction", ("so",)), otherwise="deduction"),
        rules(Rule("deduction", ("so",)), openers=("and",)),
        read_rules(),
    ]
    assert len({first.name, *(other.name for other in others)}) == 5
    assert annotate(Trace("a", "t", "So."), first)[0].annotator == first.name
    assert first.name.startswith("rules@")


# -- the file


FILE = """
otherwise = "checking"
openers = ["so"]
[[behaviors]]
name = "checking"
definition = "verifies a result"
[[rules]]
behavior = "backtracking"
phrases = ["wait"]
at = "start"
"""


def written(tmp_path, text):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return path


def test_a_file_may_bring_behaviours_of_its_own(tmp_path):
    made = read_rules(written(tmp_path, FILE))
    assert made.explain("So, wait").label == "backtracking"
    (trace,) = sk.annotate(Trace("a", "t", "It fits."), made)
    assert [span.label for span in trace.spans] == ["checking"]
    assert [b.definition for b in behaviors() if b.name == "checking"] == ["verifies a result"]
    assert read_rules(written(tmp_path, FILE)) == made, "reading it twice is fine"


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        ("rules = 3", "[[rules]]", AnnotationError),
        ("", "no rules", AnnotationError),
        ("[[rules", "TOML", AnnotationError),
        ("colour = 1\n" + FILE, "unknown entry 'colour'", AnnotationError),
        (FILE + "before = 'x'", "rule 1", AnnotationError),
        (FILE.replace('"start"', '"middle"'), "expected one of start", AnnotationError),
        (FILE.replace('["wait"]', "[]"), "never fires", AnnotationError),
        (FILE.replace('["wait"]', '"wait"'), "phrases", AnnotationError),
        (FILE + "chain = [0.5, 0.2]", "shares from 0 to 1", AnnotationError),
        (FILE + "chain = [0, 2]", "shares from 0 to 1", AnnotationError),
        (FILE + "priority = 'high'", "number", AnnotationError),
        (FILE.replace("backtracking", "backtrack"), "unknown behaviour 'backtrack'", BehaviorError),
        (FILE.replace('name = "checking"', 'name = "Checking it"'), "unusable name", BehaviorError),
        (FILE.replace('definition = "verifies a result"', ""), "definition", AnnotationError),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path, text, words, error):
    with pytest.raises(error) as caught:
        read_rules(written(tmp_path, text))
    assert words in str(caught.value) and "rules.toml" in str(caught.value)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ResourceError, match="no such rules file"):
        read_rules(tmp_path / "none.toml")


# -- the bundled rules


@pytest.mark.parametrize(
    ("sentence", "place", "label"),
    [
        ("Okay, so I need to find the number of sheep.", 0.0, "initializing"),
        ("Wait, no, that can't be right.", 0.5, "backtracking"),
        ("Scrap that, let me start over.", 0.5, "backtracking"),
        ("Alternatively, I could count the corners.", 0.5, "backtracking"),
        ("Hmm, I'm not sure this covers everything.", 0.5, "uncertainty-estimation"),
        ("But is that really so?", 0.5, "uncertainty-estimation"),
        ("Let's say there are 4 boxes.", 0.5, "example-testing"),
        ("For example, take n = 3.", 0.5, "example-testing"),
        ("I remember that the freezing point drops.", 0.5, "adding-knowledge"),
        ("So the total is 3 + 4 = 7.", 0.5, "deduction"),
        ("Therefore the answer is 7.", 0.9, "deduction"),
        ("Purple elephants.", 0.5, UNPARSED),
    ],
)
def test_bundled_rules_know_the_plain_cases(sentence, place, label):
    assert read_rules().explain(sentence, place).label == label


def test_bundled_rules_agree_with_the_writers_better_than_chance():
    gold = sk.read_traces(sk.data("traces/reasoning.jsonl"))
    made = annotate(gold, "rules", keep_spans=True)
    found = agree(gold, made, units=("spans",), resamples=200)
    assert found.value("kappa", "spans") > 0.35
    assert found.value("coverage", "spans") > 0.7
    # positive control: the labels of other chains, span by span, agree no better than chance
    other = [
        a.with_spans(
            [Span(s.start, s.end, x.label) for s, x in zip(a.spans, b.spans, strict=False)], "other"
        )
        for a, b in zip(gold, [*made[1:], made[0]], strict=True)
    ]
    assert agree(gold, other, units=("spans",), resamples=200).value("kappa", "spans") < 0.15


def test_bundled_file_is_where_it_is_said_to_be():
    assert read_rules() == read_rules(sk.data(BUNDLED))


def test_a_file_says_whose_labels_were_in_view(tmp_path):
    rules = '[[rules]]\nbehavior = "deduction"\nphrases = ["so"]\n'
    (tmp_path / "silent.toml").write_text(rules)
    (tmp_path / "open.toml").write_text(f'written_after = ["me", "judge:m"]\n{rules}')
    silent, said = (read_rules(tmp_path / f"{name}.toml") for name in ("silent", "open"))
    assert (silent.written_after, said.written_after) == ((), ("me", "judge:m"))
    assert silent.name == said.name
    (tmp_path / "open.toml").write_text(f'written_after = "me"\n{rules}')
    with pytest.raises(AnnotationError, match="written_after are unusable"):
        read_rules(tmp_path / "open.toml")
