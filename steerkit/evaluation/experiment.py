"""Experiment: chains under every condition, written, labelled and counted; resumable."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.annotation import Annotator, agree, annotate
from steerkit.behaviors import behaviors as known_behaviors
from steerkit.errors import EvaluationError
from steerkit.evaluation.chain_measures import ChainMeasures, generation_table
from steerkit.evaluation.chain_store import ChainStore
from steerkit.evaluation.chain_writing import Chains, write_chains
from steerkit.evaluation.controls import shuffled_directions
from steerkit.evaluation.design import Design, Ranges, design
from steerkit.evaluation.divergence_columns import with_divergence
from steerkit.evaluation.headline import found_ranges, storable_ranges, stored_range, with_ranges
from steerkit.evaluation.pace import Pace, duration, expected_tokens, seconds_per_token
from steerkit.evaluation.record import SETTINGS, VECTORS, Evaluation, settings_text
from steerkit.evaluation.settings import settings_of
from steerkit.files import parse_json, write_text_atomic
from steerkit.models import ThinkingModel
from steerkit.places import Where
from steerkit.streaming import Progress
from steerkit.tasks import Task
from steerkit.traces import Trace, Traces
from steerkit.vectors import SteeringVectors, Unit

if TYPE_CHECKING:
    import pandas as pd

COEFFICIENTS = (-0.4, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4)
CONTROLS = 39
"""Control directions of a kind: an effect that exceeds all of them has p <= 1 / 40."""
_log = logging.getLogger(__name__)


def evaluate(
    model: ThinkingModel,
    vectors: SteeringVectors,
    tasks: Iterable[Task] | None = None,
    *,
    traces: Iterable[Trace] | None = None,
    select: Iterable[Task] | None = None,
    behaviors: str | Iterable[str] | None = None,
    coefficients: Sequence[float] = COEFFICIENTS,
    headline: Mapping[str, Sequence[float]] | Sequence[float] | None = None,
    find_range: bool | None = None,
    samples: int = 1,
    control_tasks: int | None = None,
    random: int = CONTROLS,
    shuffled: int = CONTROLS,
    prompt: bool = True,
    divergence: bool = True,
    annotators: str | Path | Annotator | Sequence[str | Path | Annotator] | None = None,
    unit: Unit | None = None,
    where: Where = "all",
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    out: str | Path = "out/evaluation",
    force: bool = False,
    command: str | None = None,
    tell: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The experiment that can refute a steering vector: dose-response, controls, side effects.

    Chains are written for every task and sample under every condition: unsteered; each
    behaviour at every coefficient; asked for by the prompt; and, at the two headline
    coefficients of each behaviour, under random directions and directions of shuffled labels
    of the same length. All share their noise, so that differences are paired by task; only a
    changed prompt brings noise of its own. Then every annotator labels every chain.

    Parameters
    ----------
    vectors:
        Directions, each steered at its suggested layer.
    tasks:
        Held-out tasks, used in the order of their hashes; for a bundled model by default
        120 puzzles of the *evaluate* set.
    traces:
        The annotated chains that the vectors were extracted from, for directions of shuffled
        labels; for a bundled model by default the bundled ones.
    select:
        Tasks of the *select* set to find ranges on, of which the first 24 are used; with the
        default ``tasks`` puzzles of that set.
    behaviors:
        Those whose directions are steered; by default every one that has a layer.
    coefficients:
        Of the curves, in ``unit``; 0 is there in any case.
    headline:
        Coefficients at which claims are tested, one below zero and one above, for all
        behaviours or by behaviour. By default the largest of ``coefficients`` at which text
        stays fluent. They are fixed before any of ``tasks`` is run.
    find_range:
        Whether to find on ``select`` how far text stays fluent
        (:func:`steerkit.ranges.find_ranges`); by default where the vectors do not know it.
    samples:
        Chains a task.
    control_tasks:
        Controls run on so many tasks, the first ones; by default on all.
    random, shuffled:
        Control directions of either kind.
    prompt:
        Whether to write chains for prompts that ask for the behaviour. A model that cannot
        read them gets none, and the settings say so.
    divergence:
        Whether to measure, at the headline coefficients, KL to the unsteered model and the
        perplexity of what was written: some forward passes over these chains.
    annotators:
        Who labels: names or files as for :func:`steerkit.annotate`, or annotators. By default
        ``grammar`` for a bundled model, else ``classifier`` and ``rules``.
    unit:
        Of coefficients, as of a :class:`steerkit.Term`, but not ``raw``.
    where:
        Which positions are steered, as of a :class:`steerkit.Term`; controls are pushed at the
        same ones. A range that the vectors know is one of ``all``; for others it is found anew.
    seed, temperature, top_p, max_new_tokens, batch_size:
        As of :func:`steerkit.generation.generate`; by default 256 rows of a model of less
        than 100 M parameters are written side by side, 64 of a larger one.
    out:
        The folder. Chains that are there are never written again; what was made with other
        settings is put aside in it and not used.
    force:
        Whether tasks that the vectors have seen may be used; the report says so.
    command:
        What is typed to make this evaluation again, for the report.
    tell, progress:
        Called with what is being done, the time that it will take first; and with chains
        written and chains to be written.

    Returns
    -------
    :class:`Evaluation`, its tables written to the folder.

    Raises :class:`EvaluationError` for tasks that are not held out, chains that are missing and
    numbers out of range, :class:`AnnotationError` for what is no annotator, and what
    ``generate`` raises. An interrupt keeps what is finished and raises ``KeyboardInterrupt``;
    the same call goes on from there.
    """
    planned = design(
        model,
        vectors,
        tasks,
        traces=traces,
        select=select,
        behaviors=behaviors,
        coefficients=coefficients,
        headline=headline,
        find_range=find_range,
        samples=samples,
        control_tasks=control_tasks,
        random=random,
        shuffled=shuffled,
        prompt=prompt,
        annotators=annotators,
        unit=unit,
        where=where,
        batch_size=batch_size,
        force=force,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
    )
    return run(planned, Path(out), command, divergence, tell or _log.info, progress)


