"""What every kind of puzzle shares: its pool and the verdict on an answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Pool = Literal["train", "rl", "heldout"]


def pool_of(task_id: str) -> Pool:
    """``train`` (80 %), ``rl`` (10 %) or ``heldout`` (10 %), by BLAKE2b of the normalised task.

    The id names the numbers in sorted order, so no reordering of a task lies in another pool.
    """
    digest = hashlib.blake2b(task_id.encode(), digest_size=8).digest()
    return (*("train",) * 8, "rl", "heldout")[int.from_bytes(digest, "big") % 10]


@dataclass(frozen=True)
class Verdict:
    """Whether an answer solves its task, and why not.

    ``reason`` is one of ``correct``, ``no answer`` (nothing that could be one),
    ``unreadable`` (not an expression), ``numbers`` (not every number exactly once),
    ``rule`` (a negative or fractional intermediate result) and ``value`` (another result).
    """

    correct: bool
    reason: str
