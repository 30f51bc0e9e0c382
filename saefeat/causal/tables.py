"""What studies and evaluations share: cells with intervals, rows and sections of a report; odd and even items.

A section is {"id", "title", "about", "columns", "units", "rows": [{"name", "values", "own", "null"}], "figure",
"notes"}; a value is a number, {"value", "low", "high"}, a string, or None for what is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Ids = Literal["even", "odd", "all"]
PARTS = {"even": "even (reported)", "odd": "odd (development)"}


def parts(ids: Ids) -> list[str]:
    """The halves of the items that a study speaks of: even numbers are reported, odd ones are for development."""
    return [part for part in PARTS if ids in (part, "all")]


def is_odd(id: str) -> bool:
    """Whether an item's number ('l07', 's12') is odd."""
    return int("".join(c for c in id if c.isdigit())) % 2 == 1


def cell(value: float, low: float | None = None, high: float | None = None) -> Any:
    """A value as a section holds it, with its 95 % interval if there is one; None if it is not known."""
    if not np.isfinite(value):
        return None
    if low is None or high is None or not np.isfinite([low, high]).all():
        return round(float(value), 4)
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def ends(cell: Any) -> tuple[float | None, tuple[float, float] | None]:
    """The value of a cell and its interval, as far as they are known."""
    if isinstance(cell, Mapping):
        return cell["value"], (cell["low"], cell["high"])
    return cell, None


def row(name: str, values: Sequence[Any], *, own: bool = False, null: bool = False) -> dict[str, Any]:
    return {"name": name, "values": list(values), "own": own, "null": null}


def section(
    id: str, title: str, about: str, columns: Mapping[str, str], rows: Sequence[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """columns: title → unit (percent, number, auroc)."""
    told = {"id": id, "title": title, "about": about, "columns": list(columns), "units": list(columns.values())}
    return {**told, "rows": list(rows), "figure": None, "notes": [], **more}
