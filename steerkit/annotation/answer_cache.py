"""AnswerCache: labels that a judge gave, kept on disk by what it was asked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.behaviors import UNPARSED
from steerkit.errors import ResourceError
from steerkit.files import write_text_atomic

_log = logging.getLogger(__name__)

FORMAT = 1


def cache_folder() -> Path:
    """Where answers are kept unless told otherwise.

    ``answers`` in the folder that ``STEERKIT_CACHE`` names, else ``steerkit/answers`` in
    ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    named = os.environ.get("STEERKIT_CACHE")
    if named:
        return Path(named) / "answers"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "steerkit" / "answers"


@dataclass(frozen=True)
class AnswerCache:
    """A folder with one small file an answer.

    A file is named by the hash of everything that decides the answer and holds labels and
    counts of tokens alone: neither the text of chains nor a key. It is written whole or not
    at all, so what a killed run has been told is there for the next one. Answers that could
    not be used are not kept.
    """

    folder: Path

    def check(self) -> None:
        """Make the folder; :class:`ResourceError` where nothing can be written into it."""
        problem = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = error.strerror
        if problem is None and not os.access(self.folder, os.W_OK | os.X_OK):
            problem = "no permission to write"
        if problem:
            raise ResourceError(
                "answers cannot be kept here",
                found=problem,
                where=self.folder,
                fix="name another folder with cache=, or --cache",
            )

    def get(self, key: str, count: int, labels: Sequence[str]) -> tuple[str, ...] | None:
        """The labels kept under a key; ``None`` for none, or for a file that is damaged."""
        path = self._path(key)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            found = None
        allowed = {*labels, UNPARSED}
        kept = found.get("labels") if isinstance(found, dict) else None
        if (
            not isinstance(kept, list)
            or found.get("format") != FORMAT
            or len(kept) != count
            or not all(isinstance(label, str) and label in allowed for label in kept)
        ):
            _log.warning("%s: not a kept answer; it is asked for again", path)
            return None
        return tuple(kept)

    def put(self, key: str, labels: Sequence[str], facts: dict[str, Any]) -> None:
        """Keep the labels of one answer, with facts such as its tokens."""
        record = {**facts, "format": FORMAT, "labels": list(labels)}
        write_text_atomic(self._path(key), json.dumps(record, sort_keys=True) + "\n")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"


def content_key(content: Any) -> str:
    """SHA-256 of what JSON can hold, in its canonical form: 64 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
