"""JSON lines with exact places for errors; writing that is never half done."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import steerkit
from steerkit.errors import ResourceError, SteerkitError, TaskError, TraceError
from steerkit.files import read_jsonl, read_safetensors, write_bytes_atomic, write_text_atomic


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(steerkit.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_lines_are_counted_from_one_and_empty_ones_skipped(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"a": 1}\n\n  \r\n{"b": "é\u2028\x85"}\r\n{"c": 3}'.encode())
    assert list(read_jsonl(path, TraceError)) == [
        (1, {"a": 1}),
        (4, {"b": "é\u2028\x85"}),
        (5, {"c": 3}),
    ]


def test_whole_surrogate_pairs_and_escaped_backslashes_are_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": "\\ud83d\\ude00", "b": "\\\\ud83d", "c": -1.5e3}\n')
    assert list(read_jsonl(path, TraceError)) == [(1, {"a": "😀", "b": "\\ud83d", "c": -1500.0})]


@pytest.mark.parametrize("kind", [TraceError, TaskError])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b'{"a": 1', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "Extra data at column 10"),
        (b"[1, 2]", "found list"),
        (b"null", "found NoneType"),
        (b'"text"', "found str"),
        (b'{"a": NaN}', "not valid JSON (expected one JSON object a line; found NaN"),
        (b'{"a": [-Infinity]}', "found -Infinity, which JSON does not have"),
        (b'{"a": 1e999}', "found 1e999, which is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": ' + b"[" * 100_000, "too many brackets"),
        (b'{"a": "x \\ud83d y"}', "half of a surrogate pair"),
        (b'{"a": [{"\\uDE00": 1}]}', "half of a surrogate pair"),
        ('{"a": "é"}'.encode("latin-1"), "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_bad_line_is_named_after_the_good_ones_were_read(tmp_path, kind, bad, words):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"good": 1}\n' + bad + b"\n")
    records = read_jsonl(path, kind)
    assert next(records) == (1, {"good": 1})
    with pytest.raises(kind) as error:
        next(records)
    assert words in str(error.value) and error.value.where == f"{path}, line 2"


def test_missing_files_and_folders_are_resource_errors(tmp_path):
    with pytest.raises(ResourceError, match="no such file") as error:
        list(read_jsonl(tmp_path / "none.jsonl", TraceError))
    assert error.value.where == str(tmp_path / "none.jsonl")
    with pytest.raises(ResourceError, match="not a file"):
        list(read_jsonl(tmp_path, TraceError))


def test_a_file_that_may_not_be_read_is_a_resource_error(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    path.write_text("{}")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)  # chmod would not stop a root user
    with pytest.raises(ResourceError, match="Permission denied"):
        list(read_jsonl(path, TraceError))


def test_text_is_utf8_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "deep" / "x.txt"
    assert write_text_atomic(path, "é\r\n\u2028") == path
    assert path.read_bytes() == "é\r\n\u2028".encode()
    assert write_text_atomic(path, "second").read_text() == "second"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_a_written_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_bytes_atomic(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ResourceError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
)
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failure_in_the_middle_leaves_what_was_there(
    tmp_path, monkeypatch, failing, failure, raised, old
):
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)
    caught_on_the_way = []

    def fail(*_, **__):
        caught_on_the_way.extend(p.stat().st_size for p in tmp_path.iterdir() if p != path)
        raise failure

    owner = os if failing == "fsync" else Path
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(raised) as error:
        write_bytes_atomic(path, b"new content")
    monkeypatch.undo()
    # the new content was on disk under another name when it failed, and is gone
    assert caught_on_the_way == [11]
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == (
        [] if old is None else [("x", old)]
    )
    if raised is ResourceError:
        assert str(path) in str(error.value) and "No space left" in str(error.value)


def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path):
    """A real failure of the write itself: the system refuses bytes after the first 4096."""
    pytest.importorskip("resource")
    path = tmp_path / "x"
    path.write_bytes(b"old")
    code = """
import resource, sys
from steerkit.errors import ResourceError
from steerkit.files import write_bytes_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_bytes_atomic(sys.argv[1] + "-small", bytes(4096))
try:
    write_bytes_atomic(sys.argv[1], bytes(1_000_000))
except ResourceError as error:
    print(error)
"""
    run = child(code, path)
    assert run.returncode == 0, run.stderr
    assert f"{path}: cannot write this file (found File too large)" in run.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x-small"]
    assert path.read_bytes() == b"old"


def test_a_killed_process_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    code = """
import os, signal, sys
from steerkit.files import write_bytes_atomic
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
write_bytes_atomic(sys.argv[1], b"new")
"""
    assert child(code, path).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    # what it could not tidy up is hidden and does not look like a result
    assert all(p.name.startswith(".x.") for p in tmp_path.iterdir() if p != path)


def test_places_that_cannot_be_written_are_typed_errors(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "folder"):
        with pytest.raises(SteerkitError) as error:
            write_text_atomic(path, "new")
        assert isinstance(error.value, ResourceError) and error.value.where == str(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old" and not any((tmp_path / "folder").iterdir())


def test_tensors_come_with_their_metadata_and_damage_is_the_callers_error(tmp_path):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"x": torch.arange(3.0)}, path, metadata={"kind": "planted"})
    metadata, tensors = read_safetensors(path, TaskError)
    assert metadata == {"kind": "planted"}
    torch.testing.assert_close(tensors["x"], torch.arange(3.0))
    assert read_safetensors(path, TaskError, framework="np")[1]["x"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(TaskError, match=r"not a readable.*Make it again"):
        read_safetensors(path, TaskError, fix="make it again")
