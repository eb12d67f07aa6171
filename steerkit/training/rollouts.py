"""Rollouts: chains that the policy wrote in one step, their rewards and advantages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.models import ThinkingModel
from steerkit.puzzles.narration import GIVEN_UP
from steerkit.puzzles.tasks import Puzzle, generate_tasks
from steerkit.traces import Trace
from steerkit.training.batches import Example
from steerkit.training.config import RLConfig
from steerkit.training.tokenizer import THINK_CLOSE


@dataclass(frozen=True)
class Rollouts:
    """What one step learns from: rows in the order of the tasks, samples side by side.

    Attributes
    ----------
    tasks, responses:
        The task and the text of every row.
    examples:
        Token ids of every row, prompt, chain and end token, and how many are the prompt's.
        A chain that was cut off has no end token.
    truncated:
        Whether the row was cut off.
    rewards, advantages:
        One of each for every row.
    """

    tasks: list[Puzzle]
    responses: list[str]
    examples: list[Example]
    truncated: list[bool]
    rewards: Float[Tensor, " row"]
    advantages: Float[Tensor, " row"]

    @property
    def tokens(self) -> int:
        """New tokens of all rows, end tokens included."""
        return sum(len(ids) - prompt for ids, prompt in self.examples)


def write_rollouts(model: ThinkingModel, config: RLConfig, step: int) -> Rollouts:
    """Chains of ``model`` for ``config.tasks`` tasks of the rl pool, at temperature 1.

    Tasks and noise follow from the seed and ``step``, the number of steps before.
    """
    dice = random.Random(f"rl {config.seed} {step}")
    puzzles = generate_tasks("rl", dice.getrandbits(31), config.tasks, config.kinds)
    traces = model.generate(
        [puzzle.to_task() for puzzle in puzzles],
        samples=config.samples,
        max_new_tokens=config.longest,
        temperature=1.0,
        seed=dice.getrandbits(31),
        batch_size=config.tasks * config.samples,
        on_interrupt="raise",
    )
    tasks = [puzzle for puzzle in puzzles for _ in range(config.samples)]
    prompts = [model.render(puzzle.prompt) for puzzle in puzzles for _ in range(config.samples)]
    rewards = torch.tensor(
        [
            reward(task, trace, form_reward=config.form_reward)
            for task, trace in zip(tasks, traces, strict=True)
        ]
    )
    return Rollouts(
        tasks=tasks,
        responses=[trace.response for trace in traces],
        examples=[
            (prompt + _written(model, trace), len(prompt))
            for prompt, trace in zip(prompts, traces, strict=True)
        ],
        truncated=[_truncated(trace) for trace in traces],
        rewards=rewards,
        advantages=advantages(rewards.view(config.tasks, config.samples)).flatten(),
    )


def reward(task: Puzzle, trace: Trace, *, form_reward: float) -> float:
    """1 for a correct answer after a closed thinking section, plus ``form_reward`` for form.

    The form is right where the chain closed its thinking section, was ended by the model
    itself, and answers with something that can be read as an answer, right or wrong, or with
    ``I do not know.`` What stands in the thinking section earns nothing.
    """
    _, close, answer = trace.response.partition(THINK_CLOSE)
    if not close:
        return 0.0
    verdict = task.verify(answer)
    readable = verdict.reason not in ("unreadable", "no answer") or answer.strip() == GIVEN_UP
    formed = readable and not _truncated(trace)
    return float(verdict.correct) + form_reward * formed


def advantages(rewards: Float[Tensor, "task sample"]) -> Float[Tensor, "task sample"]:
    """Reward minus the mean reward of the other samples of the same task.

    The leave-one-out baseline of REINFORCE, "RLOO" (Kool et al. 2019; Ahmadian et al. 2024,
    arXiv 2402.14740): A_i = r_i - sum_{j != i} r_j / (n - 1), which does not bias the
    gradient, as no sample is in its own baseline. Exactly 0 where all rewards of a task are
    the same.
    """
    count = rewards.shape[1]
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (count - 1)
    alike = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)  # where rounding leaves a rest
    return torch.where(alike, 0.0, rewards - others)


def _truncated(trace: Trace) -> bool:
    return bool(trace.metadata.get("truncated"))


def _written(model: ThinkingModel, trace: Trace) -> list[int]:
    ids: Sequence[int] = trace.token_ids or ()
    end = [] if _truncated(trace) else [model.tokenizer.eos_token_id]
    return [*ids, *end]
