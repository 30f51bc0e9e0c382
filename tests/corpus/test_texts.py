"""The texts a user passes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from saefeat.corpus import TextItem, read_texts
from saefeat.errors import InputError

TALK = [{"role": "user", "content": "hello"}]


def test_a_line_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n two \nlast\xe2\x80\xa8line")
    assert list(read_texts(path)) == [TextItem("1", "one"), TextItem("3", " two "), TextItem("4", "last\u2028line")]


def test_json_lines_keep_ids_and_conversations(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows: list[dict[str, Any]] = [{"id": "x", "text": "one"}, {"messages": TALK}, {"id": 7, "text": "seven"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [TextItem("x", "one"), TextItem("2", messages=TALK), TextItem("7", "seven")]
    assert list(read_texts(path)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "is not an object"),
        (b"{}", "neither"),
        (b'{"text": ""}', 'empty "text"'),
        (b'{"text": 3}', "without words"),
        (b'{"text": "  "}', "without words"),
        (b'{"text": "\\ud800"}', "half a character"),
        (b'{"text": "a", "messages": []}', "both"),
        (b'{"messages": []}', "no list of messages"),
        (b'{"messages": [{"role": "user"}]}', "message 1 needs"),
        (b'{"messages": ["hi"]}', "message 1 needs"),
        (b'{"text": "\xff"}', "UTF-8"),
    ],
)
def test_a_bad_line_is_named_or_carried_along(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "after"}\n')
    with pytest.raises(InputError, match=rf"line 3: .*{message}"):
        list(read_texts(path))
    good, bad, after = read_texts(path, keep_going=True)
    assert (good.text, after.text) == ("good", "after")
    assert bad.id == "3"
    assert bad.text is bad.messages is None
    assert bad.error is not None
    assert "line 3" in bad.error


def test_stdin_is_json_lines_if_it_looks_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(raw: bytes) -> list[TextItem]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
        return list(read_texts("-"))

    assert given(b"plain\nwords\n") == [TextItem("1", "plain"), TextItem("2", "words")]
    assert given(b'\n{"text": "json"}\n') == [TextItem("2", "json")]
    with pytest.raises(InputError, match="stdin line 2"):
        given(b'{"text": "a"}\nnot json\n')


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(InputError, match="neither"):
        list(read_texts(tmp_path / "a.csv"))
    with pytest.raises(InputError, match="No such file"):
        list(read_texts(tmp_path / "b.txt"))


def test_further_fields_and_given_ids_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"id": 7, "text": "a", "lang": "en", "n": [1]}\n{"text": "b"}\n', encoding="utf-8")
    first, second = read_texts(path)
    assert (first.id, first.named, first.fields) == ("7", True, {"lang": "en", "n": [1]})
    assert (second.id, second.named, second.fields) == ("2", False, {})
    (tmp_path / "texts.txt").write_text("a\n")
    assert [item.named for item in read_texts(tmp_path / "texts.txt")] == [False]
