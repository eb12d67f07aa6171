"""Is the sentence of a behaviour needed? The pair without it, in two ways, for `make pair`.

- `masked`: the words by which a sentence shows that it will be one of the behaviour get no
  chance. Where sentences of several kinds begin alike, the ban comes after the words that they
  share, and what is left there is said more often.
- `resampled`: the chain is sampled from the whole vocabulary; its first sentence of the behaviour
  is thrown away and sampled again, until none is left. Every sentence is then a sample of the
  model's own sentences at that place, given that it is not of the behaviour.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import steerkit as sk
from steerkit.puzzles.grammar import parse_chain
from steerkit.puzzles.openers import forbid
from steerkit.puzzles.tasks import KINDS, Puzzle
from steerkit.statistics import holm, mean_interval, share_interval, sign_flip_test
from steerkit.training.scorecard import LONGEST, count_response, score
from steerkit.training.tokenizer import THINK_CLOSE

FORBIDDEN = ("backtracking", "uncertainty-estimation", "example-testing")
WAYS = ("masked", "resampled")
TRIES = 32
"""Samples of a sentence at one place after which the chain is taken for one that cannot go on."""
ROWS = 600


def chains(
    model: sk.ThinkingModel, tasks: Sequence[Puzzle], path: Path, label: str = "", way: str = ""
) -> list[str]:
    """One response a task; read from ``path`` where an earlier run has written them."""
    if not path.is_file():
        started = time.perf_counter()
        listed = [task.to_task() for task in tasks]
        if way == "resampled":
            written = resample(model, listed, label)
        else:
            ban = forbid(label, model.tokenizer) if label else None
            written = model.generate(
                listed,
                max_new_tokens=LONGEST,
                batch_size=ROWS,
                forbid=ban,
                on_interrupt="raise",
            )
        sk.write_traces(written, path)
        print(f"{path.stem}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return [trace.response for trace in sk.read_traces(path)]


def resample(model: sk.ThinkingModel, tasks: Sequence[sk.Task], label: str) -> sk.Traces:
    """Chains without a sentence of ``label``: the first is sampled again until none is left.

    A chain that gives the behaviour :data:`TRIES` times at one place stays there, unclosed, with
    ``metadata["stuck"]``.
    """
    done: dict[int, sk.Trace] = {}
    prefixes: dict[int, tuple[int, ...]] = dict.fromkeys(range(len(tasks)), ())
    tries = dict.fromkeys(prefixes, 0)
    for round_ in range(10_000):
        if not prefixes:
            break
        numbers = list(prefixes)
        written = model.generate(
            [tasks[number] for number in numbers],
            prefix=[prefixes[number] for number in numbers],
            batch_size=ROWS,
            seed=round_,
            on_interrupt="raise",
        )
        for number, trace in zip(numbers, written, strict=True):
            kept = before_first(trace, label, model.tokenizer)
            if kept is None:
                done[number] = cut(trace, trace.token_ids or (), model.tokenizer)
            elif len(kept) >= LONGEST:
                done[number] = cut(trace, kept, model.tokenizer)
            else:
                tries[number] = tries[number] + 1 if kept == prefixes[number] else 1
                prefixes[number] = kept
                if tries[number] == TRIES:
                    metadata = {**trace.metadata, "stuck": True}
                    stuck = replace(trace, metadata=metadata)
                    done[number] = cut(stuck, kept, model.tokenizer)
            if number in done:
                del prefixes[number]
    return sk.Traces([done[number] for number in range(len(tasks))])


def cut(trace: sk.Trace, ids: Sequence[int], tokenizer: Any) -> sk.Trace:
    """The chain's first ``ids``, no more of them than a chain is given anywhere else."""
    kept = tuple(ids[:LONGEST])
    return replace(trace, response=tokenizer.decode(kept), token_ids=kept)


def before_first(trace: sk.Trace, label: str, tokenizer: Any) -> tuple[int, ...] | None:
    """The token ids before the first sentence of ``label``; ``None`` if there is none."""
    thinking = trace.response.partition(THINK_CLOSE)[0]
    found = [s for s in parse_chain(thinking) if s.label == label]
    if not found:
        return None
    ids, text = trace.token_ids or (), ""
    for place, token in enumerate(ids):
        text += tokenizer.decode([token])
        if len(text) > found[0].start:
            return tuple(ids[:place])
    raise RuntimeError(f"the tokens of {trace.id} do not spell its response")


def right_answers(tasks: Sequence[Puzzle], responses: Sequence[str]) -> np.ndarray:
    """1 where the chain closed and its answer is right, ``[task]``."""
    counts = (count_response(task, text) for task, text in zip(tasks, responses, strict=True))
    return np.array([found["accuracy"][0] for found in counts], dtype=float)


def without(
    models: dict[str, sk.ThinkingModel], tasks: Sequence[Puzzle], path: Callable[..., Path]
) -> pd.DataFrame:
    """One row for every model, behaviour, way and kind of tasks: accuracy and its paired change.

    ``p`` is of a sign-flip test over tasks, ``holm`` adjusts it over all rows of all tasks;
    rows of one kind are shown without.
    """
    rows = []
    for name, model in models.items():
        plain = right_answers(tasks, chains(model, tasks, path(name)))
        for label in FORBIDDEN:
            for way in WAYS:
                responses = chains(model, tasks, path(name, label, way), label, way)
                found = right_answers(tasks, responses)
                stuck = sum(
                    bool(trace.metadata.get("stuck"))
                    for trace in sk.read_traces(path(name, label, way))
                )
                for kind in ("all", *KINDS):
                    chosen = np.array([kind in ("all", task.kind) for task in tasks])
                    row = {"model": name, "forbidden": label, "way": way, "kind": kind}
                    row |= compare(found[chosen], plain[chosen])
                    if kind == "all":
                        figures = score(tasks, responses)
                        row |= {column: figures[column].value for column in SHOWN}
                        row |= {"left": figures[label].value, "stuck": stuck}
                    rows.append(row)
    table = pd.DataFrame(rows)
    whole = table["kind"] == "all"
    table.loc[whole, "holm"] = holm(table.loc[whole, "p"])
    return table


SHOWN = (
    "closed",
    "parsed",
    "declined",
    "sentences per chain",
    "dead ends per chain",
    "silent dead ends",
)


def compare(found: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """Accuracy of ``found``, ``[task]``, and its paired change from ``plain``, with a p-value."""
    accuracy = share_interval(int(found.sum()), len(found))
    change = mean_interval(found - plain)
    return {
        **{"plain": float(plain.mean()), "accuracy": accuracy.value},
        **{"low": accuracy.low, "high": accuracy.high},
        **{"change": change.value, "change_low": change.low, "change_high": change.high},
        "p": sign_flip_test(found - plain),
    }
