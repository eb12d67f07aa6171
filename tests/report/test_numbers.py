"""Numbers as text: rounded as they should be, and never a sign on zero or a p of nothing."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.report import numbers

MINUS, NARROW = "\u2212", "\u202f"


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, pd.NA, np.nan, "text"])
def test_what_is_missing_is_a_dash(missing):
    texts = (numbers.plain, numbers.percent, numbers.points, numbers.coefficient, numbers.duration)
    assert {text(missing) for text in texts} == {numbers.MISSING}
    assert numbers.probability(missing) == f"= {numbers.MISSING}" and not numbers.known(missing)


def test_numbers_as_they_are_printed():
    assert numbers.percent(0.0123) == f"1.2{NARROW}%"
    assert numbers.points(-0.123) == f"{MINUS}12.3" and numbers.points(0.1) == "+10.0"
    assert numbers.points(-0.0001) == "0.0" and numbers.signed(0.0) == "0.00"
    assert numbers.coefficient(0.3) == "+0.30" and numbers.coefficient(-0.125) == f"{MINUS}0.125"
    assert numbers.whole(1234.4) == "1,234"
    assert numbers.probability(0.00001) == "< 0.0001" and numbers.probability(0.0004) == "= 0.0004"
    assert numbers.probability(0.034) == "= 0.034" and numbers.probability(1.0) == "= 1.00"
    assert [numbers.duration(s) for s in (41, 61, 4000)] == ["41 s", "1 min 1 s", "1 h 6 min"]
    assert numbers.listed([]) == "" and numbers.listed(["a", "b", "c"]) == "a, b and c"
    assert numbers.counted(1, "chain") == "1 chain" and numbers.counted(2000, "x") == "2,000 xs"


@given(st.floats(-1e6, 1e6))
def test_a_printed_number_is_the_number(value):
    text = numbers.signed(value).replace(",", "").replace(MINUS, "-")
    assert float(text) == pytest.approx(value, abs=0.00501)
    assert text[0] in "+-" or float(text) == 0
