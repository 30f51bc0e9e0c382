"""What every verb shares: the global settings, where results go, and how errors end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from saefeat.errors import InputError, SaefeatError

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options before the verb."""

    atlas: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    seed: int | None = None
    allow_other_weights: bool = False
    verbose: int = 0
    quiet: bool = False

    def apply(self) -> None:
        """Set up logging to stderr, and threads before torch is imported."""
        level = logging.ERROR if self.quiet else [logging.WARNING, logging.INFO, logging.DEBUG][min(self.verbose, 2)]
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True)
        logging.getLogger("saefeat").setLevel(logging.ERROR if self.quiet else min(level, logging.INFO))
        if self.threads:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)


def emit(value: Any, text: Callable[[], str], *, as_json: bool) -> None:
    """Print a result on stdout: `value` as JSON, or what `text()` makes of it for a person."""
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else text())


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as aligned plain text: numbers to the right, words to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        parts = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(head), line(["─" * w for w in widths]), *map(line, cells)])


def read_argument(text: str | None) -> str:
    """A TEXT argument: itself, or stdin if it is '-' or missing."""
    if text is None or text == "-":
        if sys.stdin.isatty():
            raise InputError("no text given", do="pass it as an argument, with --input FILE, or on stdin")
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"is not UTF-8 text ({error})", where="stdin") from error
    if not text.strip():
        raise InputError("the text is empty", do="pass some words")
    return text


def existing_file(path: str | Path) -> Path:
    """`path` if it is a readable file, else an InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError("is a directory" if path.is_dir() else "no such file", where=path)
    return path


def writable_folder(path: Path) -> Path:
    """`path` as a folder that can be written to, made if it is not there, else an InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made a folder ({error.strerror})", where=path, do="choose another") from error
    if not os.access(path, os.W_OK):
        raise InputError("cannot be written to", where=path, do="choose another")
    return path


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code: 2 the user's input, 130 interrupted, 1 anything else."""
    try:
        yield
    except SaefeatError as error:
        _end(str(error), error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        _end("interrupted", 130)
    except click.ClickException as error:
        hint = f"; see {error.ctx.command_path} --help" if isinstance(error, click.UsageError) and error.ctx else ""
        _end(error.format_message() + hint, 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        _end(f"{type(error).__name__}: {error} (this is a fault of saefeat; -vv shows where)", 1)


def _end(message: str, code: int) -> None:
    click.echo(f"saefeat: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
