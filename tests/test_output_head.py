"""The output head reads rows without gaps while prompts are read, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerkit.output_head import packed_head
from tests.tiny import tiny_hf, tiny_model


def seen_by_head(hf: Any) -> tuple[list[bool], Any]:
    """Whether each input of the head's multiplication has gaps; and the handle to stop with."""
    found: list[bool] = []
    head = hf.get_output_embeddings()
    inner = head.forward

    def forward(states: torch.Tensor) -> torch.Tensor:
        found.append(not states.is_contiguous())
        return inner(states)

    head.forward = forward
    return found, lambda: setattr(head, "forward", inner)


def test_rows_of_several_prompts_reach_the_head_without_gaps() -> None:
    model = tiny_model()
    found, stop = seen_by_head(model.hf)
    try:
        model.generate(["Use 3, 7, 8 to make 29."] * 3, max_new_tokens=3)
    finally:
        stop()
    assert len(found) == 3 and not any(found)


def test_transformers_alone_hands_it_rows_with_gaps() -> None:
    hf = tiny_hf()
    found, stop = seen_by_head(hf)
    ids = torch.ones(3, 5, dtype=torch.int64)
    with torch.no_grad():
        plain = hf(input_ids=ids, logits_to_keep=1).logits
        assert found == [True]
        with packed_head(hf):
            packed = hf(input_ids=ids, logits_to_keep=1).logits
    stop()
    assert found == [True, False]
    torch.testing.assert_close(packed, plain)


def test_nothing_is_left_behind_after_an_exception() -> None:
    hf = tiny_hf()
    head = hf.get_output_embeddings()
    before = len(head._forward_pre_hooks)
    with pytest.raises(KeyError), packed_head(hf):
        assert len(head._forward_pre_hooks) == before + 1
        raise KeyError("stop")
    assert len(head._forward_pre_hooks) == before


def test_a_model_without_a_head_is_left_as_it_is() -> None:
    with packed_head(object()):
        pass
