"""Profiles of many texts in one directory: memory-mapped, appendable, whole after a crash at any moment.

    index.json       the manifest, and the high-water mark: how many rows count
    profiles.f32     (N, E) unit profiles, one after the other
    levels.f32       (N, 2) mean and length of the scores before that: score_e = mean + length · profile_e
    keys.u64         (N, 2) hashes of a text's id and of the text
    ends.u64         (N,) where each record ends
    records.jsonl    {"id", "text" (its beginning), "fields"} of each row

Rows are appended and synced first; then the manifest, renamed into place, counts them. What lies beyond its mark is a
torn tail: readers do not see it, the next writer cuts it off. The manifest holds a CRC-32 for every BLOCK rows of every
file, checked when the directory is opened, and its own checksum. One process writes at a time.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from saefeat.errors import FormatError, InputError
from saefeat.files import directory_lock, fingerprint, read_json, write_json

MANIFEST, KIND, VERSION = "index.json", "index of texts", 1
PROFILES, LEVELS, KEYS, ENDS, RECORDS = "profiles.f32", "levels.f32", "keys.u64", "ends.u64", "records.jsonl"
FILES = (PROFILES, LEVELS, KEYS, ENDS, RECORDS)
BLOCK = 1 << 16
"""Rows that share a checksum, and rows that are searched at once."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows to append: profiles_NE and levels_N2 float32, keys_N2 uint64, records: N lines without their newline."""

    profiles_NE: np.ndarray
    levels_N2: np.ndarray
    keys_N2: np.ndarray
    records: Sequence[bytes]


class Rows:
    """The rows that a directory's manifest counts, mapped into memory: arrays of N rows, and their records."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self.directory, self.manifest = directory, manifest
        self.n: int = manifest["rows"]
        self.width = len(manifest["emotions"])
        self.profiles_NE = self._map(PROFILES, "<f4", self.width)
        self.levels_N2 = self._map(LEVELS, "<f4", 2)
        self.keys_N2 = self._map(KEYS, "<u8", 2)
        self.ends_N = self._map(ENDS, "<u8", 1)[:, 0]
        self.records = self._mapped_records()

    @classmethod
    def open(cls, directory: Path | str, *, verify: bool = True) -> Self:
        """Map the rows in `directory`. verify: check every checksum (about a second for three million rows).

        Raises FormatError: nothing there, of a newer format, cut short, or not as it was written.
        """
        rows = cls(Path(directory), read_manifest(Path(directory)))
        if verify and (damaged := rows.damaged()):
            raise FormatError(
                f"is not as it was written: {damaged[0]} (its checksum differs)",
                where=rows.directory,
                do="restore it, or add the texts again to another directory",
            )
        return rows

    def _map(self, name: str, dtype: str, width: int) -> np.ndarray:
        path, size = self.directory / name, self.n * width * np.dtype(dtype).itemsize
        try:
            if path.stat().st_size < size:
                raise FormatError(f"is shorter than the {self.n} rows that count", where=path, do="restore it")
            return np.memmap(path, dtype, "r", shape=(self.n, width)).view(np.ndarray)
        except OSError as error:
            raise FormatError(f"cannot be read ({error.strerror})", where=path, do="restore it") from error

    def _mapped_records(self) -> memoryview:
        path, size = self.directory / RECORDS, int(self.ends_N[-1])
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < size:
                    raise FormatError(f"is shorter than the {self.n} rows that count", where=path, do="restore it")
                return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        except OSError as error:
            raise FormatError(f"cannot be read ({error.strerror})", where=path, do="restore it") from error

    def record(self, row: int) -> dict[str, Any]:
        """{"id", "text", "fields"} of a row."""
        start = int(self.ends_N[row - 1]) if row else 0
        return json.loads(bytes(self.records[start : int(self.ends_N[row])]))

    def damaged(self) -> list[str]:
        """The files that are not as they were written; [] if all are."""

        def differs(name: str) -> bool:
            sums = self.manifest["sums"][name]
            found = [zlib.crc32(self._bytes(name, i, min(i + BLOCK, self.n))) for i in range(0, self.n, BLOCK)]
            return found != sums

        with ThreadPoolExecutor(2) as pool:
            return [name for name, bad in zip(FILES, pool.map(differs, FILES), strict=True) if bad]

    def _bytes(self, name: str, start: int, stop: int) -> memoryview:
        """What rows start..stop wrote into a file."""
        if name == RECORDS:
            return self.records[int(self.ends_N[start - 1]) if start else 0 : int(self.ends_N[stop - 1])]
        columns = {PROFILES: self.profiles_NE, LEVELS: self.levels_N2, KEYS: self.keys_N2, ENDS: self.ends_N}
        return columns[name][start:stop].reshape(-1).view(np.uint8).data


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an index of texts. Raises FormatError."""
    if not directory.is_dir():
        raise FormatError(f"no {KIND} here", where=directory, do="make one: saefeat index add TEXTS --to DIR")
    manifest = read_json(directory / MANIFEST, kind=KIND, version=VERSION)
    if manifest.get("check") != _check(manifest):
        raise FormatError("is not as it was written (its checksum differs)", where=directory / MANIFEST)
    return manifest


