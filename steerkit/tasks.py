"""Task: a prompt with what is needed to check its answer; tasks files; splits by task."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from steerkit.errors import TaskError
from steerkit.files import read_jsonl, write_text_atomic

Split = Literal["extract", "select", "evaluate"]
SPLITS: tuple[Split, ...] = ("extract", "select", "evaluate")


@dataclass(frozen=True)
class Task:
    """One problem put to a model.

    Attributes
    ----------
    id, category, prompt:
        Names of the task and of its kind, and the user message as the model gets it.
    answer:
        A gold answer, where there is one.
    verifier:
        How an answer is checked, e.g. ``{"kind": "countdown", "numbers": [3, 7, 8],
        "target": 29}``; ``None`` where it cannot be.
    """

    id: str
    prompt: str
    category: str = ""
    answer: str | None = None
    verifier: Mapping[str, Any] | None = field(default=None, hash=False)

    def to_json(self) -> dict[str, Any]:
        """The task as one object of a tasks file; empty fields are left out."""
        record: dict[str, Any] = {"id": self.id, "category": self.category, "prompt": self.prompt}
        if self.answer is not None:
            record["answer"] = self.answer
        if self.verifier is not None:
            record["verifier"] = dict(self.verifier)
        return record


_OPTIONAL: dict[str, tuple[type, ...]] = {
    "category": (str,),
    "answer": (str,),
    "verifier": (dict,),
}


def read_tasks(path: str | Path) -> list[Task]:
    """Tasks of a JSONL file, one object a line; :class:`TaskError` names file and line."""
    tasks: list[Task] = []
    seen: dict[str, int] = {}
    for line, record in read_jsonl(path, TaskError):
        where = f"{path}, line {line}"
        for key in ("id", "prompt"):
            if not isinstance(record.get(key), str) or not record[key].strip():
                raise TaskError(
                    f"a task has no {key}",
                    expected=f'"{key}": a non-empty string',
                    found=json.dumps(record.get(key)),
                    where=where,
                )
        for key, types in _OPTIONAL.items():
            if not isinstance(record.get(key), (*types, type(None))):
                raise TaskError(
                    f"the field {key!r} has the wrong type",
                    expected=" or ".join([*(t.__name__ for t in types), "null"]),
                    found=type(record[key]).__name__,
                    where=where,
                )
        if record["id"] in seen:
            raise TaskError(
                f"task id {record['id']!r} occurs twice (first in line {seen[record['id']]})",
                where=where,
                fix="give every task an id of its own",
            )
        seen[record["id"]] = line
        tasks.append(
            Task(
                id=record["id"],
                prompt=record["prompt"],
                category=record.get("category") or "",
                answer=record.get("answer"),
                verifier=record.get("verifier"),
            )
        )
    return tasks


def write_tasks(tasks: Iterable[Task], path: str | Path) -> Path:
    """Write a tasks file atomically; the same tasks give the same bytes."""
    lines = (json.dumps(task.to_json(), ensure_ascii=False) + "\n" for task in tasks)
    return write_text_atomic(path, "".join(lines))


_BESIDE_MINUS = r"\s\d()\[\]{}+*/^=<>%"
_WORD = re.compile(
    rf"\w+|[+*/^=<>%]|(?<![^{_BESIDE_MINUS}])-(?![^{_BESIDE_MINUS}])"  # well-known: no minus
)


def normalized(prompt: str) -> str:
    """The prompt as splits see it: its words, numbers and operators, lower-case, sorted.

    Operators are ``+ * / ^ = < > %``, and ``-`` where it stands between spaces, digits,
    brackets or other operators, or at an end of the text; within a word it is a hyphen, and
    dropped like all other marks.

    Sorting makes rewordings by order alone ("Use 3, 7, 8 ..." and "Use 8, 3, 7 ...")
    the same task, so that they can never be parted by a split. Two different tasks
    with the same words also fall together, which is harmless: it only keeps them in
    one split.
    """
    return " ".join(sorted(_WORD.findall(prompt.casefold())))


def task_hash(prompt: str) -> str:
    """Hash of the normalised prompt: 16 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(normalized(prompt).encode(), digest_size=8).hexdigest()


def split_of(prompt: str) -> Split:
    """The set that a task belongs to: half *extract*, a quarter *select*, a quarter *evaluate*.

    It depends on the normalised prompt alone, so every file, machine and model agrees,
    and a task can never be both evidence and test. For a bare chain without a prompt
    pass its task id.
    """
    return ("extract", "extract", "select", "evaluate")[int(task_hash(prompt), 16) % 4]
