"""The model cards of the bundled models: what each is, how it was made, what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from steerkit.statistics import Interval
from steerkit.training.base import Base
from steerkit.training.checkpoints import Position, RLPosition
from steerkit.training.config import RLConfig, SFTConfig
from steerkit.training.scorecard import LONGEST

_WHOLE = ("sentences per chain", "dead ends per chain")


def sft_card(
    config: SFTConfig, position: Position, figures: Mapping[str, Interval], tasks: int
) -> str:
    """``README.md`` of countdown-base: ``figures`` is a scorecard over ``tasks`` tasks."""
    made = _SFT.format(config=config, position=position)
    return _card("countdown-base", _BASE, made, figures, tasks)


def rl_card(
    config: RLConfig,
    position: RLPosition,
    base: Base,
    figures: Mapping[str, Interval],
    tasks: int,
) -> str:
    """``README.md`` of countdown-thinking: ``figures`` is a scorecard over ``tasks`` tasks."""
    kinds = ", ".join(config.kinds)
    rows = config.tasks * config.samples
    made = _RL.format(config=config, position=position, base=base, kinds=kinds, rows=rows)
    return _card("countdown-thinking", _THINKING, made, figures, tasks)


def _card(name: str, what: str, made: str, figures: Mapping[str, Interval], tasks: int) -> str:
    rows = "\n".join(_row(figure, value) for figure, value in figures.items())
    return _CARD.format(name=name, what=what, made=made, tasks=tasks, rows=rows, longest=LONGEST)


def _row(name: str, figure: Interval) -> str:
    if name in _WHOLE:
        return f"| {name} | {figure.value:.2f} | {figure.low:.2f} to {figure.high:.2f} |"
    value, low, high = (f"{100 * part:.1f} %" for part in (figure.value, figure.low, figure.high))
    return f"| {name} | {value} | {low} to {high} |"


_BASE = """\
A very small thinking model as supervised training leaves it: it has the form of a search and
of every reasoning behaviour, and is right less often than it could be. It is the first state
of the reinforcement learning that makes countdown-thinking."""

_THINKING = """\
A very small thinking model, trained in two stages as large ones are: supervised on chains of
thought (countdown-base), then by reinforcement learning with rewards that a program verifies."""

_SFT = """\
Qwen2 architecture ({config.layers} layers, width {config.hidden_size}), trained from
scratch on chains that a program generated, searches of many kinds: some are patient and some
give up at once, some never say that they go back, some never test, some wander. Every
behaviour is optional, and at least 30 % of dead ends are passed without a backtracking
sentence. {position.tokens:,} tokens in {position.step:,} steps, seed
{config.seed}. Tasks are split by hash of their numbers: 80 % for training, 10 % kept for
reinforcement learning, 10 % held out. No human or model text is in the data.

    steerkit train sft --out DIR"""

_RL = """\
Reinforcement learning from {base.name}, whose `model.safetensors` has the SHA-256

    {base.sha256}

In each of {position.step:,} steps the model wrote {config.samples} chains for each of
{config.tasks} tasks ({rows} chains, {position.tokens:,} tokens in all), at temperature 1 and
cut off at {config.longest} tokens. A chain is rewarded with 1 for a correct answer, as a
program verifies it, and with {config.form_reward} for a well-formed end: the thinking section
closed, the chain ended, the answer readable (or "I do not know."). Nothing rewards any
behaviour. The gradient is RLOO's (arXiv 2402.14740), on-policy: a chain's advantage is its
reward minus the mean of the other chains of its task. Learning rate {config.learning_rate:g},
seed {config.seed}. Tasks are of the kinds {kinds}, in turn, from the 10 % that are kept for
this stage: supervised training has not seen them, and no held-out task is among them.

What this reward means for behaviours, although it names none: a chain that searches past the
cut-off earns nothing, so very long searches are discouraged; and "I do not know." earns as
much as a wrong answer, so a guess is never worse than giving up.

    steerkit train rl --out DIR --base {base.name}"""

_CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# {name}

{what}

It is given a task, writes a chain of thought in English between `<think>` and `</think>`, and
then its answer. Tasks are Countdown with three numbers from 1 to 20 or four from 1 to 10
(every number exactly once, with `+ - * /`, whole results only) and rule induction:

    Use 3, 7, 8 to make 29.
    If 1 gives 5, 3 gives 9 and 4 gives 11, what does 6 give?

Every sentence of its chains can be labelled exactly, as one of six reasoning behaviours, by
`steerkit annotate`.

It is for trying, testing and measuring methods that read or steer reasoning behaviours,
where behaviours can be counted without opinion. It is not for anything else: it knows no
other task, no other wording of these, and about 200 English words; a word or number
that it does not know is one and the same token to it.

## How it was made

{made}

makes it again.

## How to load it

    import steerkit as sk
    model = sk.load("{name}")

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

*Closed*: the chain ends with `</think>` within {longest} tokens. *Parsed*: sentences that the
exact grammar knows. *Accuracy*: over all kinds of tasks in equal parts; *accuracy rules* and
its like: over the tasks of that kind. *Declined*: the answer is "I do not know." *Wrong
equations*: only what is written as an equation is checked, not other claims. *Silent dead
ends*: of dead ends after which the search goes on, those with no backtracking sentence before
the next equation.

Held-out tasks are new as tasks. Their numbers have occurred in training with other targets, and
their rules with other examples.

## Licence

Apache-2.0, for the weights, the tokenizer and the data they were made from.
"""
