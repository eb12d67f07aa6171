"""A growing cache holds what the library's own holds, and rows of several caches can be joined."""

from __future__ import annotations

import inspect
import weakref
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from steerkit import cache as cache_module
from steerkit.cache import GrowingLayer, growing_cache, join_caches, joinable
from tests.tiny import ARCHITECTURES, tiny_hf

HEADS, SIZE = 2, 3
SLIDING = ("gemma2", "gemma3", "mistral")
# windows shorter than every chain below, shorter than some, and longer than all
MODELS = [(name, {}) for name in ARCHITECTURES] + [
    (name, {"sliding_window": window}) for name in SLIDING for window in (3, 200)
]
NAMES = [f"{name}-{more.get('sliding_window', 'default')}" for name, more in MODELS]


@pytest.fixture(autouse=True)
def _no_layer_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers are concatenated; these tests are about those that keep room."""
    monkeypatch.setattr(cache_module, "_SMALL", 0)


def test_a_small_layer_is_concatenated_until_it_is_large(monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_SMALL", 2 * HEADS * 20 * SIZE)
    found, expected, kept = GrowingLayer(), DynamicLayer(), []
    for number in range(40):
        new = states(2, 1, number)
        found.update(*new), expected.update(*new)
        kept.append(found._buffers is not None)
        assert same(found, expected)
    assert kept == [False] * 20 + [True] * 20


def states(rows: int, positions: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, rows, HEADS, positions, SIZE, generator=generator)
    return drawn[0], drawn[1]


def same(found: DynamicLayer, expected: DynamicLayer) -> bool:
    return (
        torch.equal(found.keys, expected.keys)
        and torch.equal(found.values, expected.values)
        and found.get_seq_length() == expected.get_seq_length()
        and found.get_mask_sizes(1) == expected.get_mask_sizes(1)
    )


def replay(moves: list[tuple[str, Any]], found: DynamicLayer) -> bool:
    """Whether a layer and the library's own agree after every one of the moves."""
    expected, rows = DynamicLayer(), 3
    for number, (name, value) in enumerate([("update", 5), *moves]):
        if name == "update":
            new = states(rows, value, number)
            pairs = zip(found.update(*new), expected.update(*new), strict=True)
            if not all(torch.equal(a, b) for a, b in pairs):
                return False
        elif name == "select":
            chosen = torch.tensor([place % rows for place in value])
            rows = len(chosen)
            for layer in (found, expected):
                layer.batch_select_indices(chosen)
        elif name == "repeat":
            rows *= value
            for layer in (found, expected):
                layer.batch_repeat_interleave(value)
        else:
            for layer in (found, expected):
                layer.crop(-min(value, expected.get_seq_length() - 1))
        if not same(found, expected):
            return False
    return True


