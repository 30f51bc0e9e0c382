"""What studies and evaluations share: cells with intervals, rows and sections of a report; odd and even items.

A section is {"id", "title", "about", "columns", "units", "rows": [{"name", "values", "own", "null"}], "figure",
"notes"}; a value is a number, {"value", "low", "high"}, a string, or None for what is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

DRAWS = 2000
Ids = Literal["even", "odd", "all"]
PARTS = {"even": "even (reported)", "odd": "odd (development)"}


def parts(ids: Ids) -> list[str]:
    """The halves of the items that a study speaks of: even numbers are reported, odd ones are for development."""
    return [part for part in PARTS if ids in (part, "all")]


def is_odd(id: str) -> bool:
    """Whether an item's number ('l07', 's12') is odd."""
    return int("".join(c for c in id if c.isdigit())) % 2 == 1


def share_interval(hit_N: np.ndarray, item_N: np.ndarray, seed: int, draws: int = DRAWS) -> tuple[float, float, float]:
    """The mean of values (N,) and its 95 % interval by bootstrap over the items (N, any labels) that they belong to;
    NaN of nothing."""
    if not len(hit_N):
        return (np.nan, np.nan, np.nan)
    _, slot_N = np.unique(item_N, return_inverse=True)
    sum_I = np.bincount(slot_N, weights=hit_N.astype(float))
    count_I = np.bincount(slot_N)
    chosen_RI = np.random.default_rng(seed).integers(0, len(sum_I), (draws, len(sum_I)))
    mean_R = sum_I[chosen_RI].sum(1) / count_I[chosen_RI].sum(1)
    low, high = np.quantile(mean_R, [0.025, 0.975])
    return float(hit_N.mean()), float(low), float(high)


def cell(value: float, low: float | None = None, high: float | None = None) -> Any:
    """A value as a section holds it, with its 95 % interval if there is one; None if it is not known."""
    if not np.isfinite(value):
        return None
    if low is None or high is None or not np.isfinite([low, high]).all():
        return round(float(value), 4)
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def row(name: str, values: Sequence[Any], *, own: bool = False, null: bool = False) -> dict[str, Any]:
    return {"name": name, "values": list(values), "own": own, "null": null}


def section(
    id: str, title: str, about: str, columns: Mapping[str, str], rows: Sequence[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """columns: title → unit (percent, number, auroc)."""
    told = {"id": id, "title": title, "about": about, "columns": list(columns), "units": list(columns.values())}
    return {**told, "rows": list(rows), "figure": None, "notes": [], **more}
