"""Every error says what is wrong, what was expected, what was found, where and what to do."""

from __future__ import annotations

import pickle

import pytest

from steerkit import errors
from steerkit.errors import ResourceError, SteerkitError, TraceError, TrainingError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SteerkitError)
]


def full(kind: type[SteerkitError]) -> SteerkitError:
    return kind(
        "the span leaves the text",
        expected="offsets within 0 and 9",
        found=12,
        where="chains.jsonl, line 3",
        fix="count characters",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_message_is_the_parts_on_one_line(kind):
    assert str(full(kind)) == (
        "chains.jsonl, line 3: the span leaves the text "
        "(expected offsets within 0 and 9; found 12). Count characters"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_attributes_and_survive_pickling(kind):
    error = full(kind)
    copy = pickle.loads(pickle.dumps(error))
    for this in (error, copy):
        assert type(this) is kind and str(this) == str(full(kind))
        assert this.problem == "the span leaves the text"
        assert this.expected == "offsets within 0 and 9"
        assert this.found == "12"
        assert this.where == "chains.jsonl, line 3"
        assert this.fix == "count characters"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "bad"),
        ({"expected": "1"}, "bad (expected 1)"),
        ({"found": 0}, "bad (found 0)"),
        ({"where": "a"}, "a: bad"),
        ({"fix": "mend it"}, "bad. Mend it"),
    ],
)
def test_parts_that_are_not_given_leave_no_trace(parts, message):
    error = SteerkitError("bad", **parts)
    assert str(error) == message and error.args == (message,)
    absent = {"expected", "found", "where", "fix"} - set(parts)
    assert all(getattr(error, name) is None for name in absent)


def test_one_family_that_also_is_what_python_calls_it():
    assert len(KINDS) > 5
    for kind in KINDS:
        if kind is SteerkitError:
            continue
        builtin = {ResourceError: FileNotFoundError, TrainingError: RuntimeError}
        assert issubclass(kind, builtin.get(kind, ValueError)), kind
        with pytest.raises(SteerkitError):
            raise kind("bad")


def test_errors_of_one_kind_are_not_caught_as_another():
    assert not issubclass(TraceError, errors.BehaviorError)
    with pytest.raises(TraceError):
        try:
            raise TraceError("bad")
        except errors.BehaviorError:
            pytest.fail("caught as another kind")
