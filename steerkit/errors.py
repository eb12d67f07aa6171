"""Typed errors: what is wrong, what was expected, what was found, where, what to do."""

from __future__ import annotations


class SteerkitError(Exception):
    """Base of every error that steerkit raises on purpose.

    Parameters
    ----------
    problem:
        One sentence that names the thing that is wrong.
    expected, found:
        What the code needed and what it met instead.
    where:
        File and line, trace, layer, token: as exact as it is known.
    fix:
        What the reader can do about it.

    The message is those parts joined on one line; each part is also an attribute.
    The command line prints the message and exits with code 2.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        where: object | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        message = f"{self.where}: {self.problem}" if self.where else self.problem
        details = [
            f"{name} {text}"
            for name, text in (("expected", self.expected), ("found", self.found))
            if text is not None
        ]
        if details:
            message += f" ({'; '.join(details)})"
        if self.fix:
            message += f". {self.fix[0].upper()}{self.fix[1:]}"
        return message


class BehaviorError(SteerkitError, ValueError):
    """An unknown, clashing or ill-named behaviour."""


class TaskError(SteerkitError, ValueError):
    """A task, or a tasks file, that cannot be used."""


class TraceError(SteerkitError, ValueError):
    """A trace, span or traces file that cannot be used."""


class AnnotationError(SteerkitError, ValueError):
    """An annotator, its file, or a pair of annotations that cannot be used."""


class WindowError(SteerkitError, ValueError):
    """A window that reads no token of any span."""


class ModelError(SteerkitError, ValueError):
    """A model, tokenizer or think format that cannot be used."""


class ExtractionError(SteerkitError, ValueError):
    """Chains from which the directions asked for cannot be extracted."""


class VectorsError(SteerkitError, ValueError):
    """A vectors file that cannot be read, or that does not fit the model."""


class SteeringError(SteerkitError, ValueError):
    """A steering term that cannot be applied: layer, coefficient, place, unit."""


class GenerationError(SteerkitError, ValueError):
    """A generation that cannot be started: prompt, length, temperature, rows."""


class EvaluationError(SteerkitError, ValueError):
    """An evaluation that cannot be made or read: tasks not held out, chains that are gone."""


class StatisticsError(SteerkitError, ValueError):
    """Outcomes from which no interval can be computed."""


class TrainingError(SteerkitError, RuntimeError):
    """A training run that cannot be started or resumed."""


class ResourceError(SteerkitError, FileNotFoundError):
    """A file that is not there: bundled data or the user's own."""
