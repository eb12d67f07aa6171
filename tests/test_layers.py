"""Layers as they are asked for become plain integers, or an error of the caller's kind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import ExtractionError, SteeringError
from steerkit.layers import layer_numbers


@given(st.lists(st.integers(-3, 60), min_size=1, max_size=8))
def test_whatever_holds_the_numbers_they_are_the_same(numbers: list[int]) -> None:
    once = tuple(dict.fromkeys(numbers))
    for given_as in (numbers, np.array(numbers), iter(numbers), pd.Series(numbers, dtype="Int64")):
        found = layer_numbers(given_as, SteeringError)
        assert found == once and {type(number) for number in found} == {int}
    for one in (numbers[0], np.int32(numbers[0]), float(numbers[0]), np.array(numbers[0])):
        assert layer_numbers(one, SteeringError) == (numbers[0],)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [SteeringError, ExtractionError])
def test_what_is_no_whole_number_is_refused(kind: type[SteeringError]) -> None:
    for nonsense in (pd.NA, float("nan"), float("inf"), 0.5, "1", None, True, np.bool_(True)):
        for given_as in (nonsense, [0, nonsense]):
            with pytest.raises(kind, match="a layer is a whole number"):
                layer_numbers(given_as, kind)  # type: ignore[arg-type]
    for nothing in ([], (), range(0), np.array([], dtype=int)):
        with pytest.raises(kind, match="no layer was named"):
            layer_numbers(nothing, kind)