def _check(manifest: Mapping[str, Any]) -> str:
    return fingerprint({key: value for key, value in manifest.items() if key != "check"})


# ---------------------------------------------------------------- writing
@contextlib.contextmanager
def writing(directory: Path | str, told: Mapping[str, Any]) -> Iterator[Writer]:
    """The one writer of `directory`, which is made if missing; told: what a new manifest says beside its rows
    ("emotions" among it). Nothing is left of a new directory in which no row was committed.

    Raises Busy, FormatError, InputError.
    """
    directory = Path(directory)
    if directory.exists() and not (directory / MANIFEST).exists():
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else [directory.name]
        if any(name not in FILES and not name.startswith(".") for name in names):
            raise InputError(f"is there already and is no {KIND}", where=directory, do="choose another --to")
    with directory_lock(directory):
        writer = Writer(directory, told)
        try:
            yield writer
        finally:
            writer.close()
            if not (directory / MANIFEST).exists():
                for name in (*FILES, ".lock"):
                    (directory / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    directory.rmdir()


class Writer:
    """Appends rows and makes them count; `manifest` is as it was last committed, or as it begins."""

    def __init__(self, directory: Path, told: Mapping[str, Any]) -> None:
        self.directory = directory
        start = {"format": KIND, "format_version": VERSION, **told, "rows": 0, "record_bytes": 0}
        start |= {"sums": {name: [] for name in FILES}, "search": None}
        self.manifest = read_manifest(directory) if (directory / MANIFEST).exists() else start
        self.width = len(self.manifest["emotions"])
        self.rows, self._bytes = self.manifest["rows"], self.manifest["record_bytes"]
        self._sums = {name: list(sums) for name, sums in self.manifest["sums"].items()}
        self._files = {name: self._cut(name) for name in FILES}
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a killed writer has left: temporary files, and lists that the manifest does not know."""
        search = self.manifest["search"] or {}
        for path in [*self.directory.glob(".*.tmp"), *self.directory.glob("lists-*.faiss")]:
            if path.name != search.get("file"):
                path.unlink(missing_ok=True)

    def _cut(self, name: str) -> BinaryIO:
        """A file open for appending, its torn tail cut off."""
        widths = {PROFILES: self.width * 4, LEVELS: 8, KEYS: 16, ENDS: 8}
        size = self._bytes if name == RECORDS else self.rows * widths[name]
        path = self.directory / name
        try:
            file = path.open("ab")
        except OSError as error:
            raise InputError(f"cannot be written to ({error.strerror})", where=path) from error
        if file.tell() < size:
            file.close()
            raise FormatError(f"is shorter than the {self.rows} rows that count", where=path, do="restore it")
        file.truncate(size)
        return file

    def append(self, batch: Batch) -> None:
        """Write rows; they count from the next `commit` on. Raises InputError (the disk is full)."""
        start = 0
        while start < len(batch.records):  # up to the end of a block of checksums
            stop = min(len(batch.records), start + BLOCK - self.rows % BLOCK)
            lines = [record + b"\n" for record in batch.records[start:stop]]
            ends_N = self._bytes + np.cumsum([len(line) for line in lines], dtype=np.uint64)
            written = {
                PROFILES: np.ascontiguousarray(batch.profiles_NE[start:stop], "<f4").tobytes(),
                LEVELS: np.ascontiguousarray(batch.levels_N2[start:stop], "<f4").tobytes(),
                KEYS: np.ascontiguousarray(batch.keys_N2[start:stop], "<u8").tobytes(),
                ENDS: ends_N.astype("<u8").tobytes(),
                RECORDS: b"".join(lines),
            }
            for name, data in written.items():
                self._write(name, data)
            self.rows, self._bytes, start = self.rows + stop - start, int(ends_N[-1]), stop

    def _write(self, name: str, data: bytes) -> None:
        sums = self._sums[name]
        if self.rows % BLOCK == 0:
            sums.append(0)
        sums[-1] = zlib.crc32(data, sums[-1])
        try:
            self._files[name].write(data)
        except OSError as error:
            raise self._full(name, error) from error

    def commit(self, **told: Any) -> None:
        """Make everything appended count, and whatever is told part of the manifest."""
        try:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._full(MANIFEST, error) from error
        sums = {name: list(sums) for name, sums in self._sums.items()}
        manifest = {**self.manifest, **told, "rows": self.rows, "record_bytes": self._bytes, "sums": sums}
        manifest["check"] = _check(manifest)
        write_json(self.directory / MANIFEST, manifest)
        self.manifest = manifest

    def _full(self, name: str, error: OSError) -> InputError:
        do = f"make room and run it again: the {self.manifest['rows']} rows that count are safe"
        return InputError(f"cannot be written to ({error.strerror})", where=self.directory / name, do=do)

    def close(self) -> None:
        """Close the files; what was not committed is lost."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
