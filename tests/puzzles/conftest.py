"""A corpus of chains as the base model is trained on, written and parsed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pytest
from jaxtyping import config

from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.grammar import Sentence, parse_chain
from steerkit.puzzles.narration import Chain
from steerkit.puzzles.tasks import KINDS, Puzzle, generate_tasks

COUNTS = dict(zip(KINDS, (800, 600, 600), strict=True))
"""The mixture of the training data: 0.4, 0.3 and 0.3."""


@dataclass(frozen=True)
class Written:
    """A task, its chain, and the chain's sentences as the grammar reads them."""

    task: Puzzle
    chain: Chain
    sentences: list[Sentence]

    @cached_property
    def solved(self) -> bool:
        return self.task.verify(self.chain.answer).correct

    @property
    def declined(self) -> bool:
        return self.chain.answer == "I do not know."

    @property
    def dead_ends(self) -> int:
        return sum(sentence.dead_end for sentence in self.sentences)

    def count(self, label: str) -> int:
        return sum(sentence.label == label for sentence in self.sentences)

    def text(self, sentence: Sentence) -> str:
        return self.chain.thinking[sentence.start : sentence.end]


@pytest.fixture(scope="session")
def corpus() -> Callable[..., list[Written]]:
    """Chains of some kinds, or of all."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)  # thousands of chains: a test below checks some
    try:
        written = _write()
    finally:
        config.update("jaxtyping_disable", before)
    return lambda *kinds: [one for kind in kinds or KINDS for one in written[kind]]


def _write() -> dict[str, list[Written]]:
    written = {}
    for kind, count in COUNTS.items():
        tasks = generate_tasks("train", seed=1, count=count, kinds=[kind])
        chains = [write_chain(task, "test") for task in tasks]
        pairs = zip(tasks, chains, strict=True)
        written[kind] = [Written(t, c, parse_chain(c.thinking)) for t, c in pairs]
    return written
