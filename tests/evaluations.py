"""An evaluation without a model: chains with planted rates, written as an experiment would."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.behaviors import UNPARSED
from steerkit.evaluation.chain_measures import generation_table
from steerkit.evaluation.chain_store import ChainStore
from steerkit.evaluation.conditions import condition_name
from steerkit.evaluation.record import Evaluation
from steerkit.traces import Span, Trace, Traces
from tests.tiny import SENTENCES

STEERED = ("backtracking", "uncertainty-estimation")
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=alert(1)></div>"
"""What a model might write; it stands in the first sentence of every chain."""
GRAMMAR, RULES = "grammar@0f1e2d3c4b5a", "rules@123456789abc"
LABELS = tuple(SENTENCES)
COEFFICIENTS = (-0.4, -0.2, 0.2, 0.4)
LAYER = 2


@dataclass(frozen=True, eq=False)
class Planted(Evaluation):
    """An evaluation whose chains are here, not in a folder."""

    chains: dict[str, Traces]

    def traces(self, condition: str, annotator: Any = None) -> Traces:
        return self.chains[condition]


def planted_evaluation(
    folder: Path,
    *,
    tasks: int = 30,
    samples: int = 2,
    controls: int = 10,
    annotators: tuple[str, ...] = (GRAMMAR, RULES),
    behaviors: tuple[str, ...] = STEERED,
    effect: float = 5.0,
    seed: int = 0,
    **settings: Any,
) -> Planted:
    """Chains in which a coefficient multiplies the odds of its own behaviour by exp(effect c).

    Control directions do nothing; the prompt acts like a coefficient of 0.1. The second annotator
    takes every tenth sentence for ``unparsed``.
    """
    draw = np.random.default_rng(seed)
    conditions: list[dict[str, Any]] = [_condition("baseline", "baseline")]
    for name in behaviors:
        for c in COEFFICIENTS:
            id_ = condition_name(name, c, LAYER)
            conditions.append(_condition(id_, "steered", name, None, c, headline=abs(c) == 0.4))
        conditions.append(_condition(f"prompt-{name}", "prompt", name))
    for number in range(controls):
        id_ = condition_name(f"random-{number:02d}", 0.4, LAYER)
        conditions.append(_condition(id_, "random", None, number, 0.4))
        for name in behaviors:
            for c in (-0.4, 0.4):
                id_ = condition_name(f"shuffled-{name}-{number:02d}", c, LAYER)
                conditions.append(_condition(id_, "shuffled", name, number, c, headline=True))
    rows, chains = [], {}
    for condition in conditions:
        some = tasks // 2 if condition["kind"] in ("random", "shuffled") else tasks
        push = effect * condition["coefficient"] if condition["kind"] == "steered" else 0.0
        push = 0.1 * effect if condition["kind"] == "prompt" else push
        written = [
            _chain(draw, condition, task, sample, push)
            for task in range(some)
            for sample in range(samples)
        ]
        chains[condition["condition"]] = Traces(written)
        for trace in written:
            for number, annotator in enumerate(annotators):
                rows.append({**condition, **_row(trace, annotator, doubtful=number > 0)})
    labels = dict.fromkeys(annotators, LABELS)
    table = generation_table(rows, labels)
    given = _settings(tasks, samples, controls, annotators, behaviors, list(chains)) | settings
    return Planted(folder, given, table, chains)


def _condition(
    id_: str,
    kind: str,
    behavior: str | None = None,
    control: int | None = None,
    coefficient: float = 0.0,
    *,
    headline: bool = False,
) -> dict[str, Any]:
    layer = None if kind in ("baseline", "prompt") else LAYER
    return {
        "condition": id_,
        "kind": kind,
        "behavior": behavior,
        "control": control,
        "layer": layer,
        "coefficient": coefficient,
        "headline": headline,
    }


def _chain(
    draw: np.random.Generator, condition: dict[str, Any], task: int, sample: int, push: float
) -> Trace:
    weights = np.ones(len(LABELS))
    if condition["behavior"] in LABELS:
        weights[LABELS.index(condition["behavior"])] *= np.exp(push)
    count = int(draw.integers(8, 16))
    text, spans = f"{SCRIPT} & so on. ", []
    for label in draw.choice(LABELS, size=count, p=weights / weights.sum()):
        spans.append(Span(len(text), len(text) + len(SENTENCES[label]), str(label)))
        text += f"{SENTENCES[label]} "
    cut = draw.random() < 0.1
    return Trace(
        id=f"{condition['condition']}-{task}-{sample}",
        task_id=f"task-{task:02d}",
        prompt=f"Use {task}, 7, 8 to make 29 <b>now</b>.",
        category="countdown-3",
        response=text if cut else f"{text}\n</think>\nThe answer is 3 * 7 + 8.",
        spans=tuple(spans),
        annotator=GRAMMAR,
        metadata={"sample": sample, "seed": 0, "truncated": bool(cut)},
    )


def _row(trace: Trace, annotator: str, *, doubtful: bool) -> dict[str, Any]:
    labels = [span.label for span in trace.spans]
    if doubtful:
        labels = [UNPARSED if i % 10 == 9 else label for i, label in enumerate(labels)]
    row: dict[str, Any] = {
        "task": trace.task_id,
        "category": trace.category,
        "sample": trace.metadata["sample"],
        "seed": 0,
        "trace": trace.id,
        "annotator": annotator,
        "closed": trace.closed,
        "truncated": trace.truncated,
        "correct": zlib.crc32(trace.id.encode()) % 3 > 0,
        "tokens": 12 * len(labels),
        "thinking_tokens": 11 * len(labels),
        "zlib": 0.5 - 0.001 * len(labels),
        "repeated": 0.1,
        "loop": 3,
        "text": trace.response,
        "sentences": len(labels),
        "parsed": 1 - labels.count(UNPARSED) / len(labels),
    }
    for label in dict.fromkeys(labels):
        own = np.array([name == label for name in labels])
        before = np.concatenate([[False], own[:-1]])
        row[f"spans:{label}"] = int(own.sum())
        row[f"span_tokens:{label}"] = 11 * int(own.sum())
        row[f"onsets:{label}"] = int((own & ~before).sum())
        row[f"at_risk:{label}"] = int((~before).sum())
    return row


def _settings(
    tasks: int,
    samples: int,
    controls: int,
    annotators: tuple[str, ...],
    behaviors: tuple[str, ...],
    conditions: list[str],
) -> dict[str, Any]:
    return {
        "model": "countdown-thinking",
        "revision": None,
        "vectors": {
            "digest": "0" * 64,
            "contrast": "rest",
            "method": "mean",
            "annotator": GRAMMAR,
            "behaviours": {
                name: {"layer": LAYER, "spans": 300, "tasks": 80, "split_half": 0.93, "cone": 12.0}
                for name in behaviors
            },
        },
        "unit": "norm",
        "behaviors": list(behaviors),
        "coefficients": list(COEFFICIENTS),
        "headline": {name: {"amplify": 0.4, "suppress": -0.4} for name in behaviors},
        "ranges": {
            STEERED[0]: {"fluent": [-0.5, 0.45], "free": [-0.1, 0.2], "found_on": 40},
            STEERED[1]: {"fluent": [-0.5, 0.3], "free": None, "found_on": 40},
        },
        "tasks": tasks,
        "samples": samples,
        "control_tasks": tasks // 2,
        "controls": {"random": controls, "shuffled": controls},
        "seed": 0,
        "temperature": 1.0,
        "top_p": None,
        "max_new_tokens": 256,
        "annotators": [
            {
                "name": name,
                "same_as_extraction": number == 0,
                "agreement": None if number == 0 else "kappa 0.71 (0.66 to 0.75) with the grammar",
            }
            for number, name in enumerate(annotators)
        ],
        "sets": {
            "extract": {"tasks": 80, "digest": "aaaa"},
            "evaluate": {"tasks": tasks, "digest": "bbbb"},
        },
        "forced": [],
        "command": "steerkit evaluate --behavior backtracking --behavior uncertainty",
        "versions": {"steerkit-thinking": "0.1.0", "torch": "2.9.0"},
        "machine": {"cpu": "a processor", "threads": 2},
        "seconds": 4000,
        "conditions": dict.fromkeys(conditions, "0123456789ab"),
    }


def without_settings(evaluation: Planted, *names: str) -> Planted:
    """The same, as if nobody had written these settings down."""
    kept = {name: value for name, value in evaluation.settings.items() if name not in names}
    return replace(evaluation, settings=kept)


def stored(evaluation: Planted) -> Path:
    """The folder, with all that :func:`steerkit.evaluate` would have left there."""
    store = ChainStore(evaluation.folder)
    for condition, mark in evaluation.settings["conditions"].items():
        store.add(condition, mark, evaluation.chains[condition])
    return evaluation.save()
