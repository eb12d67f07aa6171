"""Settings: what an evaluation writes down about itself."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerkit.annotation import Annotator
from steerkit.evaluation.conditions import Condition
from steerkit.evaluation.design import Design, Ranges
from steerkit.evaluation.held_out import set_facts
from steerkit.independence import annotator_relation, independence_note
from steerkit.places import where_json
from steerkit.provenance import model_facts, versions
from steerkit.vectors import CURVES, SteeringVectors
from steerkit.writing import LONGEST


def settings_of(
    design: Design,
    conditions: Sequence[Condition],
    *,
    tested: Mapping[str, Sequence[float]],
    ranges: Ranges,
    digest: str,
    estimate: float,
    command: str | None,
) -> dict[str, Any]:
    """Everything that decides what an evaluation finds, and what it found out before it ran.

    ``conditions`` maps each condition to its mark
    (:meth:`steerkit.evaluation.conditions.Condition.mark`); ``headline`` and ``ranges`` are by
    behaviour; ``sets`` counts the tasks of the three sets; ``forced`` lists tasks that the
    vectors had seen; ``requests`` are the prompts' sentences, and ``unreadable`` the words of
    them that the model cannot read.
    """
    model, options = design.model, design.options
    made_by = model_facts(model) | {
        key: options[key] for key in ("seed", "temperature", "top_p", "max_new_tokens")
    }
    headline = {}
    for name, several in tested.items():
        down, up = [c for c in several if c < 0], [c for c in several if c > 0]
        headline[name] = {"amplify": max(up, default=None), "suppress": min(down, default=None)}
    used = design.select if design.without_range() else []
    return {
        **made_by,
        "longest": options["max_new_tokens"] or LONGEST,
        "vectors": {**vector_facts(design.vectors), "digest": digest},
        "unit": _unit(design),
        "where": where_json(design.where),
        "behaviors": list(design.vectors),
        "coefficients": list(design.coefficients),
        "headline": headline,
        "headline_chosen": "by the user" if design.headline is not None else "by fluency",
        "ranges": {name: dict(found) for name, found in ranges.items()},
        "tasks": len(design.tasks),
        "samples": design.samples,
        "control_tasks": design.control_tasks,
        "controls": {"random": design.random, "shuffled": design.shuffled},
        "requests": design.requests,
        "unreadable": design.unreadable,
        "annotators": [
            annotator_facts(design.source, annotator) for annotator in design.annotators
        ],
        "sets": set_facts(design.source, used, design.tasks),
        "forced": [task.id for task in design.shared],
        "conditions": {c.id: c.mark(made_by) for c in conditions},
        "batch_size": options["batch_size"],
        "estimate": round(estimate, 1),
        "command": command,
        "versions": versions(),
        "machine": machine_facts(),
    }


def annotator_facts(vectors: SteeringVectors, annotator: Annotator) -> dict[str, Any]:
    """Who scores, and whether it labelled the chains that the directions come from as well.

    ``same_as_extraction`` is missing (``None``) where the vectors do not say who did; ``note``
    is the sentence of :func:`steerkit.independence.independence_note`.
    """
    relation = annotator_relation(vectors, annotator)
    return {
        "name": annotator.name,
        "relation": relation,
        "same_as_extraction": None if relation == "unknown" else relation == "same",
        "note": independence_note(vectors, annotator),
        "agreement": None,
    }


def vector_facts(vectors: SteeringVectors) -> dict[str, Any]:
    """What vectors are made of, and how far each direction can be trusted at its layer."""
    facts = vectors.provenance
    named = {}
    for name, direction in vectors.items():
        row = None if direction.layer is None else direction.row(direction.layer)
        curves = {curve: getattr(direction, curve) for curve in CURVES}
        named[name] = {
            "layer": direction.layer,
            "chosen_by": direction.chosen_by,
            "spans": direction.spans,
            "tasks": direction.tasks,
            "weakness": direction.weakness,
            "digest": direction.digest,
            **{
                curve: None if values is None or row is None else _number(values[row])
                for curve, values in curves.items()
            },
        }
    return {
        "model": facts.get("model"),
        "revision": facts.get("revision"),
        "contrast": facts.get("contrast"),
        "method": facts.get("method"),
        "annotator": ", ".join(facts.get("annotators", ())) or None,
        "behaviours": named,
    }


def machine_facts() -> dict[str, Any]:
    """The processor or GPU, and what computes on it."""
    import torch

    processor = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        names = [line for line in listed.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
    }


def _number(value: Any) -> float | None:
    number = float(value)
    return number if number == number else None


def _unit(design: Design) -> str:
    """The unit of the coefficients by name, whatever was left to the directions."""
    direction = next(iter(design.vectors.values()))
    return direction.check_unit(design.unit)
