"""Plain chains: the text of a file as it is, without prompt or labels."""

from __future__ import annotations

import json

import pytest

from steerkit.errors import ResourceError, TraceError
from steerkit.plain_chains import read_plain_chains

TEXT = "<think>\nGr\u00f6\u00dfer als 3? Wait.\n</think>\n\n4"


def test_a_text_file_is_one_bare_chain(tmp_path) -> None:
    (tmp_path / "sum.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "bare.md").write_bytes(b"\xef\xbb\xbfWait.\r\nNo.\r\n")
    first, second = read_plain_chains(tmp_path / "sum.txt", tmp_path / "bare.md")
    assert (first.id, first.task_id, first.prompt, first.response) == ("sum", "sum", None, TEXT)
    assert (first.answer, first.spans, first.annotator) == ("4", (), None)
    # without think strings all of it is thinking
    assert (second.response, second.thinking, second.closed) == ("Wait.\nNo.\n",) * 2 + (False,)


@pytest.mark.parametrize("form", ["list", "lines", "one"])
def test_json_strings_are_chains(tmp_path, form) -> None:
    texts = [TEXT, "Wait."][: 1 if form == "one" else 2]
    content = {
        "list": json.dumps(texts, indent=1),
        "lines": "\n".join(map(json.dumps, texts)),
        "one": json.dumps(texts[0]),
    }[form]
    (tmp_path / "many.json").write_text(content)
    found = read_plain_chains(tmp_path / "many.json")
    assert [(t.id, t.response) for t in found] == [(f"many-{n}", x) for n, x in enumerate(texts)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b" \n", "holds no chain"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.json", b"[]", "holds no chains"),
        ("a.json", b'["x", 3]', "record 1: not a chain .*found int"),
        ("a.jsonl", b'"x"\n{"id": 1}\n', "line 2: not a chain .*found dict"),
        ("a.jsonl", b'"x"\nno\n', "line 2: not valid JSON"),
        ("a.json", b'["\\ud83d"]', "half of a surrogate"),
    ],
)
def test_what_is_no_chain_is_named(tmp_path, name, content, words) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TraceError, match=words):
        read_plain_chains(tmp_path / name)


def test_missing_files_and_two_of_one_name(tmp_path) -> None:
    with pytest.raises(ResourceError, match="no such file"):
        read_plain_chains(tmp_path / "none.txt")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("Wait.")
    with pytest.raises(TraceError, match="'x' occurs twice"):
        read_plain_chains(tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt")
