"""What `make real` lets the models write: steered prompts, and tasks that nobody trained on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from real_measures import MARKERS, measure, peak_memory
from reference import LAYER

import steerkit as sk
from steerkit.answers import correct
from steerkit.behaviors import UNPARSED
from steerkit.files import write_text_atomic
from steerkit.statistics import share_interval

ANNOTATORS = ("rules", "classifier")
"""Who labels the chains of the held-out tasks."""
STEERED = ("backtracking", "uncertainty-estimation", "random")
COEFFICIENTS = {"plain": (-0.4, 0.25, 0.5), "adapter": (-0.3, 0.1, 0.2)}
"""In mean norms of the residual stream; 0 is one row more, shared by the three directions. The
model with the adapter doubts and goes back by itself, and needs smaller steps."""
AT_ONCE = 24
"""Tasks written side by side: a step costs about the same for one as for thirty."""
ASKED = " End with a line that holds the result alone, as Answer: RESULT."
"""Added to the tasks' prompts for both models, so that an answer can be found in either's text."""

PROMPTS = {
    "bread": "A baker fills 7 trays with 12 rolls each and then finds that 9 rolls are burnt. "
    "She packs the good ones in bags of 5. How many full bags does she get, and how many rolls "
    "are left over?",
    "height": "Tom is taller than Ana, and Ana is taller than Ravi. Mei is shorter than Tom but "
    "taller than Ana. Who is the second tallest of the four?",
    "socks": "A drawer holds 6 red and 4 blue socks. How many socks must you take out in the dark "
    "to be sure that you have two blue ones?",
    "bus": "A bus leaves at 14:35. The trip takes 2 hours and 50 minutes, but today there is a "
    "delay of 25 minutes on the way. When does the bus arrive?",
    "odd": "Add two odd numbers and multiply the sum by an even number. Can the result always be "
    "divided by 4? Say how you know.",
    "gardeners": "Every gardener on Hill Street owns a rake. Some people who own a rake also own "
    "a barrow. Does it follow that some gardener on Hill Street owns a barrow?",
    "grass": "If it rained in the night, the grass is wet. This morning the grass is wet. Did it "
    "rain? What else could explain it, and how would you find out?",
    "pages": "Lena reads 14 pages on Monday, and each day after that 3 pages more than the day "
    "before. On which day has she read at least 100 pages in all?",
}


def conditions(
    vectors: sk.SteeringVectors, coefficients: Sequence[float]
) -> list[sk.Term | sk.Terms | None]:
    """One row each: unsteered, then every direction at every coefficient, at one layer."""
    backtracking = vectors["backtracking"]
    directions = (backtracking, vectors["uncertainty-estimation"], backtracking.random(0))
    return [None, *(c * d.at(layer=LAYER) for d in directions for c in coefficients)]


def condition_of(trace: sk.Trace) -> tuple[str, float]:
    """Direction and coefficient that a chain was written under; ("none", 0) if unsteered."""
    for term in trace.metadata.get("steering") or ():
        name = term["behavior"]
        return "random" if name.startswith("random") else name, term["coefficient"]
    return "none", 0.0


def steering(
    model: sk.ThinkingModel,
    vectors: sk.SteeringVectors,
    state: Path,
    coefficients: Sequence[float],
    tokens: int,
    prompts: Mapping[str, str] = PROMPTS,
) -> tuple[sk.Traces, dict[str, Any]]:
    """Every prompt under every condition, greedily; four prompts a batch, kept batch by batch."""
    rows = conditions(vectors, coefficients)
    path, log = state / "texts.jsonl", state / "generation.json"
    done = sk.read_traces(path) if path.is_file() else sk.Traces()
    spent = json.loads(log.read_text()) if log.is_file() else {"seconds": 0.0, "tokens": 0}
    finished = {trace.task_id for trace in done}
    left = [name for name in prompts if name not in finished]
    for first in range(0, len(left), 4):
        tasks = [sk.Task(id=name, prompt=prompts[name]) for name in left[first : first + 4]]
        started = time.perf_counter()
        written = model.generate(
            [task for task in tasks for _ in rows],
            steer=[row for _ in tasks for row in rows],
            max_new_tokens=tokens,
            temperature=0.0,
            on_interrupt="raise",
        )
        spent["seconds"] += time.perf_counter() - started
        spent["tokens"] += sum(len(trace.token_ids or ()) for trace in written)
        done = done + written
        sk.write_traces(done, path)
        write_text_atomic(log, json.dumps(spent))
        print(f"steered {len(done) // len(rows)} of {len(prompts)} prompts", file=sys.stderr)
    return done, {**spent, "rows": 4 * len(rows), "peak_memory_bytes": peak_memory()}


def tabulate(texts: Iterable[sk.Trace], prompts: Mapping[str, str] = PROMPTS) -> list[dict]:
    """One row a text: prompt, direction, coefficient, measures."""
    rows = []
    for trace in texts:
        direction, coefficient = condition_of(trace)
        rows.append(
            {
                "prompt": trace.task_id,
                "direction": direction,
                "coefficient": coefficient,
                "tokens": len(trace.token_ids or ()),
                "truncated": trace.truncated,
                **measure(trace.response),
                "text": trace.response,
            }
        )
    order, names = ["none", *STEERED], list(prompts)
    rows.sort(
        key=lambda r: (order.index(r["direction"]), r["coefficient"], names.index(r["prompt"]))
    )
    return rows


def held_out_tasks(count: int) -> list[sk.Task]:
    """Tasks of the *evaluate* set with a gold answer, categories in turn: no chain is of them."""
    from steerkit.tasks import split_of

    by_category: dict[str, list[sk.Task]] = {}
    for task in sk.read_tasks(sk.data("tasks/reasoning.jsonl")):
        if task.answer is not None and split_of(task.prompt) == "evaluate":
            by_category.setdefault(task.category, []).append(task)
    queues, chosen = list(by_category.values()), []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return chosen


def thinking(
    model: sk.ThinkingModel, tasks: Sequence[sk.Task], state: Path, tokens: int
) -> list[dict[str, Any]]:
    """One row a task: does the chain close, with what markers, how long, is the answer right?

    Unsteered, at temperature 0.6; 24 tasks a batch, kept batch by batch.
    """
    path = state / "thinking.jsonl"
    done = sk.read_traces(path) if path.is_file() else sk.Traces()
    finished = {trace.task_id for trace in done}
    left = [task for task in tasks if task.id not in finished]
    for first in range(0, len(left), AT_ONCE):
        asked = [sk.Task(id=t.id, prompt=t.prompt + ASKED) for t in left[first : first + AT_ONCE]]
        done = done + model.generate(
            asked, max_new_tokens=tokens, temperature=0.6, on_interrupt="raise"
        )
        sk.write_traces(done, path)
        print(f"asked {len(done)} of {len(tasks)} tasks", file=sys.stderr)
    by_id = {task.id: task for task in tasks}
    return [
        {
            "task": trace.task_id,
            "closed": trace.closed,
            "truncated": trace.truncated,
            "tokens": len(trace.token_ids or ()),
            "right": answered(model, trace, by_id[trace.task_id]),
            **measure(trace.thinking),
        }
        for trace in done
    ]


def answered(model: sk.ThinkingModel, trace: sk.Trace, task: sk.Task) -> bool:
    """Whether the answer is right. Of a model that does not think aloud all of the text counts;
    a thinking model whose chain never closes has not answered."""
    if model.opens_thinking:
        return bool(correct(trace, task))
    whole = sk.Trace(id=task.id, task_id=task.id, response=f"</think>\n{trace.response}")
    return bool(correct(whole, task))


def labelled_shares(chains: sk.Traces) -> dict[str, Any]:
    """By annotator, the share of chains with at least one sentence of a behaviour.

    What is labelled is what :func:`measure` counts in: the thinking section, and all of a text
    that opens and closes none, as a plain model's. Shares come with 95 % Wilson intervals;
    beside them stand the sentences of all chains, and how many of them are ``unparsed``.
    """
    found: dict[str, Any] = {}
    for name in ANNOTATORS:
        labelled = sk.annotate(chains, name)
        shares = {}
        for behavior in MARKERS:
            holds = sum(any(s.label == behavior for s in trace.spans) for trace in labelled)
            share = share_interval(holds, len(labelled))
            shares[behavior] = {"value": share.value, "low": share.low, "high": share.high}
        labels = [span.label for trace in labelled for span in trace.spans]
        found[name] = {
            "annotator": labelled[0].annotator,
            "chains_with": shares,
            "sentences": len(labels),
            "unparsed": labels.count(UNPARSED),
        }
    return found
