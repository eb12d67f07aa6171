"""Batches of program-generated chains for supervised training."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.tasks import KINDS, draw_task, generate_tasks
from steerkit.training.checkpoints import Position
from steerkit.training.config import SFTConfig
from steerkit.training.tokenizer import EOS

IGNORED = -100
"""The label of a token without loss, as PyTorch's cross entropy has it."""

CHUNK = 1024
"""Chains that are generated and sorted by length together."""

Example = tuple[list[int], int]
"""Token ids of prompt, response and end token; how many of them are the prompt's."""


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, response: str) -> Example:
    """Tokenise the rendered prompt and the response, each by itself, and append the end token."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    # not verbose: chains longer than the context are left out later, a warning would mislead
    before = tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
    after = tokenizer(response + EOS, add_special_tokens=False, verbose=False)["input_ids"]
    return before + after, len(before)


def chunk_of_batches(
    config: SFTConfig, tokenizer: PreTrainedTokenizerFast, index: int
) -> list[list[Example]]:
    """Batches of chunk ``index`` of the endless training data.

    A chunk holds ``CHUNK`` random tasks of the train pool, mixed as ``config.mixture`` says,
    with a new chain each. Chains of like length share a batch, so that little of it is
    padding; the batches come in random order. A chunk depends on the configuration and its
    index alone.
    """
    dice = random.Random(f"chunk {config.seed} {index}")
    examples = []
    for number, kind in enumerate(dice.choices(KINDS, config.mixture, k=CHUNK)):
        task = draw_task("train", kind, dice)
        chain = write_chain(task, f"{config.seed} {index} {number}")
        entry = encode(tokenizer, task.prompt, chain.response)
        if len(entry[0]) <= config.longest:
            examples.append(entry)
    examples.sort(key=lambda entry: len(entry[0]))
    batches: list[list[Example]] = [[]]
    for entry in examples:
        # sorted by length: the newest entry is the longest of its batch
        if batches[-1] and (len(batches[-1]) + 1) * len(entry[0]) > config.batch_tokens:
            batches.append([])
        batches[-1].append(entry)
    dice.shuffle(batches)
    return batches


def batches_from(
    config: SFTConfig, tokenizer: PreTrainedTokenizerFast, position: Position
) -> Iterator[list[Example]]:
    """Endless batches from ``position`` on; its place moves past each before it is yielded."""
    while True:
        batches = chunk_of_batches(config, tokenizer, position.chunk)
        while position.batch < len(batches):
            position.batch += 1
            yield batches[position.batch - 1]
        position.chunk += 1
        position.batch = 0


def collate(
    batch: list[Example], pad: int
) -> tuple[Int64[Tensor, "row position"], Int64[Tensor, "row position"]]:
    """Ids, padded on the right with ``pad``, and labels: ids of responses, else ``IGNORED``."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), longest), pad)
    labels = torch.full((len(batch), longest), IGNORED)
    for row, (tokens, prompt) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, prompt : len(tokens)] = torch.tensor(tokens[prompt:])
    return ids, labels


def held_out_batch(
    config: SFTConfig, tokenizer: PreTrainedTokenizerFast, count: int = 48
) -> list[Example]:
    """Chains for ``count`` held-out tasks, those that are too long left out."""
    tasks = generate_tasks("heldout", seed=config.seed, count=count)
    examples = [encode(tokenizer, t.prompt, write_chain(t, "heldout").response) for t in tasks]
    return [entry for entry in examples if len(entry[0]) <= config.longest]
