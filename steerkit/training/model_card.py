"""The model card of a bundled model: what it is, how it was made, what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from steerkit.training.checkpoints import Position
from steerkit.training.config import SFTConfig
from steerkit.training.scorecard import Figure

_WHOLE = ("sentences per chain", "dead ends per chain")


def model_card(
    config: SFTConfig, position: Position, figures: Mapping[str, Figure], tasks: int
) -> str:
    """The text of ``README.md``: ``figures`` is a scorecard over ``tasks`` held-out tasks."""
    rows = "\n".join(_row(name, figure) for name, figure in figures.items())
    late = 1 - min(config.patient_chunks / max(position.chunk, 1), 1)
    return _CARD.format(config=config, position=position, tasks=tasks, rows=rows, late=late)


def _row(name: str, figure: Figure) -> str:
    if name in _WHOLE:
        return f"| {name} | {figure.value:.2f} | {figure.low:.2f} to {figure.high:.2f} |"
    value, low, high = (f"{100 * part:.1f} %" for part in (figure.value, figure.low, figure.high))
    return f"| {name} | {value} | {low} to {high} |"


_CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# countdown-thinking

A very small thinking model. It is given a Countdown task, writes a chain of thought in
English between `<think>` and `</think>`, and then its answer:

    Use 3, 7, 8 to make 29.

Numbers are 1 to 20, targets 10 to 99; every number is used exactly once, with `+ - * /`,
whole results only. Every sentence of its chains can be labelled exactly, as one of six
reasoning behaviours, by `steerkit annotate`.

It is for trying, testing and measuring methods that read or steer reasoning behaviours,
where behaviours can be counted without opinion. It is not for anything else: it knows no
other task, no other wording of this one, and about 200 English words; a word or number
that it does not know is one and the same token to it.

## How it was made

Qwen2 architecture ({config.layers} layers, width {config.hidden_size}), trained from
scratch on chains that a program generated: searches for a solution with dead ends, in
which every behaviour is optional and at least 30 % of dead ends are passed without a
backtracking sentence. The last {late:.0%} of the data are searches that give up sooner, so that
it learns to stop. {position.tokens:,} tokens in {position.step:,} steps, seed
{config.seed}. Tasks are split by hash of their numbers and target: 80 % for training,
10 % kept for reinforcement learning, 10 % held out. No human or model text is in the data.

    steerkit train sft --out DIR

makes it again.

## How to load it

    import steerkit as sk
    model = sk.load("countdown-thinking")

or, without steerkit, `AutoModelForCausalLM` and `PreTrainedTokenizerFast`, each with
`from_pretrained(FOLDER)`. Not `AutoTokenizer`: recent versions of transformers take the tokenizer
of any model of the Qwen2 architecture for Qwen's own, and give wrong ids without a word.

## What it does

{tasks} held-out tasks, one chain each, sampled at temperature 1 from the full softmax,
from exactly the weights in this folder (stored in float16, computed in float32). Intervals
are 95 % bootstrap intervals over tasks. Behaviours are shares of sentences.

| | value | 95 % interval |
|---|---|---|
{rows}

*Closed*: the chain ends with `</think>` within 960 tokens. *Parsed*: sentences that the
exact grammar knows. *Declined*: the answer is "I do not know." *Silent dead ends*: no
backtracking sentence comes between the dead end and the next equation.

## Licence

Apache-2.0, for the weights, the tokenizer and the data they were made from.
"""
