"""Pictures on cards, as SVG that a page holds: a histogram of activations, a reading by strength."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from saefeat.cards.style import decimal, number

LEFT, RIGHT, TOP, BOTTOM = 52, 408, 8, 132


def histogram(value: Mapping[str, Sequence[float]] | None) -> str:
    """An SVG of {"edges": n + 1, "counts": n}: how often the feature is active how strongly.

    Bars are as high as their counts; the axis is logarithmic where the bins are (each wider by the same factor).
    """
    if not value or not any(value["counts"]):
        return '<p class="note soft">No histogram was kept.</p>'
    edges, counts = list(value["edges"]), list(value["counts"])
    left, right, top, bottom = 52, 408, 8, 132
    low, high, peak = edges[0], edges[-1], max(counts)
    logarithmic = low > 0 and len(counts) > 1 and math.isclose(edges[1] / low, high / edges[-2], rel_tol=1e-3)
    place = math.log if logarithmic else float
    span = (place(high) - place(low)) or 1.0

    def x(v: float) -> float:
        return left + (right - left) * (place(v) - place(low)) / span

    def y(count: float) -> float:
        return bottom - (bottom - top) * count / peak

    bars = "".join(
        f'<rect x="{x(a) + 0.4:.1f}" y="{y(c):.1f}" width="{max(x(b) - x(a) - 0.8, 0.6):.1f}" '
        f'height="{bottom - y(c):.1f}"><title>{number(float(a))} to {number(float(b))}: {number(int(c))} tokens'
        "</title></rect>"
        for a, b, c in zip(edges, edges[1:], counts, strict=False)
        if c
    )
    ticks = "".join(
        f'<text x="{x(v):.1f}" y="{bottom + 14}" text-anchor="middle">{v:g}</text>'
        for v in (log_ticks(low, high) if logarithmic else ticks_of(low, high, 5))
    )
    grid = "".join(
        f'<line x1="{left}" x2="{right}" y1="{y(c):.1f}" y2="{y(c):.1f}"/>'
        f'<text x="{left - 5}" y="{y(c) + 3.5:.1f}" text-anchor="end">{number(int(c))}</text>'
        for c in ticks_of(0, peak, 3)
        if c == int(c)
    )
    middle = (top + bottom) / 2
    turn = f"rotate(-90 10 {middle})"
    return (
        f'<figure><svg viewBox="0 0 420 170" role="img" aria-label="Histogram of the activations">{grid}{bars}{ticks}'
        f'<text x="{(left + right) / 2}" y="165" text-anchor="middle">activation, where active'
        f"{', logarithmic' if logarithmic else ''}</text>"
        f'<text x="10" y="{middle}" text-anchor="middle" transform="{turn}">tokens</text></svg></figure>'
    )


def ticks_of(low: float, high: float, wanted: int) -> list[float]:
    """About `wanted` round numbers in [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in [low, high]; fewer of them over many decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [float(f"{m}e{d}") for d in decades for m in steps]
    return [t for t in ticks if low <= t <= high]


def dose_curve(curve: Sequence[Mapping[str, Any]], unit: str) -> str:
    """An SVG of a reading by strength above the unsteered text, and of random directions (grey, dashed).

    curve: [{"strength", "counts", "value", "low", "high", "random": {"value", …}}]; hollow where it does not count,
    since the text is no longer surgical. '' if nothing is known.
    """
    known = [point for point in curve if point["value"] is not None]
    if len(known) < 2:
        return ""
    sides = [point for point in known] + [point["random"] for point in known]
    values = [v for side in sides for v in (side["value"], side["low"], side["high"]) if v is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    reach = max(abs(point["strength"]) for point in known)
    span = (high - low) or 1.0

    def x(strength: float) -> float:
        return LEFT + (RIGHT - LEFT) * (strength + reach) / (2 * reach)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / span

    grid = "".join(
        f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{LEFT - 5}" y="{y(v) + 3.5:.1f}" text-anchor="end">{number(v, 2) if v else 0}</text>'
        for v in ticks_of(low, high, 4)
    )
    ticks = "".join(
        f'<text x="{x(v):.1f}" y="{BOTTOM + 14}" text-anchor="middle">{f"{v:g}".replace("-", "−")}</text>'
        for v in ticks_of(-reach, reach, 6)
    )
    marks = _line([(x(p["strength"]), y(p["random"]["value"])) for p in known if p["random"]["value"] is not None],
                  "stroke:var(--soft);stroke-dasharray:4 3")  # fmt: skip
    marks += _line([(x(p["strength"]), y(p["value"])) for p in known], "stroke:var(--bar)")
    for point in known:
        at = x(point["strength"])
        if point["low"] is not None and point["high"] is not None:
            ends = [(at, y(point["low"])), (at, y(point["high"]))]
            marks += _line(ends, "stroke:var(--bar)")
        fill = "var(--bar)" if point["counts"] else "var(--paper)"
        told = f"{decimal(point['strength'], 2)}: {decimal(point['value'])}"
        marks += (f'<circle cx="{at:.1f}" cy="{y(point["value"]):.1f}" r="3.2" style="fill:{fill};stroke:var(--bar)">'
                  f"<title>{told}</title></circle>")  # fmt: skip
    middle = (TOP + BOTTOM) / 2
    return (
        f'<figure><svg viewBox="0 0 420 170" role="img" aria-label="Reading by strength">{grid}{ticks}{marks}'
        f'<text x="{(LEFT + RIGHT) / 2}" y="165" text-anchor="middle">strength, in mean residual norms</text>'
        f'<text x="10" y="{middle}" text-anchor="middle" transform="rotate(-90 10 {middle})">{unit}</text>'
        "</svg></figure>"
    )


def _line(points: Sequence[tuple[float, float]], style: str) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{path}" style="fill:none;stroke-width:1.6;{style}"/>' if points else ""
