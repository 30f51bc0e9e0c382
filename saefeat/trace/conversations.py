"""The conversations a user passes: one as JSON, or many as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from saefeat.corpus import TextItem, text_or_messages
from saefeat.errors import InputError


def read_conversations(path_or_dash: str | Path, *, keep_going: bool = False) -> Iterator[TextItem]:
    """Conversations one by one: `{"id"?, "messages": [{"role", "content"}]}`, a line each, or one over several lines.

    '-' is stdin. Lines are read lazily. An id that is not given is the line's number. What cannot be used raises
    InputError with its line's number; with `keep_going` it becomes an item with `error`, and reading goes on.
    """
    where = "stdin" if str(path_or_dash) == "-" else str(path_or_dash)
    with ExitStack() as stack:
        lines: BinaryIO = sys.stdin.buffer
        if where != "stdin":
            try:
                lines = stack.enter_context(Path(path_or_dash).open("rb"))
            except OSError as error:
                raise InputError(f"cannot be read ({error.strerror})", where=where) from error
        found = False
        for number, raw in enumerate(_whole_or_lines(lines), 1):
            if not raw.strip():
                continue
            found = True
            try:
                yield _item(raw, number)
            except (ValueError, RecursionError) as error:
                if not keep_going:
                    told = f"{where} line {number}"
                    raise InputError(str(error), where=told, do="mend it, or pass --keep-going") from error
                yield TextItem(str(number), error=f"line {number}: {error}")
        if not found:
            raise InputError("holds no conversation", where=where, do='write {"messages": [...]}')


def _whole_or_lines(lines: BinaryIO) -> Iterator[bytes]:
    """The lines; or everything at once if the first is no JSON but all together are."""
    start: list[bytes] = []
    for raw in lines:
        start.append(raw if start else raw.removeprefix(b"\xef\xbb\xbf"))
        if raw.strip():
            break
    if start and not _is_json(start[-1]):
        start += list(lines)
        if _is_json(b"".join(start)):
            start = [b"".join(start)]
    return chain(start, lines)


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _item(raw: bytes, number: int) -> TextItem:
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from error
    if not isinstance(row, dict) or "messages" not in row or "text" in row:
        raise ValueError('is no conversation such as {"messages": [{"role": "user", "content": "..."}]}')
    _, messages = text_or_messages(row)
    if not any(message["content"].strip() for message in messages or ()):
        raise ValueError("is a conversation without a word")
    return TextItem(str(row["id"]) if row.get("id") is not None else str(number), messages=messages)
