"""What a judge will cost, told beforehand, and what it did cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from steerkit.annotation.judge_prompt import Piece
from steerkit.errors import AnnotationError

# of the Qwen tokenizer, measured on two sets of 100 chains: 3.5 and 3.8, and 14.5 a label
CHARACTERS_PER_TOKEN = 3.5
TOKENS_PER_LABEL = 16
TOKENS_AROUND = 30

BASIS = (
    f"{CHARACTERS_PER_TOKEN:g} characters a token, {TOKENS_PER_LABEL} tokens a label; "
    "without retries, and without the thoughts of models that think first"
)
"""What the token counts of an :class:`Estimate` are based on."""


@dataclass(frozen=True)
class Price:
    """Of a million tokens, of prompts and of answers, in one currency (the user's)."""

    prompt: float
    answer: float

    def __post_init__(self) -> None:
        for value in (self.prompt, self.answer):
            if not 0 <= value < float("inf"):
                raise AnnotationError(
                    "a price is a number", expected="0 or more a million tokens", found=value
                )

    def of(self, prompt_tokens: float, answer_tokens: float) -> float:
        """The price of so many tokens."""
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / 1e6


@dataclass(frozen=True)
class Estimate:
    """What labelling some chains will take, as far as can be said without asking.

    Attributes
    ----------
    chains, sentences:
        What is to be labelled.
    requests, cached:
        Requests that have to be sent, and those whose answer is kept already.
    prompt_tokens, answer_tokens:
        Expected for the requests to be sent.
    cost:
        The same in the currency of the price; ``None`` without a price.
    basis:
        What the token counts are based on, in words.
    """

    chains: int
    sentences: int
    requests: int
    cached: int
    prompt_tokens: int
    answer_tokens: int
    cost: float | None
    basis: str = BASIS

    def to_json(self) -> dict[str, Any]:
        """The same as one JSON object."""
        return dict(vars(self))


def expected_tokens(piece: Piece) -> tuple[float, float]:
    """Tokens of a piece's prompt and of its answer, by rule of thumb (:data:`BASIS`)."""
    prompt = len(piece.message) / CHARACTERS_PER_TOKEN
    return prompt, piece.length * TOKENS_PER_LABEL + TOKENS_AROUND


def estimated(
    chains: int, todo: Sequence[Piece], kept: Sequence[Piece], price: Price | None
) -> Estimate:
    """The estimate for pieces that must be asked for and pieces that are kept."""
    tokens = [expected_tokens(piece) for piece in todo]
    prompt, answer = (round(sum(part)) for part in zip(*tokens, strict=True)) if tokens else (0, 0)
    return Estimate(
        chains,
        sum(piece.length for piece in (*todo, *kept)),
        len(todo),
        len(kept),
        prompt,
        answer,
        None if price is None else price.of(prompt, answer),
    )


@dataclass(frozen=True)
class Failure:
    """Sentences of a trace, numbered from 1, that were left ``unparsed``, and why."""

    trace: str
    sentences: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        noun = "sentence" if len(self.sentences) == 1 else "sentences"
        return f"{self.trace}, {noun} {_ranges(self.sentences)}: {self.reason}"


@dataclass
class JudgeReport:
    """What became of a run; it grows while chains are labelled.

    Attributes
    ----------
    pieces, cached:
        Parts of chains that were asked about, and those of them whose answer was kept.
    requests:
        Requests that were sent, retries included.
    malformed:
        Answers that could not be used, for which was asked again or given up.
    prompt_tokens, answer_tokens:
        As the server counts them; 0 where it does not say.
    cost:
        Of these tokens; ``None`` without a price.
    failures:
        Sentences that were left ``unparsed`` because no usable answer came.
    served:
        Names of the models that answered, as the server gives them, with counts.
    """

    pieces: int = 0
    cached: int = 0
    requests: int = 0
    malformed: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float | None = None
    failures: list[Failure] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)

    @property
    def left_out(self) -> int:
        """Sentences in :attr:`failures`."""
        return sum(len(failure.sentences) for failure in self.failures)


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: ``3, 5-9``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
