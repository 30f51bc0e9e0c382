"""saefeat: which features of a language model carry which emotions, with evidence.

Everything a program needs is reached through :func:`saefeat.load`; the command line is `saefeat --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from saefeat.api import load


def __getattr__(name: str) -> Any:
    if name == "load":
        from saefeat.api import load

        return load
    raise AttributeError(f"module 'saefeat' has no attribute {name!r}")
