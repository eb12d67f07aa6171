"""Teacher forcing: what a model foretells at the tokens of chains that are already written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from steerkit.alignment import AlignedTrace
from steerkit.models import ThinkingModel
from steerkit.places import Positions
from steerkit.positions import PAD, PROMPT, THINK
from steerkit.steering import RowSteering
from steerkit.streaming import cut
from steerkit.terms import Terms
from steerkit.traces import Trace

AT_ONCE = 256
"""Positions whose log-probabilities over the whole vocabulary are held at once."""


@dataclass(frozen=True)
class Forced:
    """Chains side by side, padded on the right.

    Attributes
    ----------
    ids:
        Token ids.
    positions:
        What every position is (:class:`steerkit.places.Positions`).
    boundaries:
        Of every span that has a token before it: row, the position before it, the id of its
        first token, its label.
    tasks:
        Hash of every row's task.
    numbers:
        Place of every row's chain in the sequence that was given.
    """

    ids: Int64[Tensor, "row position"]
    positions: Positions
    boundaries: tuple[tuple[int, int, int, str], ...]
    tasks: tuple[str, ...]
    numbers: tuple[int, ...]

    @property
    def thinking(self) -> Tensor:
        """Positions that foretell a token of the thinking section, ``[row, position]`` bool."""
        return self.positions.phase == THINK

    @property
    def written(self) -> Bool[Tensor, "row position"]:
        """Positions that foretell a token of the response that is there."""
        real = self.positions.phase != PAD
        followed = torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)
        return followed & (self.positions.step >= 0)

    def halves(self) -> list[Forced]:
        """The rows in two parts, for when all together do not fit in memory."""
        half = len(self.ids) // 2
        return [self._rows(0, half), self._rows(half, len(self.ids))]

    def _rows(self, start: int, stop: int) -> Forced:
        inside = [b for b in self.boundaries if start <= b[0] < stop]
        return Forced(
            self.ids[start:stop],
            self.positions.select(slice(start, stop)),
            tuple((row - start, at, token, label) for row, at, token, label in inside),
            self.tasks[start:stop],
            self.numbers[start:stop],
        )


def forced_batches(
    model: ThinkingModel,
    traces: Sequence[Trace],
    *,
    tokens: int | None,
    batch_tokens: int,
    thoughtless: bool = False,
) -> Iterator[Forced]:
    """Chains cut to their first ``tokens`` tokens, in batches of ``batch_tokens`` positions.

    Without ``tokens`` only what is beyond the context is cut. Chains of like length run side by
    side; one without thinking within its first ``tokens`` is left out, unless the
    ``thoughtless`` are asked for too, and so is one without any token.
    """
    chains = []
    for number, trace in enumerate(traces):
        chain = model.align(trace)
        limit = min(x for x in (tokens, model.context, len(chain.ids)) if x is not None)
        chain = cut(chain, limit) if len(chain.ids) > limit else chain
        if chain.ids and (thoughtless or bool((chain.phases == THINK).any())):
            chains.append((number, chain))
    chains.sort(key=lambda item: (-len(item[1].ids), item[1].trace_id))
    while chains:
        rows = max(batch_tokens // len(chains[0][1].ids), 1)
        yield _forced(model, chains[:rows])
        chains = chains[rows:]


def _forced(model: ThinkingModel, items: Sequence[tuple[int, AlignedTrace]]) -> Forced:
    numbers, chains = zip(*items, strict=True)
    shape = (len(chains), max(len(chain.ids) for chain in chains))
    ids = torch.full(shape, model.pad_id)
    phase = torch.full(shape, PAD, dtype=torch.int8)
    index = torch.arange(shape[1]).expand(shape).clone()
    step, starts = torch.full(shape, -1), torch.zeros(shape, dtype=torch.bool)
    boundaries = []
    for row, chain in enumerate(chains):
        length = len(chain.ids)
        ids[row, :length] = torch.tensor(chain.ids)
        phase[row, :length] = chain.phases[:length]
        first = min(max(chain.prompt_length - 1, 0), length)
        step[row, first:length] = torch.arange(length - first)
        begins = _sentence_starts(model, chain)
        starts[row, first:length] = torch.tensor(begins[len(begins) - (length - first) :])
        for start, _, label in chain.spans:
            if start > 0:
                boundaries.append((row, start - 1, chain.ids[start], label))
    return Forced(
        ids,
        Positions(phase=phase, index=index, step=step, starts=starts),
        tuple(boundaries),
        tuple(chain.task_key for chain in chains),
        numbers,
    )


def _sentence_starts(model: ThinkingModel, chain: AlignedTrace) -> list[bool]:
    """Whether a position foretells the first token of a sentence, from the prompt's last on.

    By the same rule as while a chain is written (:mod:`steerkit.response`).
    """
    starts = [True]
    for i in range(chain.prompt_length, len(chain.ids)):
        opened = i > 0 and chain.phases[i - 1] == PROMPT and chain.phases[i] == THINK
        ended = model.ends_sentence(chain.ids[i])
        starts.append(bool(opened) or (starts[-1] if ended is None else ended))
    return starts


def last_states(
    model: ThinkingModel, forced: Forced, terms: Terms | None = None
) -> Float[Tensor, "row position d_model"]:
    """What the unembedding reads, after the final norm, with these terms at work.

    Causal attention never looks right, so padding on the right needs no mask. No logits are
    made here: :func:`log_probabilities` makes those that are wanted.
    """
    steering = RowSteering(model, [terms or Terms()] * len(forced.ids))
    steering.place(forced.positions)
    with model.own_passes(), steering.attached():
        decoder = model.hf.get_decoder()
        output = decoder(input_ids=forced.ids.to(model.device), use_cache=False)
    return output.last_hidden_state


def log_probabilities(
    model: ThinkingModel, states: Float[Tensor, "position d_model"]
) -> Float[Tensor, "position vocabulary"]:
    """Of every token of the vocabulary after every position, float32 natural logarithms.

    The softmax is that at temperature 1; logits that the architecture caps (Gemma) are capped.
    """
    logits = model.hf.get_output_embeddings()(states).float()
    cap = getattr(model.hf.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits[:, : model.vocabulary].log_softmax(dim=-1)


def divergences(
    model: ThinkingModel,
    states: Float[Tensor, "position d_model"],
    others: Float[Tensor, "position d_model"],
) -> Float[Tensor, " position"]:
    """KL(p || q) of what is foretold after each of ``states`` and of ``others``, in nats.

    Over the whole vocabulary at temperature 1. p is that of ``states``.
    """
    found = [torch.zeros(0, device=states.device)]
    for first in range(0, len(states), AT_ONCE):
        here = slice(first, first + AT_ONCE)
        p = log_probabilities(model, states[here])
        q = log_probabilities(model, others[here])
        found.append((p.exp() * (p - q)).sum(dim=-1))
    return torch.cat(found)
