"""Every error a user can cause: what is wrong, where, and what to do about it.

The command line prints the message as one line and exits with `exit_code`; a program catches `SaefeatError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SaefeatError(Exception):
    """Something failed that the user did not cause (exit code 1)."""

    exit_code = 1


class InputError(SaefeatError):
    """The user's input is at fault (exit code 2): `where: what; do`."""

    exit_code = 2

    def __init__(self, what: str, *, where: object = None, do: str | None = None) -> None:
        self.what, self.where, self.do = what, where, do
        message = what if where is None else f"{where}: {what}"
        super().__init__(message if do is None else f"{message}; {do}")


class UnknownName(InputError):
    """A name that is not among the known ones; the nearest spellings are offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, do: str | None = None) -> None:
        near = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.6)
        hint = "did you mean " + ", ".join(repr(n) for n in near) + "?" if near else do
        super().__init__(f"unknown {kind} {name!r}", do=hint)


class FormatError(InputError):
    """A file that is corrupt, of another kind, or written by a newer saefeat."""


class MissingModel(InputError):
    """The subject model's weights are not on this machine."""


class ModelMismatch(InputError):
    """An artefact was made with another model than the one it is used with."""


class Busy(InputError):
    """Another process is writing to this directory."""
