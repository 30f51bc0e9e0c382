"""Files that survive a crash: atomic writes, one writer per directory, checksums, and where things live.

Nothing is ever written half: a file is written under a temporary name beside its target, synced, and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saefeat.errors import Busy, FormatError, InputError


# ---------------------------------------------------------------- where things live
def home() -> Path:
    """`$SAEFEAT_HOME`, else `~/.cache/saefeat`: downloaded models, builds, user atlases."""
    return Path(os.environ.get("SAEFEAT_HOME") or Path.home() / ".cache" / "saefeat").expanduser()


def shipped(kind: str) -> Path:
    """The folder of what ships with saefeat: `kind` is checkpoints, indexes or corpora.

    In a wheel these folders lie under `saefeat/_shipped/`; in an editable install, at the root of the checkout.
    """
    package = Path(__file__).resolve().parent
    inside = package / "_shipped" / kind
    return inside if inside.is_dir() else package.parent / kind


# ---------------------------------------------------------------- writing
@contextlib.contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success sync it and rename it onto `target`, on failure remove it."""
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"cannot write here ({error.strerror})", where=target, do="choose another --out") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        raise InputError(f"cannot write here ({error.strerror})", where=target, do="choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(target: Path | str) -> Iterator[Path]:
    """Yield a temporary directory beside `target`; on success sync every file in it and rename it onto `target`.

    An existing `target` is replaced only after the new one is complete.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise InputError(f"cannot write here ({error.strerror})", where=target, do="choose another --out") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for path in temporary.rglob("*"):
            if path.is_file():
                path.chmod(0o666 & ~_umask())
                with path.open("rb") as written:
                    os.fsync(written.fileno())
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
        sync_directory(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Make renames inside `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path | str, *, kind: str, version: int) -> dict[str, Any]:
    """Read a manifest written by saefeat: `{"format": kind, "format_version": n, ...}` with n <= version.

    Raises FormatError if the file is missing, not JSON, of another kind, or newer than `version`.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(f"no {kind} here (no {path.name})", where=path.parent) from error
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot be read as the manifest of a {kind} ({error})", where=path) from error
    if not isinstance(value, dict) or value.get("format") != kind:
        raise FormatError(f"is not the manifest of a {kind}", where=path)
    if not isinstance(value.get("format_version"), int) or value["format_version"] > version:
        raise FormatError(
            f"was written in format {value.get('format_version')}, this saefeat reads up to {version}",
            where=path,
            do="upgrade saefeat",
        )
    return value


# ---------------------------------------------------------------- one writer per directory
@contextlib.contextmanager
def directory_lock(directory: Path | str) -> Iterator[None]:
    """Hold the one writer's lock of `directory` (made if missing); the lock dies with the process.

    Raises Busy, naming the holder's pid and host, if another process is writing there.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"cannot write here ({error.strerror})", where=directory, do="choose another --out") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise Busy(
                f"is being written by {holder}", where=directory, do="wait for it, or choose another --out"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def require_disk(directory: Path | str, n_bytes: int) -> None:
    """Raise InputError unless the file system of `directory` has `n_bytes` free."""
    directory = Path(directory).absolute()
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < n_bytes:
        raise InputError(
            f"needs {n_bytes / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            where=directory,
            do="free some, or choose another --out",
        )


# ---------------------------------------------------------------- identity
def sha256_file(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """A short stable fingerprint (16 hex digits) of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