MOVES = st.one_of(
    st.tuples(st.just("update"), st.one_of(st.just(1), st.integers(1, 90))),
    st.tuples(st.just("select"), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
    st.tuples(st.just("crop"), st.integers(0, 90)),
    st.tuples(st.just("repeat"), st.integers(1, 2)),
)


@given(st.lists(MOVES, max_size=14))
@settings(max_examples=150, deadline=None)
def test_a_growing_layer_is_the_librarys_own_bit_by_bit(moves) -> None:
    assert replay(moves, GrowingLayer())


@pytest.mark.parametrize(
    "moves",
    [
        [("select", [2, 0]), ("update", 1)],
        [("select", [1, 2, 0]), ("update", 1)],
        [("update", 200), ("update", 80)],
    ],
)
def test_a_layer_that_kept_stale_room_would_be_noticed(moves, monkeypatch) -> None:
    """Positive control: room that is never questioned, as of rows that left or for too much."""
    assert replay(moves, GrowingLayer())
    monkeypatch.setattr(
        GrowingLayer, "_has_room", lambda self, states, length: self._buffers is not None
    )
    monkeypatch.setattr(
        GrowingLayer, "batch_select_indices", DynamicLayer.batch_select_indices, raising=True
    )
    try:
        noticed = not replay(moves, GrowingLayer())
    except RuntimeError:
        noticed = True
    assert noticed


def test_what_was_cut_off_in_front_does_not_come_back() -> None:
    """The first positions leave when rows are joined; then the view begins inside the buffer."""
    layer, expected = GrowingLayer(), DynamicLayer()
    for one in (layer, expected):
        one.update(*states(2, 20, 0))
        one.keys, one.values = one.keys[..., -7:, :], one.values[..., -7:, :]
        one.update(*states(2, 1, 1))
    assert same(layer, expected) and layer.get_seq_length() == 8


def moved(layer: DynamicLayer, steps: int) -> list[int]:
    """Lengths at which a step put the keys, or the values, to another place in memory."""
    layer.update(*states(2, 10, 0))
    found = []
    for number in range(steps):
        before = layer.keys.data_ptr(), layer.values.data_ptr()
        layer.update(*states(2, 1, number))
        if before != (layer.keys.data_ptr(), layer.values.data_ptr()):
            found.append(layer.get_seq_length())
    return found


def test_a_step_writes_its_own_and_leaves_the_rest_where_it_is() -> None:
    found = moved(GrowingLayer(), 1000)
    assert found[0] == 10 + 64 + 1
    gaps = [after - before for before, after in pairwise(found)]
    assert all(gap > max(64, before // 4) for gap, before in zip(gaps, found[:-1], strict=True))
    # positive control: the library's own moves everything at every step
    assert len(moved(DynamicLayer(), 1000)) == 1000


def test_the_room_of_rows_that_left_is_given_back() -> None:
    layer = GrowingLayer()
    layer.update(*states(4, 30, 0))
    held = weakref.ref(layer._buffers[0])
    room = layer.keys.untyped_storage().nbytes()
    assert held() is not None and room == 4 * HEADS * (30 + 64) * SIZE * 4
    layer.batch_select_indices(torch.tensor([3]))
    assert held() is None
    assert layer.keys.untyped_storage().nbytes() == HEADS * 30 * SIZE * 4


class Part:
    """Chains of random tokens, padded on the left and run: their cache and their mask."""

    def __init__(self, hf: Any, lengths: list[int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.hf = hf
        self.chains = [
            torch.randint(10, 200, (length,), generator=generator).tolist() for length in lengths
        ]
        width = max(lengths)
        self.mask = torch.zeros(len(lengths), width, dtype=torch.int64)
        ids = torch.zeros_like(self.mask)
        for row, chain in enumerate(self.chains):
            self.mask[row, width - len(chain) :] = 1
            ids[row, width - len(chain) :] = torch.tensor(chain)
        self.cache = growing_cache(hf.config)
        self._run(ids, (self.mask.cumsum(dim=1) - 1).clamp(min=0))

    def _run(self, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        accepted = inspect.signature(self.hf.forward).parameters
        cache = {"cache" if "cache" in accepted else "past_key_values": self.cache}
        with torch.no_grad():
            return self.hf(
                input_ids=ids,
                attention_mask=self.mask,
                position_ids=places,
                use_cache=True,
                **cache,
            ).logits[:, -1]

    def step(self, seed: int) -> torch.Tensor:
        """One more token for every row; the logits of the one after it."""
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(10, 200, (len(self.chains), 1), generator=generator)
        places = torch.tensor([[len(chain)] for chain in self.chains])
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], dim=1)
        for chain, token in zip(self.chains, tokens[:, 0].tolist(), strict=True):
            chain.append(token)
        return self._run(tokens, places)

    def alone(self) -> torch.Tensor:
        """What :meth:`step` gave, of every row by itself, without cache and padding."""
        with torch.no_grad():
            return torch.cat(
                [self.hf(input_ids=torch.tensor([chain])).logits[:, -1] for chain in self.chains]
            )


def join(parts: list[tuple[Part, list[int]]]) -> Part:
    """The chosen rows of several parts as one."""
    joined: Part = object.__new__(Part)
    joined.hf = parts[0][0].hf
    joined.chains = [list(part.chains[row]) for part, rows in parts for row in rows]
    lengths = [max(len(part.chains[row]) for row in rows) for part, rows in parts]
    longest = max(lengths)
    joined.mask = torch.cat(
        [
            torch.nn.functional.pad(part.mask[rows][:, -length:], (longest - length, 0))
            for (part, rows), length in zip(parts, lengths, strict=True)
        ]
    )
    joined.cache = join_caches(
        [(part.cache, torch.tensor(rows)) for part, rows in parts], lengths, joined.hf.config
    )
    return joined


JOINS = {
    "long beside short": ([40, 31], [0, 1], [4, 2], [1, 0]),
    "short beside long": ([5, 2], [1, 0], [50], [0]),
    # the longest rows leave, and the columns that were theirs alone
    "columns trimmed": ([45, 9, 21, 3], [3, 2, 1], [33, 6], [1]),
    "equal": ([12, 12], [0, 1], [12], [0]),
}


@pytest.mark.parametrize("lengths", JOINS)
@pytest.mark.parametrize(("architecture", "more"), MODELS, ids=NAMES)
def test_joined_rows_go_on_as_if_each_was_alone(architecture, more, lengths) -> None:
    hf = tiny_hf(architecture, **more)
    first, kept, second, taken = JOINS[lengths]
    joined = join([(Part(hf, first, 0), kept), (Part(hf, second, 1), taken)])
    for seed in (2, 3):
        torch.testing.assert_close(joined.step(seed), joined.alone(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("architecture", "more"), MODELS, ids=NAMES)
def test_rows_that_leave_take_their_columns_along(architecture, more) -> None:
    hf = tiny_hf(architecture, **more)
    part = Part(hf, [40, 7, 22], 0)
    rest = join([(part, [2, 1])])
    for seed in (1, 2, 3):
        torch.testing.assert_close(rest.step(seed), rest.alone(), rtol=1e-4, atol=1e-4)
    for layer in rest.cache.layers:
        sliding = isinstance(layer, DynamicSlidingWindowLayer)
        shown = min(25, layer.sliding_window - 1) if sliding else 25
        assert layer.keys.shape[:3] == layer.values.shape[:3] == (2, 1, shown)
        assert layer.get_seq_length() == 25


@pytest.mark.parametrize(("architecture", "more"), MODELS, ids=NAMES)
def test_rows_join_again_and_again(architecture, more) -> None:
    hf = tiny_hf(architecture, **more)
    once = join([(Part(hf, [30, 4], 0), [1]), (Part(hf, [18, 25], 1), [0, 1])])
    torch.testing.assert_close(once.step(2), once.alone(), rtol=1e-4, atol=1e-4)
    # the longest row leaves, and one that is longer than all comes
    twice = join([(once, [1, 0]), (Part(hf, [3, 37], 3), [1, 0])])
    for seed in (4, 5):
        torch.testing.assert_close(twice.step(seed), twice.alone(), rtol=1e-4, atol=1e-4)
    three = join([(twice, [3]), (Part(hf, [8], 6), [0])])
    torch.testing.assert_close(three.step(7), three.alone(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_were_put_one_column_off_would_be_noticed(architecture, monkeypatch) -> None:
    """Positive control: what is missing is filled in behind, or the wrong row is taken."""
    hf, pad = tiny_hf(architecture), torch.nn.functional.pad

    def behind(states: torch.Tensor, rows: torch.Tensor, length: int, width: int) -> torch.Tensor:
        return pad(states[rows, :, states.shape[-2] - length :], (0, 0, 0, width - length))

    def another(states: torch.Tensor, rows: torch.Tensor, length: int, width: int) -> torch.Tensor:
        kept = states[rows.flip(0), :, states.shape[-2] - length :]
        return pad(kept, (0, 0, width - length, 0))

    for wrong in (behind, another):
        monkeypatch.setattr(cache_module, "_padded", wrong)
        joined = join([(Part(hf, [5, 9], 0), [0, 1]), (Part(hf, [10], 1), [0])])
        found, expected = joined.step(2), joined.alone()
        assert float((found[:2] - expected[:2]).abs().amax(dim=1).min()) > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_caches_of_layers_that_are_known_can_be_joined_and_others_not(architecture) -> None:
    cache = growing_cache(tiny_hf(architecture).config)
    assert joinable(cache)
    kinds = [type(layer) for layer in cache.layers]
    assert set(kinds) <= {GrowingLayer, DynamicSlidingWindowLayer}
    assert (DynamicSlidingWindowLayer in kinds) == (architecture in SLIDING)

    class Special(DynamicSlidingWindowLayer):
        """What a model with a cache of its own might bring."""

    for other in (DynamicLayer(), StaticLayer(64), Special(16)):
        strange = growing_cache(tiny_hf(architecture).config)
        strange.layers[-1] = other
        assert not joinable(strange)