def run(
    planned: Design,
    folder: Path,
    command: str | None,
    divergence: bool,
    tell: Callable[[str], None],
    progress: Progress | None,
) -> Evaluation:
    """Carry out a design: time, ranges, shuffled labels, chains, labels, tables."""
    started = time.perf_counter()
    per_chain = _per_chain(planned)
    estimate = per_chain * planned.size()
    tell(f"about {planned.size():,} chains in {duration(estimate)}, less those already there")
    ranges = _ranges(planned, folder, tell)
    tested = planned.tested(ranges)
    kept = storable_ranges(ranges, planned.vectors, planned.unit, planned.where)
    vectors = with_ranges(planned.source, kept).save(folder / VECTORS)
    twins = {}
    if planned.shuffled:
        tell("reading the annotated chains for directions of shuffled labels")
        seeds = range(planned.shuffled)
        twins = shuffled_directions(planned.model, planned.chains, planned.vectors, seeds=seeds)
    conditions = planned.conditions(tested, twins)
    settings = settings_of(
        planned,
        conditions,
        tested=tested,
        ranges=ranges,
        digest=hashlib.sha256(vectors.read_bytes()).hexdigest()[:16],
        estimate=estimate,
        command=command,
    )
    spent = _spent(folder, settings)

    def keep(**more: Any) -> dict[str, Any]:
        # an evaluation that was not finished has no seconds, but remembers what it took
        now = {**settings, **more, "spent": round(spent + time.perf_counter() - started, 1)}
        write_text_atomic(folder / SETTINGS, settings_text(now))
        return now

    keep()
    marks, store = settings["conditions"], ChainStore(folder)
    chains = Chains(store, conditions, planned.tasks, planned.samples, marks)
    pace = Pace(0, per_chain)
    write_chains(
        planned.model, chains, pace, planned.options, tell=tell, stored=keep, progress=progress
    )
    tell("labelling and counting")
    table = _measured(planned, chains, settings)
    if divergence:
        table = with_divergence(table, planned.model, chains, marks, folder, tell)
    written = keep(seconds=round(spent + time.perf_counter() - started, 1))
    made = Evaluation(folder, written, table)
    made.save()
    return made


def _per_chain(planned: Design) -> float:
    """Seconds that a chain takes, from a short timed run."""
    model, options = planned.model, planned.options
    rows = min(options["batch_size"], planned.size())
    length = expected_tokens(model, planned.chains, options["max_new_tokens"])
    return length * seconds_per_token(model, planned.tasks, rows, **options)


def _ranges(planned: Design, folder: Path, tell: Callable[[str], None]) -> Ranges:
    """Fluent and free ranges: those that the vectors bring, and those found now."""
    missing = planned.without_range()
    ranges = {}
    for name, direction in planned.vectors.items():
        known = stored_range(direction)
        if known is not None and name not in missing:
            ranges[name] = known
    found = found_ranges(
        planned.model,
        missing,
        planned.select,
        annotate=lambda written: annotate(written, planned.annotators[0]),
        unit=planned.unit,
        where=planned.where,
        limit=planned.limit,
        tolerance=planned.tolerance,
        folder=folder,
        tell=tell,
        **planned.options,
    )
    return {name: (ranges | found)[name] for name in planned.vectors if name in ranges | found}


def _spent(folder: Path, settings: Mapping[str, Any]) -> float:
    """Seconds that earlier runs of the same evaluation took."""
    path = folder / SETTINGS
    if not path.is_file():
        return 0.0
    try:
        before = parse_json(path.read_bytes(), EvaluationError, path, expected="settings")
    except EvaluationError:
        return 0.0
    same = before.get("conditions") == settings["conditions"]
    return float(before.get("spent", 0.0)) if same else 0.0


def _measured(planned: Design, chains: Chains, settings: dict[str, Any]) -> pd.DataFrame:
    """The table of generations; settings are told how answers were judged and labels agree."""
    measures = ChainMeasures(planned.model, planned.tasks)
    rows, given = [], dict[str, dict[str, None]]()
    for annotator in planned.annotators:
        given[annotator.name] = dict.fromkeys(getattr(annotator, "labels", ()))
    for condition in chains.conditions:
        traces = Traces(trace for trace in chains.stored(condition) if trace is not None)
        labelled = {a.name: annotate(traces, a) for a in planned.annotators}
        for name, several in labelled.items():
            given[name] |= dict.fromkeys(several.counts())
        if condition.kind == "baseline":
            _note_agreement(settings, labelled)
        rows += measures.rows(condition, traces, labelled)
    known = [b.name for b in known_behaviors()]
    labels = {name: [n for n in known if n in found] for name, found in given.items()}
    settings["answers"] = dict(Counter(measures.judged))
    return generation_table(rows, labels)


def _note_agreement(settings: dict[str, Any], labelled: Mapping[str, Traces]) -> None:
    """How far each annotator agrees with the first on the unsteered chains."""
    first, *others = labelled
    for entry in settings["annotators"]:
        if entry["name"] in others:
            found = agree(labelled[first], labelled[entry["name"]], units=["characters"])
            kappa = found.value("kappa", "characters")
            entry["agreement"] = f"kappa {kappa:.2f} with {first} on the unsteered chains"
