"""Scorecard: what a thinking model does on held-out tasks, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerkit.behaviors import UNPARSED, behaviors
from steerkit.puzzles.countdown import CountdownTask, verify
from steerkit.puzzles.grammar import Sentence, parse_chain
from steerkit.training.tokenizer import THINK_CLOSE


@dataclass(frozen=True)
class Figure:
    """A ratio of sums over tasks, and the ends of its 95 % bootstrap interval over tasks."""

    value: float
    low: float
    high: float


@torch.no_grad()
def sample_chains(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[CountdownTask],
    *,
    seed: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 960,
    batch: int = 64,
) -> list[str]:
    """One response per task, sampled by Hugging Face's ``generate`` from the full softmax.

    PyTorch's global random state is left as it was.
    """
    responses: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(tasks), batch):
            prompts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": task.prompt}],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                for task in tasks[start : start + batch]
            ]
            encoded = tokenizer(
                prompts,
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_token_type_ids=False,
            )
            ids = model.generate(
                **encoded,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            new = ids[:, encoded["input_ids"].shape[1] :]
            responses += tokenizer.batch_decode(new, skip_special_tokens=True)
    return responses


def score(
    tasks: Sequence[CountdownTask],
    responses: Sequence[str],
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Figures by name, from one response per task.

    ``closed`` and ``accuracy`` are per chain, a chain cut off by the token limit counting
    as wrong; ``parsed`` and the behaviours are per sentence, ``unparsed`` ones in the
    denominator; ``wrong equations`` is per equation and ``silent dead ends``, those that
    no backtracking sentence follows before the next equation, per dead end.
    A ratio with an empty denominator is 0.
    """
    rows = [count_response(task, text) for task, text in zip(tasks, responses, strict=True)]
    names = list(rows[0])
    tops = torch.tensor([[row[name][0] for name in names] for row in rows], dtype=torch.float64)
    bottoms = torch.tensor([[row[name][1] for name in names] for row in rows], dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(rows), (replicates, len(rows)), generator=draw)
    weights = torch.zeros(replicates, len(rows), dtype=torch.float64)
    weights.scatter_add_(1, picks, torch.ones(picks.shape, dtype=torch.float64))
    drawn = (weights @ tops) / (weights @ bottoms).clamp_min(1e-9)
    values = tops.sum(0) / bottoms.sum(0).clamp_min(1e-9)
    ends = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return {
        name: Figure(values[i].item(), ends[0, i].item(), ends[1, i].item())
        for i, name in enumerate(names)
    }


def count_response(task: CountdownTask, response: str) -> dict[str, tuple[int, int]]:
    """(numerator, denominator) of every figure for one response."""
    thinking, close, answer = response.partition(THINK_CLOSE)
    sentences = parse_chain(thinking)
    if not close:
        sentences = sentences[:-1]  # the token limit may have cut the last one in two
    labels = [sentence.label for sentence in sentences]
    equations = [equation for sentence in sentences for equation in sentence.equations]
    dead_ends = [place for place, sentence in enumerate(sentences) if sentence.dead_end]
    silent = sum(not _goes_back(sentences[place + 1 :]) for place in dead_ends)
    total = len(sentences)
    figures: dict[str, tuple[int, int]] = {
        "closed": (bool(close), 1),
        "parsed": (total - labels.count(UNPARSED), total),
        "accuracy": (bool(close) and verify(task, answer).correct, 1),
        "declined": (answer.strip() == "I do not know.", 1),
        "wrong equations": (sum(not e.correct for e in equations), len(equations)),
        "sentences per chain": (total, 1),
        "dead ends per chain": (len(dead_ends), 1),
        "silent dead ends": (silent, len(dead_ends)),
    }
    for behavior in behaviors():
        figures[behavior.name] = (labels.count(behavior.name), total)
    return figures


def _goes_back(later: Sequence[Sentence]) -> bool:
    """Whether a backtracking sentence comes before the next equation or dead end."""
    for sentence in later:
        if sentence.label == "backtracking":
            return True
        if sentence.equations or sentence.dead_end:
            return False
    return False
