"""Records that survive a kill: JSON lines in one .gz, each record whole or not there at all.

Every record is a gzip member of its own, appended and synced; any gzip reader sees one file of JSON lines. What a kill
left of the last member is cut off when the file is opened again.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any

from saefeat.errors import FormatError, InputError
from saefeat.files import fingerprint, sync_directory

VERSION = 1


class Records:
    """An open file of records. The first line says what they are of: {"format", "format_version", "settings"}.

    settings: what all records of the file have in common. Raises InputError if the file is of other settings,
    FormatError if it is no such file or newer. One writer at a time: hold the folder's lock.
    """

    def __init__(self, path: Path | str, kind: str, settings: dict[str, Any]) -> None:
        self.path = Path(path)
        head = {"format": kind, "format_version": VERSION, "settings": settings}
        lines, whole = _members(self.path) if self.path.exists() else ([], 0)
        if not lines:
            if whole == 0 and self.path.exists() and self.path.stat().st_size > 0 and not _torn(self.path):
                raise FormatError("is no file of records", where=self.path)
            self._truncate(0)
            self._append(head)
            self.rows: list[dict[str, Any]] = []
            return
        found = lines[0]
        if not isinstance(found, dict) or found.get("format") != kind:
            raise FormatError(f"holds no records of {kind}", where=self.path)
        if not isinstance(found.get("format_version"), int) or found["format_version"] > VERSION:
            raise FormatError("was written by a newer saefeat", where=self.path, do="upgrade saefeat")
        if fingerprint(found["settings"]) != fingerprint(settings):
            other = [k for k in settings if found["settings"].get(k) != settings[k]]
            what = f"holds records of other settings ({', '.join(other) or 'older ones'})"
            raise InputError(what, where=self.path, do="choose another --out, or the same settings")
        self._truncate(whole)
        self.rows = lines[1:]

    def append(self, row: dict[str, Any]) -> None:
        """Add a record; once this returns it is on disk."""
        self._append(row)
        self.rows.append(row)

    def _append(self, row: dict[str, Any]) -> None:
        member = gzip.compress(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n", mtime=0)
        try:
            with self.path.open("ab") as file:
                file.write(member)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            what = f"cannot be written ({error.strerror})"
            raise InputError(what, where=self.path, do="free some disk, then run it again") from error

    def _truncate(self, size: int) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(size)
                os.fsync(file.fileno())
            sync_directory(self.path.parent)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", where=self.path) from error


def _members(path: Path) -> tuple[list[Any], int]:
    """The JSON line of every whole member, and the bytes that these take."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    lines, whole = [], 0
    while whole < len(data):
        member = zlib.decompressobj(wbits=31)
        try:
            text = member.decompress(data[whole:])
            if not member.eof:
                break
            lines.append(json.loads(text))
        except (zlib.error, ValueError):
            break
        whole = len(data) - len(member.unused_data)
    return lines, whole


def _torn(path: Path) -> bool:
    """Whether a file starts as a gzip member does: what a kill leaves of the first record."""
    with path.open("rb") as file:
        return b"\x1f\x8b".startswith(file.read(2))
