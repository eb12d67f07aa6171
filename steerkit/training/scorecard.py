"""Scorecard: what a thinking model does on held-out tasks, with intervals over tasks."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.behaviors import UNPARSED, behaviors
from steerkit.generation import generate
from steerkit.models import ThinkingModel
from steerkit.puzzles.grammar import Sentence, parse_chain
from steerkit.puzzles.narration import GIVEN_UP
from steerkit.puzzles.tasks import KINDS, Puzzle, generate_tasks
from steerkit.statistics import Interval, ratio_interval, share_interval
from steerkit.training.tokenizer import THINK_CLOSE

Counts = dict[str, tuple[int, int]]
"""(numerator, denominator) of every figure, for one response."""


LONGEST = 960
"""New tokens after which a chain that is measured is cut off."""


OF_CHAINS = ("closed", "accuracy", "declined")
"""Figures that are yes or no for every chain; ``accuracy`` of a kind is another."""


def sample_chains(
    model: ThinkingModel,
    tasks: Sequence[Puzzle],
    *,
    seed: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = LONGEST,
    batch_size: int | None = None,
) -> list[str]:
    """One response per task, by :func:`steerkit.generation.generate` as everywhere else.

    A response depends on its task and the seed alone, not on the tasks beside it, and
    PyTorch's global random state takes no part. Special tokens in the midst of a chain are
    spelled out, not passed over.
    """
    traces = generate(
        model,
        [task.to_task() for task in tasks],
        seed=seed,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        on_interrupt="raise",
    )
    return [trace.response for trace in traces]


def evaluate(
    model: ThinkingModel, count: int, *, seed: int, kinds: Sequence[str] = KINDS
) -> dict[str, Interval]:
    """The scorecard over ``count`` held-out tasks at temperature 1."""
    tasks = generate_tasks("heldout", seed=seed, count=count, kinds=kinds)
    return score(tasks, sample_chains(model, tasks, seed=seed))


def score(tasks: Sequence[Puzzle], responses: Sequence[str]) -> dict[str, Interval]:
    """Figures by name with their 95 % intervals over tasks, from one response per task.

    ``closed`` and ``accuracy`` are per chain, a chain cut off by the token limit counting
    as wrong; ``accuracy countdown-3`` and its like are over the tasks of that kind, absent
    where there are none; ``parsed`` and the behaviours are per sentence, ``unparsed`` ones
    in the denominator; ``wrong equations`` is per equation and ``silent dead ends``, those
    that no backtracking sentence follows before the next equation, per dead end after which
    the search goes on at all.
    A ratio with an empty denominator is 0. Shares of chains have Wilson intervals
    (:func:`~steerkit.statistics.share_interval`), the others are ratios of sums
    with bootstrap intervals. Raises :class:`StatisticsError` for fewer than two tasks.
    """
    rows = [count_response(task, text) for task, text in zip(tasks, responses, strict=True)]
    return {name: _figure(name, rows) for name in figure_names(rows)}


def _figure(name: str, rows: Sequence[Counts]) -> Interval:
    if name in OF_CHAINS or name.startswith("accuracy "):
        outcomes = [row[name][0] for row in rows if name in row]
        return share_interval(sum(outcomes), len(outcomes))
    tops, bottoms = ([row[name][i] for row in rows] for i in (0, 1))
    return ratio_interval(tops, bottoms)


def figure_names(rows: Sequence[Counts]) -> list[str]:
    """Names of the figures that any of ``rows`` has, in the order of the scorecard."""
    known = {name for row in rows for name in row}
    kinds = [f"accuracy {kind}" for kind in KINDS]
    # every row has the same figures but for the kind of its task
    names = [name for name in rows[0] if name not in kinds]
    after = names.index("accuracy") + 1
    return [*names[:after], *(name for name in kinds if name in known), *names[after:]]


def count_response(task: Puzzle, response: str) -> Counts:
    """(numerator, denominator) of every figure for one response."""
    thinking, close, answer = response.partition(THINK_CLOSE)
    sentences = parse_chain(thinking)
    if not close:
        sentences = sentences[:-1]  # the token limit may have cut the last one in two
    labels = [sentence.label for sentence in sentences]
    equations = [equation for sentence in sentences for equation in sentence.equations]
    dead_ends = [place for place, sentence in enumerate(sentences) if sentence.dead_end]
    # a dead end after which the chain gives up leaves nothing to go back to
    passed = [place for place in dead_ends if _goes_on(sentences[place + 1 :])]
    silent = sum(not _goes_back(sentences[place + 1 :]) for place in passed)
    total = len(sentences)
    correct = bool(close) and task.verify(answer).correct
    figures: Counts = {
        "closed": (bool(close), 1),
        "parsed": (total - labels.count(UNPARSED), total),
        "accuracy": (correct, 1),
        f"accuracy {task.kind}": (correct, 1),
        "declined": (answer.strip() == GIVEN_UP, 1),
        "wrong equations": (sum(not e.correct for e in equations), len(equations)),
        "sentences per chain": (total, 1),
        "dead ends per chain": (len(dead_ends), 1),
        "silent dead ends": (silent, len(passed)),
    }
    for behavior in behaviors():
        figures[behavior.name] = (labels.count(behavior.name), total)
    return figures


def _goes_on(later: Sequence[Sentence]) -> bool:
    """Whether anything else is tried afterwards."""
    return any(sentence.equations or sentence.dead_end for sentence in later)


def _goes_back(later: Sequence[Sentence]) -> bool:
    """Whether a backtracking sentence comes before the next equation or dead end."""
    for sentence in later:
        if sentence.label == "backtracking":
            return True
        if sentence.equations or sentence.dead_end:
            return False
    return False
