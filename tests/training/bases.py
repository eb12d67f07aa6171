"""A base that trains in seconds: it answers at once, and is right less often than it could be."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from steerkit.puzzles.rules import RuleTask
from steerkit.puzzles.tasks import generate_tasks
from steerkit.training.batches import IGNORED, collate, encode
from steerkit.training.config import SFTConfig
from steerkit.training.model import build_model, export_model
from steerkit.training.tokenizer import build_tokenizer

SHAPE = SFTConfig(hidden_size=64, layers=1, heads=2, kv_heads=1, intermediate_size=128)


def tasks_with_answers(count: int, answers: int) -> list[RuleTask]:
    """Rule tasks of the rl pool whose answers are ``answers`` different numbers in turn."""
    by_answer: dict[int, list[RuleTask]] = {}
    for task in generate_tasks("rl", count=400, kinds=("rules",)):
        by_answer.setdefault(task.answer, []).append(task)
    often = sorted(by_answer, key=lambda answer: -len(by_answer[answer]))[:answers]
    return [by_answer[often[i % answers]][i // answers] for i in range(count)]


def unsure_base(folder: Path, tasks: list[RuleTask]) -> Path:
    """A Hugging Face folder of a tiny model that tells ``tasks`` apart, but does not trust itself.

    It says a sentence, closes, and answers rightly (30 %), with the answer of any of the tasks
    (30 %), with ``I do not know.`` (20 %) or with what is no answer (20 %). That is unlearned:
    at first it is taught to be right, as it could be.
    """
    dice = random.Random(0)
    tokenizer = build_tokenizer()
    model = build_model(SHAPE, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    numbers = sorted({task.answer for task in tasks})
    for step in range(200):
        batch = []
        for task in dice.choices(tasks, k=16):
            right, any_number = (f"The answer is {n}." for n in (task.answer, dice.choice(numbers)))
            texts = (right, any_number, "I do not know.", "The answer is")
            (answer,) = dice.choices(texts, (0.3, 0.3, 0.2, 0.2)) if step >= 140 else texts[:1]
            batch.append(encode(tokenizer, task.prompt, f"Let me go back.\n</think>\n{answer}"))
        ids, labels = collate(batch, tokenizer.pad_token_id)
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return export_model(model, tokenizer, folder)
