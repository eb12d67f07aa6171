"""Response: what a model has written so far, and what its positions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steerkit.models import ThinkingModel
from steerkit.positions import ANSWER, PROMPT, THINK, still_opening


@dataclass(kw_only=True)
class Response:
    """Tokens of a response as they come, followed position by position.

    Attributes
    ----------
    ids:
        Token ids so far.
    phases, starts:
        Of the last prompt position and of that of every token in ``ids``: its phase, and
        whether it predicts the first token of a sentence.
    """

    ids: list[int] = field(default_factory=list)
    phases: list[int]
    starts: list[bool] = field(default_factory=lambda: [True])


def first_phase(model: ThinkingModel) -> int:
    """Phase of the last prompt position: it predicts a thought, or the opening think string."""
    return PROMPT if model.waits_for_opening else THINK


def follow(model: ThinkingModel, response: Response, token: int) -> None:
    """Append a token to the response, and what its position is."""
    response.ids.append(token)
    response.phases.append(phase_after(model, response.phases[-1], response.ids))
    opened = response.phases[-2] == PROMPT and response.phases[-1] == THINK
    ended = model.ends_sentence(token)
    response.starts.append(opened or (response.starts[-1] if ended is None else ended))


def phase_after(model: ThinkingModel, phase: int, ids: Sequence[int]) -> int:
    """Phase of the position that holds the newest of ``ids``, from that of the one before."""
    if phase == ANSWER:
        return ANSWER
    opening, closing = model.think
    if phase == PROMPT:
        return PROMPT if still_opening(spell(model, ids), opening) else THINK
    if model.closing_id is not None:
        return ANSWER if ids[-1] == model.closing_id else THINK
    return ANSWER if closing in spell(model, ids[-len(closing) :]) else THINK


def spell(model: ThinkingModel, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens spelled out."""
    text = model.tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return str(text)
