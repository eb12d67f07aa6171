"""Contenders write the same text in turns: what `generation`, `peers` and `sweep` share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from bench_cases import Case, Context, Measured, Unavailable
from bench_environments import python_of
from bench_processes import Process
from bench_repetitions import Alike, alike, interleave
from bench_subjects import SUBJECTS, Subject, corpus, folder_of, prompts

OURS = ("plain", "steerkit")
COEFFICIENT, STRONG = 0.3, 2.0
"""In mean norms; the strong one is only there to see that everybody makes the same edit."""
SAME_WORK = 0.5
"""Share of tokens that must agree in float32: ties make rows part late, another edit at once."""


class Entrant(NamedTuple):
    """Somebody who runs: ``label`` in the results, the contender, and the name of its job."""

    label: str
    contender: str
    job: str


def subject_of(case: Case) -> Subject:
    """The model that a case is measured on."""
    return next(subject for subject in SUBJECTS if subject.name == case.model)


def contest(case: Case, context: Context, entrants: Sequence[Entrant], mixed: bool) -> Measured:
    """Run every entrant in turns, ``case.repetitions`` times, after one run that is not counted.

    Jobs are ``unsteered`` and ``steered``, by ``case.setting``: ``batch`` prompts (``mixed``: of
    ``shortest`` to ``longest`` tokens) and ``new_tokens``, under ``coefficients``; and ``strong``,
    which is not timed. A contender that cannot run is missing from the result, with the reason;
    whether the others wrote the same is recorded. Raises :class:`Unavailable` when ours cannot
    run, and when steering changes nothing.
    """
    subject = subject_of(case)
    folder = folder_of(subject.name, context)
    measured = Measured(seconds={})
    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        for names in _processes(entrants):
            try:
                processes |= _started(stack, names, str(folder), subject, context, measured)
            except Unavailable as problem:
                if set(names) & set(OURS):
                    raise
                for entrant in entrants:
                    if entrant.contender in names:
                        measured.missing[entrant.label] = str(problem)
        jobs = _jobs(case, subject, processes["steerkit"], mixed)
        for process in dict.fromkeys(processes.values()):
            for name, job in jobs.items():
                process.ask("job", name=name, job=job)
        ready = _rehearse(entrants, processes, measured, subject.dtype == "float32")
        measured.seconds = interleave(
            {
                entrant.label: lambda e=entrant: processes[e.contender].run(e.contender, e.job)[0]
                for entrant in ready
            },
            case.repetitions,
            lambda line: print(f"{case.key} {line}", file=sys.stderr, flush=True),
        )
    lengths = [sum(row) for row in jobs["steered"]["mask"]]
    measured.notes.append(
        f"{len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens, "
        f"{jobs['steered']['new_tokens']} new tokens each"
    )
    return measured


def _processes(entrants: Sequence[Entrant]) -> list[list[str]]:
    """Contenders by process: plain and steerkit share weights, every peer is alone."""
    names = list(dict.fromkeys(entrant.contender for entrant in entrants))
    ours = [name for name in OURS if name in names or name == "steerkit"]
    return [ours, *([name] for name in names if name not in OURS)]


def _started(
    stack: ExitStack,
    names: list[str],
    folder: str,
    subject: Subject,
    context: Context,
    measured: Measured,
) -> dict[str, Process]:
    """A process that has loaded its contenders, under each of their names."""
    python = sys.executable
    if not {*names} & {*OURS}:
        python = str(python_of(names[0], context.pythons))
    process = stack.enter_context(Process(names[0], python))
    answer = process.ask(
        "load",
        contenders=names,
        folder=folder,
        dtype=subject.dtype,
        device=context.device,
        threads=context.threads,
    )
    measured.versions |= dict.fromkeys(names, answer["versions"])
    return dict.fromkeys(names, process)


def _jobs(case: Case, subject: Subject, ours: Process, mixed: bool) -> dict[str, dict[str, Any]]:
    """The jobs as the processes take them; everyone gets the ids that steerkit renders."""
    setting = case.setting
    if mixed:
        count = setting["batch"]
        step = (setting["longest"] - setting["shortest"]) / max(count - 1, 1)
        lengths = [round(setting["shortest"] + step * number) for number in range(count)]
        texts = ours.ask("mixed", words=corpus(subject.name), lengths=lengths)["texts"]
    else:
        texts = prompts(subject.name, setting["batch"])
    ids = ours.ask("render", texts=texts)["ids"]
    width = max(len(row) for row in ids)
    job = {
        "texts": texts,
        "ids": [[0] * (width - len(row)) + row for row in ids],
        "mask": [[0] * (width - len(row)) + [1] * len(row) for row in ids],
        "new_tokens": setting["new_tokens"],
        "layer": subject.layer,
        "push": subject.push,
        "batch_size": setting.get("batch_size"),
    }
    coefficients = list(setting.get("coefficients", [COEFFICIENT]))
    return {
        "steered": {**job, "coefficients": coefficients},
        "unsteered": {**job, "coefficients": [0.0]},
        "strong": {**job, "coefficients": [STRONG], "new_tokens": min(16, job["new_tokens"])},
    }


def _rehearse(
    entrants: Sequence[Entrant],
    processes: dict[str, Process],
    measured: Measured,
    exact: bool,
) -> list[Entrant]:
    """Warm everybody up and compare what they write; those that can run.

    Unsteered text is compared with that of plain ``generate``, or where that does not take part
    with steerkit's; steered text with steerkit's, once under so strong an edit that a wrong layer
    or length would show. ``exact`` (float32): who writes something else does not take part.
    """
    written: dict[tuple[str, str], list[list[int]]] = {}
    ready = []
    for entrant in entrants:
        name = entrant.contender
        if name not in processes:
            continue
        try:
            edited = () if name == "plain" else ("strong",)
            for job in dict.fromkeys(("unsteered", *edited, entrant.job)):
                written[name, job] = processes[name].run(name, job)[1]
            ready.append(entrant)
        except Unavailable as problem:
            if name in OURS:
                raise
            measured.missing[entrant.label] = str(problem)
    strong = written["steerkit", "strong"]
    if strong == [row[: len(strong[0])] for row in written["steerkit", "unsteered"]]:
        raise Unavailable("steering changed nothing: nothing could be learned")
    standard = "plain" if ("plain", "unsteered") in written else "steerkit"
    others: dict[str, Alike] = {}
    for (name, job), rows in written.items():
        against = standard if job == "unsteered" else "steerkit"
        if name != against and (against, job) in written:
            found = alike(rows, written[against, job])
            measured.agreement[f"{name}, {job}"] = found.text
            if exact and found.share < SAME_WORK:
                others[name] = found
    if "steerkit" in others:
        raise Unavailable(f"steerkit and plain generate part: {others['steerkit'].text}")
    for entrant in ready:
        if entrant.contender in others:
            text = others[entrant.contender].text
            measured.missing[entrant.label] = f"writes something else: {text}"
    return [entrant for entrant in ready if entrant.contender not in others]
