"""A file for HDF5 to write to that can fail without taking the process down."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Tolerant:
    """A binary file that HDF5 writes to, which remembers a failed write instead of failing: `check` raises it.

    The HDF5 library, when the disk is full, cannot close its file and later crashes the whole process. So it is told
    that all went well, its file is closed and thrown away, and the error is raised from here.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def __enter__(self) -> Tolerant:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise OSError if a write has failed."""
        if self._error:
            raise self._error

    def write(self, data: memoryview) -> int:
        size, done = len(data), 0
        try:
            while done < size and not self._error:
                done += self._file.write(data[done:])
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = error
            return size or 0

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or b""

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is buffered here."""
