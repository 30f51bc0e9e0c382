"""What an evaluation's values look like: cells of tables, facts and data, the same in text, Markdown and HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

DATA_HEAD = ("data", "given", "rows", "SHA-256", "source")


class Cell(NamedTuple):
    """A value as shown; interval: without its brackets, '' if there is none; words: why there is no value."""

    value: str
    interval: str = ""
    words: bool = False

    def __str__(self) -> str:
        return f"{self.value} ({self.interval})" if self.interval else self.value


def cell(value: Any, unit: str = "number") -> Cell:
    """What a value of a row looks like; an unknown unit is a plain number."""
    if isinstance(value, Mapping):
        low: Any = value.get("low")
        high: Any = value.get("high")
        if not (known(value.get("value")) and known(low) and known(high)):
            return cell(value.get("value"), unit)
        ends = (quantity(end, unit).removesuffix(" %") for end in (low, high))
        return Cell(quantity(value["value"], unit), (" to " if min(low, high) < 0 else "–").join(ends))
    if isinstance(value, str):
        return Cell(one_line(value), words=True)
    return Cell(quantity(value, unit))


def quantity(value: Any, unit: str = "number") -> str:
    """A number as people write it: shares with a decimal of a per cent, AUROCs with three decimals, neither rounded up
    to perfection; other numbers with three significant digits, integers whole."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not known(value):
        return "–" if value is None or isinstance(value, float) else str(value)
    if unit == "percent":
        per_cent = min(100 * value, 99.94) if value < 1 else 100 * value
        text = f"{per_cent:.1f} %" if not 0 < abs(per_cent) < 0.05 else f"{per_cent:.1g} %"
    elif unit == "auroc":
        text = f"{min(value, 0.9994) if value < 1 else value:.3f}"
    elif isinstance(value, int):
        text = f"{value:,}"
    elif value != 0 and not 1e-4 <= abs(value) < 1e6:
        text = f"{value:.2e}"
    else:
        decimals = 2 - int(f"{value:.2e}".split("e")[1]) if value else 0
        text = f"{value:,.{max(0, decimals)}f}"
    return re.sub(r"^-(?=.*[1-9])", "−", text).removeprefix("-")


def known(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def sections_of(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Sections with an anchor each, no two the same."""
    anchors: dict[str, Mapping[str, Any]] = {}
    for i, section in enumerate(results.get("sections", ())):
        name = re.sub(r"[^\w-]+", "-", str(section.get("id") or "")).strip("-") or "section"
        anchors[name if name not in {*anchors, "data", "provenance"} else f"{name}-{i + 1}"] = section
    return list(anchors.items())


def heading_of(results: Mapping[str, Any]) -> str:
    return one_line(results.get("title") or "Evaluation")


def title_of(section: Mapping[str, Any]) -> str:
    return one_line(section.get("title") or section.get("id") or "Untitled")


def one_line(text: Any) -> str:
    """Text on one line, without characters that steer a terminal."""
    return " ".join("".join(c for c in str(text) if c.isprintable() or c.isspace()).split())


def table(section: Mapping[str, Any]) -> tuple[list[str], list[tuple[Mapping[str, Any], list[Cell]]]]:
    """Headings and rows of cells, all as wide as the widest row: what a row lacks is a dash, no value is hidden."""
    rows = section.get("rows") or []
    columns = [one_line(name) for name in section.get("columns") or []]
    columns += [""] * (max((len(row.get("values") or ()) for row in rows), default=0) - len(columns))
    units = section.get("units") or section.get("unit") or "number"
    units = [units] * len(columns) if isinstance(units, str) else [*units, *["number"] * len(columns)]
    shown = []
    for row in rows:
        values = [*(row.get("values") or ()), *[None] * len(columns)]
        shown.append((row, [cell(values[i], str(units[i])) for i in range(len(columns))]))
    return columns, shown


def brackets(results: Mapping[str, Any]) -> str:
    """What stands in brackets, if anything does."""
    cells = (c for _, section in sections_of(results) for _, cells in table(section)[1] for c in cells)
    return " In brackets: 95 % intervals." if any(c.interval for c in cells) else ""


def facts_of(results: Mapping[str, Any]) -> dict[str, str]:
    """What ran, on what, for how long; whatever else stands beside it as well."""
    apart = ("format", "format_version", "title", "data", "sections", "command")
    facts = {key.replace("_", " "): _fact(v) for key, v in results.items() if key not in apart and v is not None}
    if known(results.get("seconds")):
        minutes, seconds = divmod(round(results["seconds"]), 60)
        facts["seconds"] = f"{seconds} s" if not minutes else f"{minutes} min {seconds} s"
    return {"time" if key == "seconds" else key: text for key, text in facts.items()}


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value)) or "none"
    return quantity(value) if isinstance(value, bool | float) else str(value)


def data_of(results: Mapping[str, Any]) -> list[list[str]]:
    return [
        [str(d.get("name") or "–"), quantity(d.get("given")), quantity(d.get("rows")), str(d.get("sha256") or "–"),
         str(d.get("source") or "–")]
        for d in results.get("data") or ()
    ]  # fmt: skip
