"""Dots in rows, with intervals and the spread of a null: the picture of ladders and scenarios.

Figures are matplotlib `Figure` objects on the Agg canvas, without pyplot and its global state. Colours are Okabe and
Ito's; every kind of dot has a shape of its own too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID, NULL = "#222222", "#767676", "#e3e3e3", "#d0d0d0"
LOOKS = (("#0072B2", "o"), ("#D55E00", "D"), ("#222222", "x"), ("#009E73", "^"), ("#CC79A7", "v"), ("#8C6D1F", "P"))
WIDE, ROW = 8.2, 0.37  # inches
SIZE, SMALL = 11.0, 8.0
NAME = 46
"""Characters of a name on one line; longer ones take two."""


@dataclass(frozen=True, kw_only=True)
class Dots:
    """One kind of dot: its value in each row (None: none there), the ends of whiskers, the ends of a null's bar."""

    values: Sequence[float | None]
    whiskers: Sequence[tuple[float, float] | None] | None = None
    null: Sequence[tuple[float, float]] | None = None


def dots_figure(
    names: Sequence[str],
    dots: Mapping[str, Dots],
    *,
    title: str,
    xlabel: str,
    limits: tuple[float, float],
    mark: float | None = None,
    rule: int | None = None,
    percent: bool = False,
) -> Figure:
    """A row a name, a shape a kind of dot. mark: a level to mark; rule: a line under so many rows; at most 6 kinds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    lines = 1 + (len(dots) - 1) // 3
    high = 1.3 + 0.2 * lines + ROW * len(names)
    figure = Figure(figsize=(WIDE, high), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.4, 0.62 / high, 0.575, 1 - (1.05 + 0.2 * lines) / high))
    for i, (name, own) in enumerate(dots.items()):
        colour, shape = LOOKS[i % len(LOOKS)]
        for y, value in enumerate(own.values):
            at = y + (i - (len(dots) - 1) / 2) * 0.66 / len(dots)
            if own.null is not None:
                axes.plot(own.null[y], [at, at], color=NULL, lw=4, solid_capstyle="butt", zorder=1)
            whisker = own.whiskers[y] if own.whiskers is not None else None
            if whisker is not None:
                axes.plot(whisker, [at, at], color=colour, lw=1.3, zorder=2)
            if value is not None:
                axes.plot([value], [at], color=colour, marker=shape, ls="none", ms=5.5, zorder=3)
        axes.plot([], [], color=colour, marker=shape, ls="none", ms=5.5, label=name)
    if rule is not None:
        axes.axhline(rule - 0.5, color=FAINT, lw=0.8)
    if mark is not None:
        axes.axvline(mark, color=FAINT, lw=1, ls=":")
    if limits[0] < 0 < limits[1]:
        axes.axvline(0, color=FAINT, lw=0.8)
    told = ["\n".join(textwrap.wrap(name, NAME, max_lines=2, placeholder="…")) for name in names]
    axes.set_yticks(range(len(names)), told, fontsize=SMALL, color=INK, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(*limits)
    if percent:
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.tick_params(length=0, labelsize=SMALL)
    axes.grid(axis="x", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.set_xlabel(xlabel, fontsize=SMALL, color=INK)
    figure.text(0.015, 1 - 0.28 / high, title, fontsize=SIZE, color=INK)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.01, 1 - 0.36 / high), ncols=3, frameon=False,
                  fontsize=SMALL, borderaxespad=0)  # fmt: skip
    return figure
