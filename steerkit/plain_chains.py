"""Plain chains: text without prompts or labels, one chain a file or one a JSON string."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerkit.errors import ResourceError, TraceError
from steerkit.files import parse_json, refuse_surrogates
from steerkit.traces import Trace, Traces


def read_plain_chains(*paths: str | Path) -> Traces:
    """Read bare chains from text files, and from JSON lists or lines that hold strings.

    A file named ``.json`` or ``.jsonl`` holds strings, each a chain named after the file and
    its number; any other file is one chain, named after the file. Text is UTF-8; a byte order
    mark is dropped, and line breaks of Windows become plain ones. The chain has no prompt and
    is its own task. Without think strings all of it counts as thinking.

    Raises :class:`ResourceError` for a missing file and :class:`TraceError` for text that is
    not UTF-8, a file without a chain, JSON that is no string, and two files of one name.
    """
    traces: list[Trace] = []
    seen: dict[str, str] = {}
    for path in paths:
        file = Path(path)
        if not file.is_file():
            raise ResourceError(
                "no such file" if not file.exists() else "not a file",
                where=path,
                fix="check the path; relative paths start at the current folder",
            )
        content = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
        several = file.suffix.lower() in (".json", ".jsonl")
        texts = _strings(content, file) if several else [_text(content, file)]
        for number, text in enumerate(texts):
            name = f"{file.stem}-{number}" if several else file.stem
            if name in seen:
                raise TraceError(
                    f"chain id {name!r} occurs twice (first in {seen[name]})",
                    where=path,
                    fix="chains are named after their files: give these names of their own",
                )
            seen[name] = str(path)
            traces.append(Trace(name, name, text.replace("\r\n", "\n")))
    return Traces(traces)


def _text(content: bytes, file: Path) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise TraceError(f"not UTF-8: {problem.reason}", where=file) from None
    if not text.strip():
        raise TraceError("the file holds no chain", expected="text", where=file)
    return text


def _strings(content: bytes, file: Path) -> list[str]:
    try:
        whole: Any = parse_json(content, TraceError, file, expected="a list of strings")
        values = whole if isinstance(whole, list) else [whole]
        places = [f"{file}, record {number}" for number in range(len(values))]
    except TraceError:
        lines = [(n, line) for n, line in enumerate(content.split(b"\n"), 1) if line.strip()]
        places = [f"{file}, line {n}" for n, _ in lines]
        values = [
            parse_json(line, TraceError, place, expected="one JSON string a line")
            for place, (_, line) in zip(places, lines, strict=True)
        ]
    for place, value in zip(places, values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise TraceError(
                "not a chain",
                expected="a JSON string with text",
                found=type(value).__name__,
                where=place,
            )
        refuse_surrogates(value, TraceError, place)
    if not values:
        raise TraceError("the file holds no chains", where=file)
    return values
