"""Evaluation: what an experiment wrote, read back from its folder, and the tables made of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import EvaluationError
from steerkit.evaluation.chain_measures import typed
from steerkit.evaluation.chain_store import ChainStore
from steerkit.files import parse_json, write_text_atomic
from steerkit.traces import Traces

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.annotation import Annotator

SETTINGS, GENERATIONS, VECTORS = "settings.json", "generations.csv", "vectors.safetensors"
TABLES = (
    "rates",
    "effects",
    "controls",
    "verdicts",
    "specificity",
    "side_effects",
    "curves",
)
"""Tables that are computed from the generations, each with a CSV file of that name."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`steerkit.evaluation.experiment.evaluate` wrote into a folder.

    Attributes
    ----------
    folder:
        Where it lies: ``settings.json``, ``generations.csv``, ``traces/``,
        ``vectors.safetensors`` (the directions, with the ranges that were found), the tables,
        figures and the report.
    settings:
        Every setting and hash, versions, counts and the time taken.
    generations:
        One row a chain and annotator: see
        :meth:`steerkit.evaluation.chain_measures.ChainMeasures.rows`.

    The tables are computed when they are asked for: rates of behaviours (:attr:`rates`), their
    paired changes (:attr:`effects`), every control beside its claim (:attr:`controls`),
    :attr:`verdicts`, what else moves (:attr:`specificity`), what it costs
    (:attr:`side_effects`), slope and saturation (:attr:`curves`).
    """

    folder: Path
    settings: dict[str, Any]
    generations: pd.DataFrame = field(repr=False)

    @cached_property
    def rates(self) -> pd.DataFrame:
        """See :func:`steerkit.evaluation.rates.rates`."""
        from steerkit.evaluation.rates import rates

        return rates(self.generations)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """See :func:`steerkit.evaluation.effects.effects`."""
        from steerkit.evaluation.effects import effects

        return effects(self.generations)

    @cached_property
    def controls(self) -> pd.DataFrame:
        """See :func:`steerkit.evaluation.verdicts.controls`."""
        from steerkit.evaluation.verdicts import controls

        return controls(self.generations)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """See :func:`steerkit.evaluation.verdicts.verdicts`."""
        from steerkit.evaluation.verdicts import verdicts

        return verdicts(self.generations, self.settings)

    @cached_property
    def specificity(self) -> pd.DataFrame:
        """See :func:`steerkit.evaluation.specificity.specificity`."""
        from steerkit.evaluation.specificity import specificity

        return specificity(self.generations)

    @cached_property
    def side_effects(self) -> pd.DataFrame:
        """See :func:`steerkit.evaluation.side_effects.side_effects`."""
        from steerkit.evaluation.side_effects import side_effects

        return side_effects(self.generations)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """See :func:`steerkit.evaluation.curves.curves`."""
        from steerkit.evaluation.curves import curves

        return curves(self.generations)

    @property
    def annotators(self) -> list[str]:
        """Who labelled, the first being the one that examples are shown with."""
        return [entry["name"] for entry in self.settings["annotators"]]

    def traces(self, condition: str, annotator: str | Annotator | None = None) -> Traces:
        """Chains of a condition in the order of tasks and samples, labelled.

        Parameters
        ----------
        condition:
            Its id, as in ``generations.condition``.
        annotator:
            Who labels them; by default the first of the evaluation's. One that does not come
            with steerkit has to be passed itself.

        Raises :class:`EvaluationError` for a condition that is not there.
        """
        from steerkit.annotation import annotate

        marks = self.settings["conditions"]
        if condition not in marks:
            raise EvaluationError(
                f"no condition {condition!r} here", expected="one of " + ", ".join(marks)
            )
        there = self.generations[self.generations["condition"] == condition]
        order = dict.fromkeys(zip(there["task"], there["sample"], strict=True))
        found = {
            (trace.task_id, trace.metadata["sample"]): trace
            for trace in ChainStore(self.folder).read(condition, marks[condition])
        }
        if missing := [key for key in order if key not in found]:
            raise EvaluationError(
                f"{len(missing)} chains of {condition!r} are gone",
                where=self.folder / "traces",
                fix="run the same evaluation again: what is missing is written anew",
            )
        chosen = self.annotators[0] if annotator is None else annotator
        kind = chosen.partition("@")[0] if isinstance(chosen, str) else chosen
        labelled = annotate([found[key] for key in order], kind)
        if isinstance(chosen, str) and "@" in chosen and labelled[0].annotator != chosen:
            raise EvaluationError(
                f"the annotator {chosen} does not come with steerkit",
                found=labelled[0].annotator,
                fix="pass it: evaluation.traces(condition, annotator)",
            )
        return labelled

    def save(self) -> Path:
        """Write settings, generations and tables into the folder; the folder.

        A table that cannot be computed is left out with a warning, and an old one of its name
        removed.
        """
        from steerkit.errors import SteerkitError

        write_text_atomic(self.folder / SETTINGS, settings_text(self.settings))
        write_csv(self.generations, self.folder / GENERATIONS)
        for name in TABLES:
            path = self.folder / f"{name}.csv"
            try:
                write_csv(getattr(self, name), path)
            except SteerkitError as problem:
                _log.warning("no table of %s: %s", name.replace("_", " "), problem)
                path.unlink(missing_ok=True)
        return self.folder

    def report(self) -> Path:
        """Write ``report.html`` and its figures into the folder; the page."""
        from steerkit.report import write_report

        return write_report(self)

    def __repr__(self) -> str:
        chains = len(self.generations) // max(len(self.annotators), 1)
        return (
            f"Evaluation({', '.join(self.settings['behaviors'])}; {chains} chains of "
            f"{len(self.settings['conditions'])} conditions; {self.folder})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + (self.verdicts.to_html(index=False) or "")


def read_evaluation(folder: str | Path) -> Evaluation:
    """Read an evaluation back from its folder.

    Raises :class:`EvaluationError` for a folder that holds none, or one that was never
    finished.
    """
    import pandas as pd

    place = Path(folder)
    if not (place / SETTINGS).is_file():
        raise EvaluationError(
            "no evaluation here", expected=f"a folder with {SETTINGS}", where=folder
        )
    settings = parse_json(
        (place / SETTINGS).read_bytes(), EvaluationError, place / SETTINGS, expected="settings"
    )
    if not (place / GENERATIONS).is_file() or "seconds" not in settings:
        raise EvaluationError(
            "the evaluation is not finished",
            where=folder,
            fix="run the same command again: it goes on where it stopped",
        )
    # text that looks like a missing number is text all the same
    text: dict[str, Callable[[str], str]] = dict.fromkeys(
        ("condition", "kind", "task", "category", "trace", "annotator", "text"), str
    )
    table = pd.read_csv(place / GENERATIONS, converters=text, lineterminator="\n")
    return Evaluation(place, settings, typed(table))


def settings_text(settings: dict[str, Any]) -> str:
    """Settings as readable JSON with sorted keys."""
    return json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """A table as CSV, written atomically; numbers with at most 10 digits."""
    text = table.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return write_text_atomic(path, text)
