"""The page: an evaluation's claims, figures, tables, examples and settings in one HTML file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import EvaluationError, SteerkitError
from steerkit.files import write_text_atomic
from steerkit.report import account, sections
from steerkit.report.claims import summary_texts
from steerkit.report.direction_section import direction_section, find_vectors
from steerkit.report.numbers import counted, duration, listed, plain, short_name
from steerkit.report.sections import Scope, Section, failed

if TYPE_CHECKING:
    from jinja2 import Environment

    from steerkit.evaluation.record import Evaluation
    from steerkit.vectors import SteeringVectors

REPORT = "report.html"
FEW_TASKS = 20
"""Below it bootstrap intervals over tasks are too narrow (:mod:`steerkit.statistics`)."""
FEW_CONTROLS = 39
"""Fewer of each kind are named as a weakness; 39 of one kind are p <= 0.025, one-sided."""
_log = logging.getLogger(__name__)


def write_report(
    evaluation: Evaluation,
    path: str | Path | None = None,
    *,
    vectors: SteeringVectors | None = None,
    annotator: Any = None,
    examples: int = 2,
) -> Path:
    """Write what an evaluation found as one page that needs nothing else.

    The page holds the claim and the verdict of every behaviour, dose-response figures with
    their controls, what else moves, side effects beside every rate, the directions, examples,
    who labelled, what was censored, and every setting. It runs no script and loads nothing, and
    forbids both to itself; what a model wrote is escaped. Its figures are written beside it as
    PNG and SVG, its tables as CSV. The same evaluation gives the same bytes.

    Parameters
    ----------
    evaluation:
        As :func:`steerkit.evaluate` returned it or :func:`steerkit.read_evaluation` read it.
    path:
        By default ``report.html`` in the evaluation's folder.
    vectors:
        The directions that were evaluated, by default those of the vectors file that the
        evaluation keeps or names.
    annotator:
        What labels the chains of the examples, where it does not come with steerkit; by default
        the evaluation's first annotator.
    examples:
        How many tasks to show chains of, for each behaviour.

    Returns
    -------
    The page. What cannot be made, for want of headline coefficients say, is left out and the
    page says why. Raises :class:`EvaluationError` for an evaluation without chains and
    :class:`ResourceError` where the page cannot be written.
    """
    if not len(evaluation.generations):
        raise EvaluationError("an evaluation without chains", where=evaluation.folder)
    target = evaluation.folder / REPORT if path is None else Path(path)
    present = dict.fromkeys(str(name) for name in evaluation.generations["annotator"])
    named = [str(entry.get("name")) for entry in evaluation.settings.get("annotators", ())]
    order = [*(name for name in named if name in present), *(n for n in present if n not in named)]
    scope = Scope(evaluation, target.parent, tuple(order), examples, annotator)
    known = find_vectors(scope.evaluation) if vectors is None else vectors
    _write_tables(evaluation, known, target.parent)
    page = _environment().get_template("page.html").render(**_content(scope, known))
    return write_text_atomic(target, page)


def _content(scope: Scope, vectors: SteeringVectors | None) -> dict[str, Any]:
    from steerkit import __version__

    settings = scope.settings
    names = [str(name) for name in settings.get("behaviors", ())]
    model = settings.get("model", "a model")
    try:
        summary = summary_texts(scope.evaluation, scope.first)
    except SteerkitError as problem:
        summary = [f"There is no verdict: {problem}"]
    return {
        "version": __version__,
        "title": f"Steering {listed(names)} in {model}",
        "summary": summary,
        "design": _design(scope),
        "warnings": _warnings(scope),
        "sections": _sections(scope, vectors),
    }


def _sections(scope: Scope, vectors: SteeringVectors | None) -> list[Section]:
    made = []
    for build, id_, title in (
        (sections.claims_section, "claims", "Claims and verdicts"),
        (sections.dose_section, "dose", "Dose and response"),
        (sections.controls_section, "controls", "Controls"),
        (sections.specificity_section, "specificity", "What else it moves"),
        (sections.cost_section, "cost", "What it costs"),
        (lambda scope: direction_section(scope, vectors), "directions", "The directions"),
        (sections.examples_section, "examples", "Examples"),
    ):
        try:
            made.append(build(scope))
        except SteerkitError as problem:
            _log.warning("the report has no part on %s: %s", title.lower(), problem)
            made.append(failed(Section(id_, title), problem))
    evaluation, settings = scope.evaluation, scope.settings
    return [
        *made,
        Section(
            "annotators",
            "Who labelled",
            account.annotator_texts(settings, scope.annotators),
        ),
        Section(
            "censored",
            "Cut off, empty, left out",
            account.censored_texts(evaluation.generations, settings),
            grids=[account.censored_grid(evaluation.generations)],
        ),
        Section(
            "again",
            "Make it again",
            _again(settings),
            code=str(settings.get("command") or ""),
            notes=[
                "Every setting, and where the directions come from. Long lists are shortened here "
                "and whole in settings.json and in the vectors file."
            ],
            settings=[
                *account.setting_rows(settings),
                *account.vectors_rows(vectors),
            ],
        ),
    ]


def _design(scope: Scope) -> str:
    """The experiment in a few sentences."""
    table, settings = scope.evaluation.generations, scope.settings
    steered = table[table["kind"] == "steered"]
    tasks, samples = int(table["task"].nunique()), int(table["sample"].nunique())
    run = settings.get("controls", {})
    parts = [
        f"{counted(tasks, 'task')} that neither extraction nor any choice has seen, "
        f"{counted(samples, 'chain')} each"
        if not settings.get("forced")
        else f"{counted(tasks, 'task')}, {counted(samples, 'chain')} each",
        f"{counted(int(steered['coefficient'].nunique()), 'coefficient')} for every behaviour "
        "and the unsteered chains, all under the same noise",
        f"{int(run.get('random', 0)):,} random and {int(run.get('shuffled', 0)):,} "
        "label-shuffled control directions"
        + (f" on {int(settings['control_tasks'])} tasks" if settings.get("control_tasks") else ""),
        f"labelled by {listed([short_name(name) for name in scope.annotators])}",
    ]
    if settings.get("temperature") is not None:
        parts.append(f"temperature {plain(settings['temperature'], 1)}")
    if settings.get("max_new_tokens"):
        parts.append(f"at most {int(settings['max_new_tokens']):,} tokens a chain")
    return "; ".join(parts) + "."


def _warnings(scope: Scope) -> list[str]:
    table, settings = scope.evaluation.generations, scope.settings
    found = []
    if forced := settings.get("forced"):
        number = f"{len(forced):,}" if isinstance(forced, list) else "Some"
        found.append(
            f"{number} of these tasks were used to extract the directions or to choose among them: "
            "this was forced. Rates on tasks that were seen before prove nothing about new ones."
        )
    tasks = int(table["task"].nunique())
    if tasks < FEW_TASKS:
        found.append(
            f"Only {counted(tasks, 'task')}: intervals over fewer than {FEW_TASKS} tasks are too "
            "narrow, and small effects cannot be seen."
        )
    run = settings.get("controls", {})
    counts = [int(run.get(kind, 0)) for kind in ("random", "shuffled")]
    if max(counts) < FEW_CONTROLS:
        found.append(
            f"Only {counts[0]} random and {counts[1]} label-shuffled control directions: by chance "
            f"alone a direction exceeds all of them in 1 of {sum(counts) + 1} cases."
        )
    return found


def _again(settings: Mapping[str, Any]) -> list[str]:
    took = settings.get("seconds")
    texts = []
    if took is not None:
        texts.append(f"It took {duration(took)} on the machine named below.")
    if settings.get("command"):
        texts.append("The command that makes it again:")
    return texts


def _write_tables(evaluation: Evaluation, vectors: SteeringVectors | None, folder: Path) -> None:
    """The numbers of the page as CSV, beside it."""
    from steerkit.evaluation.record import GENERATIONS, SETTINGS, TABLES, settings_text, write_csv

    for name in TABLES:
        try:
            write_csv(getattr(evaluation, name), folder / f"{name}.csv")
        except SteerkitError as problem:
            _log.info("no table of %s: %s", name, problem)
    if vectors is not None:
        write_csv(vectors.layers_table(), folder / "layers.csv")
        write_csv(vectors.cosines(), folder / "cosines.csv")
    if not (folder / GENERATIONS).is_file() or folder.resolve() != evaluation.folder.resolve():
        write_csv(evaluation.generations, folder / GENERATIONS)
        write_text_atomic(folder / SETTINGS, settings_text(evaluation.settings))


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    # everything is escaped, whatever a template's name ends in
    made = Environment(
        loader=PackageLoader("steerkit", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    made.globals["style"] = Markup(style)
    return made
