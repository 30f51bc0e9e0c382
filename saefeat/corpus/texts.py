"""The texts a user passes: a line a text, or JSON lines of texts and conversations."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from saefeat.errors import InputError


@dataclass(frozen=True)
class TextItem:
    """One text or conversation (exactly one of `text`, `messages`), or, with keep_going, why there is none.

    fields: what else its JSON line holds. named: whether its id was given; else it is the line's number.
    """

    id: str
    text: str | None = None
    messages: list[dict[str, str]] | None = None
    error: str | None = None
    fields: dict[str, Any] = field(default_factory=dict, compare=False)
    named: bool = field(default=True, compare=False)


def read_texts(path_or_dash: str | Path, *, keep_going: bool = False) -> Iterator[TextItem]:
    """Read texts one by one, lazily, from a `.txt` (a line a text) or `.jsonl` (`{"id"?, "text" | "messages"}`).

    '-' is stdin: JSON lines if the first non-blank line starts with '{', else a line a text. Blank lines are skipped.
    An id that is not given is the line's number. A line that cannot be used raises InputError with its number; with
    `keep_going` it becomes an item with `error` and reading goes on.
    """
    where = "stdin" if str(path_or_dash) == "-" else str(path_or_dash)
    with ExitStack() as stack:
        lines: BinaryIO = sys.stdin.buffer
        as_json: bool | None = None
        if where != "stdin":
            path = Path(path_or_dash)
            suffix = path.suffix.lower()
            if suffix not in (".txt", ".jsonl", ".ndjson"):
                raise InputError("is neither .txt nor .jsonl", where=path, do="rename it, or pipe it in with -")
            try:
                lines = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise InputError(f"cannot be read ({error.strerror})", where=path) from error
            as_json = suffix != ".txt"
        for number, raw in enumerate(lines, 1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            if as_json is None:
                as_json = raw.lstrip().startswith(b"{")
            try:
                yield _item(raw, number, as_json)
            except (ValueError, RecursionError) as error:
                if not keep_going:
                    raise InputError(
                        str(error), where=f"{where} line {number}", do="mend the line, or pass --keep-going"
                    ) from error
                yield TextItem(str(number), error=f"line {number}: {error}")


def _item(raw: bytes, number: int, as_json: bool) -> TextItem:
    try:
        line = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not as_json:
        return TextItem(str(number), line, named=False)
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from error
    text, messages = text_or_messages(row)
    name = row.get("id")
    fields = {key: value for key, value in row.items() if key not in ("id", "text", "messages")}
    return TextItem(str(number) if name is None else str(name), text, messages, fields=fields, named=name is not None)


def text_or_messages(row: Any) -> tuple[str | None, list[dict[str, str]] | None]:
    """The `text` or the `messages` of a decoded JSON line; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError('is not an object such as {"text": "..."}')
    if "text" in row and "messages" in row:
        raise ValueError('has both "text" and "messages"')
    if "text" in row:
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise ValueError('has an empty "text"' if row["text"] in ("", None) else 'has a "text" without words')
        _encodable(row["text"])
        return row["text"], None
    messages = row.get("messages")
    if messages is None:
        raise ValueError('has neither "text" nor "messages"')
    if not isinstance(messages, list) or not messages:
        raise ValueError('has no list of messages in "messages"')
    for n, message in enumerate(messages, 1):
        fields = (message.get(k) for k in ("role", "content")) if isinstance(message, dict) else [None]
        if not all(isinstance(field, str) for field in fields):
            raise ValueError(f'message {n} needs a "role" and a "content", both text')
        _encodable(message["content"])
    return None, messages


def _encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair; tokenizers cannot take it
        raise ValueError(f"holds half a character at position {error.start}") from error
