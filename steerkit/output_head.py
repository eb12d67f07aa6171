"""Output head: the matrix from the residual stream to logits, kept quick for the last token alone.

Of a prompt only the last position's logits are needed, and transformers hands the head a slice of
all positions: with several rows a tensor with gaps in memory. ``torch.nn.functional.linear`` makes
one multiplication a row of it, and in bfloat16 on a CPU copies the whole matrix for each, 0.47 GB
for a vocabulary of 151,936 and a width of 1,536. Rows without gaps are one multiplication.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def packed_head(hf: Any) -> Iterator[None]:
    """Within it the output head of a model reads its input as rows without gaps.

    The same numbers go in. What comes out differs at most by rounding, where another kernel adds up
    in another order. Models without a head of their own are left as they are.
    """
    find = getattr(hf, "get_output_embeddings", None)
    head = None if find is None else find()
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(_pack)
    try:
        yield
    finally:
        handle.remove()


def _pack(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (arguments[0].contiguous(), *arguments[1:])
