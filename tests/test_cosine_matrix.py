"""A matrix of cosines: its table, its parts by name and layer, and the layer to look at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from steerkit.cosine_matrix import PARTS, Cosines, between, middle_layer, shared_layers
from steerkit.direction import Direction
from steerkit.errors import VectorsError
from steerkit.geometry import cosines
from tests.synthetic import LABELS, collected, synthetic_chains
from tests.test_vectors import direction


def test_the_table_has_a_row_for_every_layer_and_pair() -> None:
    found = cosines(collected(synthetic_chains(25, seed=1)))
    table = found.table()
    assert list(table) == ["behavior_a", "behavior_b", "layer", *PARTS]
    assert len(table) == 2 * 9 and set(table["layer"]) == {0, 1}
    part = found.table(np.int64(1))
    assert len(part) == 9 and set(part["layer"]) == {1}
    for column in PARTS:
        matrix = part.pivot(index="behavior_a", columns="behavior_b", values=column)
        expected = getattr(found, column)[1].numpy()
        np.testing.assert_array_equal(matrix.loc[list(LABELS), list(LABELS)].to_numpy(), expected)
    assert list(found.table([1, 0])["layer"].drop_duplicates()) == [1, 0]
    with pytest.raises(VectorsError, match=r"no cosines at layer 7.*layers 0, 1"):
        found.table(7)


def test_cosines_of_directions_have_no_intervals_of_their_own() -> None:
    named = {n: direction(n, k) for k, n in enumerate(LABELS)}
    found = between(named)
    assert found.behaviors == LABELS and found.layers == (1, 2, 4)
    for i, a in enumerate(named.values()):
        for j, b in enumerate(named.values()):
            expected = torch.cosine_similarity(a.tensor.double(), b.tensor.double(), dim=-1)
            torch.testing.assert_close(found.cosine[:, i, j], expected)
    assert bool(found.low.isnan().all() and found.high.isnan().all())
    zero = replace(named["deduction"], tensor=torch.zeros(3, 8))
    found = between({**named, "deduction": zero})
    assert bool(found.cosine[:, 0].isnan().all()) and bool(found.cosine[:, 1:, 1:].isfinite().all())


def test_intervals_are_taken_over_by_name_and_layer() -> None:
    named = {
        n: direction(n, k) for k, n in enumerate(("backtracking", "initializing", *LABELS[:2]))
    }
    parts = {p: torch.rand(2, 3, 3, dtype=torch.float64) for p in PARTS}
    known = Cosines(LABELS, (4, 1), **parts)  # other behaviours, other layers, another order
    found = between(named).with_intervals_of(known)
    torch.testing.assert_close(found.cosine, between(named).cosine)
    for part in PARTS[1:]:
        values = getattr(found, part)
        assert bool(values[1].isnan().all()) and bool(values[:, 1].isnan().all())
        for row, theirs in ((0, 1), (2, 0)):  # layers 1 and 4
            assert float(values[row, 0, 2]) == float(parts[part][theirs, 2, 0])
            assert float(values[row, 3, 2]) == float(parts[part][theirs, 1, 0])
    apart = Cosines(("summing-up",), (4,), **{p: torch.ones(1, 1, 1) for p in PARTS})
    assert bool(between(named).with_intervals_of(apart).low.isnan().all())


def _cut(whole: Direction, layers: tuple[int, ...]) -> Direction:
    """A direction at these layers alone."""
    n = len(layers)
    norms = {name: getattr(whole, name)[:n] for name in ("mean_norm", "norm_of_mean")}
    bare = dict.fromkeys(("split_half", "split_half_shuffled", "auroc", "cone"))
    return replace(whole, layers=layers, tensor=whole.tensor[:n], **norms, **bare)


def test_the_middle_of_the_suggested_layers() -> None:
    def made(*layers: int | None) -> dict:
        return {n: direction(n, layer=k) for n, k in zip("abcd", layers, strict=False)}

    assert middle_layer(made(4, 1, 2)) == 2
    assert middle_layer(made(4, 1, None)) == 1  # the lower of two
    assert middle_layer(made(None, None)) == 2
    named = made(4, 4)
    few = _cut(direction("e", layer=1), (1, 2))
    assert shared_layers({**named, "e": few}) == (1, 2)
    assert middle_layer({**named, "e": few}) == 2  # 4 is not there for all
    other = _cut(direction("f", layer=5), (5,))
    for nothing in ({**named, "f": other}, {}):
        with pytest.raises(VectorsError, match="no layer that all directions have"):
            shared_layers(nothing)
