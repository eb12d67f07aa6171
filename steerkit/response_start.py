"""Where the response begins in token ids that others have put together."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

from steerkit.response import spell

if TYPE_CHECKING:
    from steerkit.models import ThinkingModel


class ResponseStart:
    """Tells prompt and response apart in a sequence, by its text.

    By text and not by ids, because a tokenizer may join the end of a think string with what
    comes after it.

    Parameters
    ----------
    model:
        Whose chat template and think strings are looked for.
    """

    def __init__(self, model: ThinkingModel) -> None:
        self._model = model

    def after_template(self, ids: Sequence[int]) -> int | None:
        """Number of ids up to the last place where the chat template gives the model its turn;
        ``None`` where it does so nowhere."""
        core, text = self._turn.rstrip(), spell(self._model, ids)
        found = text.rfind(core) if core else -1
        if found < 0:
            return None
        return self._length(ids, self._past_blanks(text, found + len(core)))

    def by_opening(self, ids: Sequence[int]) -> int | None:
        """The same, told by the last opening think string: it is the prompt's for a model whose
        template writes it, else the response's."""
        text, opening = spell(self._model, ids), self._model.think[0]
        found = text.rfind(opening)
        if found < 0:
            return None
        if self._model.opens_thinking:
            found = self._past_blanks(text, found + len(opening))
        return self._length(ids, found)

    @cached_property
    def _turn(self) -> str:
        """What the chat template writes after every message of a user."""
        texts = [spell(self._model, self._model.render(message)) for message in "12"]
        if texts[0] == texts[1]:  # the tokenizer does not tell the messages apart
            return ""
        pairs = zip(texts[0][::-1], texts[1][::-1], strict=False)
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        return texts[0][len(texts[0]) - shared :]

    def _past_blanks(self, text: str, end: int) -> int:
        """The end of the white space with which the template ends, or of any if it is other."""
        blanks = self._turn[len(self._turn.rstrip()) :]
        if text.startswith(blanks, end):
            return end + len(blanks)
        return len(text) - len(text[end:].lstrip())

    def _length(self, ids: Sequence[int], end: int) -> int:
        """How many ids spell the first ``end`` characters, the last one perhaps some more."""
        return bisect_left(
            range(len(ids)), end, key=lambda count: len(spell(self._model, ids[:count]))
        )
