"""What the verbs that query an atlas share: the atlas asked for, counts, and how a result is shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from saefeat.cli.common import Settings
from saefeat.errors import InputError

if TYPE_CHECKING:
    from saefeat.atlas import Atlas

BAR = 24


def open_atlas(settings: Settings) -> Atlas:
    """The atlas named before the verb, else the one that ships."""
    from saefeat.atlas import Atlas

    return Atlas.open(
        settings.atlas,
        device=settings.device,
        dtype=settings.dtype,
        allow_other_weights=settings.allow_other_weights,
    )


class Count(click.ParamType):
    """A number of at least `least`, or 'all' (None)."""

    name = "N|all"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, str) and value.lower() == "all":
            return "all"
        try:
            number = int(value)
        except ValueError:
            number = self.least - 1
        if number < self.least:
            name = param.opts[0] if param is not None else "the number"
            raise InputError(f"{name} is {value}", do=f"pass a number of at least {self.least}, or all")
        return number


def none_if_all(count: int | str) -> int | None:
    """A Count as the library takes it: None for all."""
    return None if count == "all" else int(count)


def texts(argument: str | None, source: str | None, *, keep_going: bool) -> Iterable[Any]:
    """The texts of a query: those of --input, else the one argument, else stdin."""
    from saefeat.cli.common import read_argument
    from saefeat.corpus import read_texts

    if source is not None:
        if argument is not None:
            raise InputError("both a text and --input were given", do="pass one of them")
        return read_texts(source, keep_going=keep_going)
    return [read_argument(argument)]


@contextmanager
def lines_to(output: Path | None) -> Iterator[TextIO | None]:
    """A file for JSON lines that appears whole at the end; None (stdout) without --output."""
    from saefeat.files import atomic_path

    if output is None:
        yield None
        return
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def json_line(value: Any) -> str:
    """One JSON object on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def bar(value: float, largest: float) -> str:
    """A bar as long as `value` is beside `largest`; none for what is not above zero."""
    if value <= 0 or largest <= 0:
        return ""
    eighths = max(1, round(BAR * 8 * value / largest))
    whole, rest = divmod(eighths, 8)
    return "█" * whole + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]


def figure(value: Any) -> str:
    """A figure of the evidence for a person; '-' where there is none."""
    if value is None:
        return "-"
    if isinstance(value, float) and 0 < abs(value) < 0.0005:
        return f"{value:.0e}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def evidence(rows: Sequence[dict[str, Any]], first: Sequence[str]) -> str:
    """Rows of labels as a table: the columns `first`, then the evidence."""
    from saefeat.cli.common import table

    columns = {"kind": "kind", "auroc": "AUROC", "heldout_auroc": "held out", "q_value": "q", "density": "density"}
    cells = [[row[name] for name in first] + [figure(row.get(key)) for key in columns] for row in rows]
    return table([*first, *columns.values()], cells)


def shortened(text: str, width: int = 100) -> str:
    """A text on one line of at most `width` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1].rstrip() + "…"
