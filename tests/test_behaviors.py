"""Six behaviours built in, open to the user's own; names never become ambiguous."""

from __future__ import annotations

import pytest

from steerkit.behaviors import UNPARSED, Behavior, behavior, behaviors, declare
from steerkit.errors import BehaviorError

BUILT_IN = (
    "initializing",
    "deduction",
    "adding-knowledge",
    "example-testing",
    "uncertainty-estimation",
    "backtracking",
)


def test_six_are_built_in_in_a_fixed_order():
    assert tuple(b.name for b in behaviors()) == BUILT_IN
    assert all(b.definition for b in behaviors())
    assert len({b.color for b in behaviors()}) == len(BUILT_IN)


def test_a_behaviour_is_found_by_name_and_by_short_name():
    for name in BUILT_IN:
        assert behavior(name).name == name
    assert behavior("uncertainty") is behavior("uncertainty-estimation")


@pytest.mark.parametrize("name", ["reflection", "Deduction", "", UNPARSED, "deduction "])
def test_an_unknown_name_is_an_error_that_lists_the_known(name):
    with pytest.raises(BehaviorError) as error:
        behavior(name)
    assert repr(name) in str(error.value)
    assert all(known in str(error.value) for known in BUILT_IN)
    assert "declare" in str(error.value)


def test_declared_behaviours_come_after_the_built_in():
    own = declare(Behavior("self-check", "checks a result again", "#123456", short="check"))
    assert behavior("self-check") is own and behavior("check") is own
    assert tuple(b.name for b in behaviors()) == (*BUILT_IN, "self-check")
    with pytest.raises(BehaviorError, match="self-check"):
        behavior("nothing")


def test_declaring_the_same_again_is_harmless():
    for same in (Behavior("own", "one"), Behavior("own", "one"), behavior("deduction")):
        assert declare(same) == same
    assert len(behaviors()) == len(BUILT_IN) + 1


def test_one_of_ones_own_can_be_declared_anew():
    declare(Behavior("own", "one", short="mine"))
    declare(Behavior("other", "another"))
    changed = declare(Behavior("own", "said better", "#123456", short="ours"))
    assert behavior("own") is changed and behavior("ours") is changed
    assert [b.name for b in behaviors()[len(BUILT_IN) :]] == ["own", "other"]
    assert declare(Behavior("third", "takes the name that is free again", short="mine"))
    with pytest.raises(BehaviorError, match="'mine' is taken"):
        declare(Behavior("own", "wants it back", short="mine"))


@pytest.mark.parametrize(
    ("clashing", "taken"),
    [
        (Behavior("deduction", "another definition"), "deduction"),
        (Behavior("uncertainty", "takes a short name"), "uncertainty"),
        (Behavior("own", "takes a name as short", short="deduction"), "deduction"),
        (Behavior("own", "takes a short name", short="uncertainty"), "uncertainty"),
        (Behavior(UNPARSED, "what annotators say of the rest"), UNPARSED),
        (Behavior("own", "hides it in a short name", short=UNPARSED), UNPARSED),
    ],
)
def test_a_name_in_use_is_refused_and_nothing_changes(clashing, taken):
    before = behaviors()
    with pytest.raises(BehaviorError, match=f"'{taken}' is taken"):
        declare(clashing)
    assert behaviors() == before


@pytest.mark.parametrize(
    "name", ["", "Own", "two words", "own-", "-own", "1st", "own--more", "own\n", "é", "a:b", "a@2"]
)
def test_unusable_names_are_refused(name):
    for arguments in ({"name": name}, {"name": "own", "short": name}):
        with pytest.raises(BehaviorError, match="unusable name") as error:
            Behavior(definition="one", **arguments)
        assert error.value.found == repr(name)


@pytest.mark.parametrize("name", ["own", "own-more", "own_more", "step2", "a-1-b"])
def test_usable_names_are_not(name):
    assert declare(Behavior(name, "one")).name == name


@pytest.mark.parametrize("color", ["", "red", "#12345", "#1234567", "123456", "#12345g"])
def test_unusable_colours_are_refused(color):
    with pytest.raises(BehaviorError, match="'own' has an unusable colour"):
        Behavior("own", "one", color)
