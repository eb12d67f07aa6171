"""Files: JSON lines and tensors, errors with exact places, writing that is never half done."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

from steerkit.errors import ResourceError, SteerkitError


def read_jsonl(
    path: str | Path, error: type[SteerkitError]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every non-empty line of a JSONL file.

    Raises :class:`ResourceError` for a missing file and ``error``, naming file and
    line, for text that is not UTF-8, not JSON, or not an object. NaN and infinite numbers
    are not JSON, and half of a surrogate pair is not text.
    """
    file = Path(path)
    if not file.is_file():
        raise ResourceError(
            "no such file" if not file.exists() else "not a file",
            where=path,
            fix="check the path; relative paths start at the current folder",
        )
    try:
        lines = file.open("rb")
    except OSError as problem:
        raise ResourceError("cannot be read", found=problem.strerror, where=path) from None
    with lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            where = f"{path}, line {number}"
            record = parse_json(raw, error, where, expected="one JSON object a line")
            if not isinstance(record, dict):
                raise error(
                    "not a JSON object",
                    expected="one JSON object a line",
                    found=type(record).__name__,
                    where=where,
                )
            if b"\\ud" in raw.lower():
                refuse_surrogates(record, error, where)
            yield number, record


def parse_json(raw: bytes, error: type[SteerkitError], where: object, *, expected: str) -> Any:
    """The value that UTF-8 JSON holds; ``error``, naming ``where``, for anything else.

    NaN, infinite numbers, numbers of thousands of digits and nesting beyond what Python can
    follow are refused as well.
    """
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError as problem:
        raise error(f"not UTF-8: {problem.reason}", where=where) from None
    except json.JSONDecodeError as problem:
        found = f"{problem.msg} at column {problem.colno}"
    except ValueError as problem:
        found = str(problem)
    except RecursionError:
        found = "too many brackets inside one another"
    raise error("not valid JSON", expected=expected, found=found, where=where)


def refuse_surrogates(value: Any, error: type[SteerkitError], where: object) -> None:
    """Refuse JSON whose strings hold half of a surrogate pair, as ``"\\ud83d"`` alone is."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as problem:
        raise error(
            "a string holds half of a surrogate pair, which is no character",
            found=json.dumps(problem.object[problem.start]),
            where=where,
            fix="write the character whole, or leave it out",
        ) from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits}, which is too large")
    return number


def read_safetensors(
    path: str | Path,
    error: type[SteerkitError],
    *,
    framework: Literal["pt", "np"] = "pt",
    fix: str | None = None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata and all tensors of a safetensors file, on the CPU; nothing is unpickled.

    ``framework`` says whether they become torch tensors or numpy arrays. Raises ``error``, with
    ``fix``, for a file that is none or is damaged. Whether it is there is the caller's to see.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework=framework) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except SafetensorError as problem:
        raise error(
            "not a readable safetensors file", found=str(problem), where=path, fix=fix
        ) from None


def write_bytes_atomic(path: str | Path, content: bytes) -> Path:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Raises :class:`ResourceError` where that cannot be done: no permission, no room, a
    folder of that name.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as problem:
        raise ResourceError(
            "cannot write here", found=problem.strerror, where=path, fix="choose another path"
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a written result follows the user's umask instead
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except BaseException as problem:
        Path(temporary).unlink(missing_ok=True)
        if not isinstance(problem, OSError):
            raise
        raise ResourceError(
            "cannot write this file",
            found=problem.strerror,
            where=path,
            fix="make room, or choose another path; what was there before is untouched",
        ) from None
    return target


def write_text_atomic(path: str | Path, text: str) -> Path:
    """:func:`write_bytes_atomic` for UTF-8 text."""
    return write_bytes_atomic(path, text.encode("utf-8"))
