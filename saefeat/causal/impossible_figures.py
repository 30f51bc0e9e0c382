"""The pictures of `study impossible-task`: an emotion by attempt; cheating by condition and against unsteered.

Figures are matplotlib `Figure` objects on the Agg canvas, without pyplot and its global state. Colours are Okabe and
Ito's; curves and rows carry their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saefeat.causal.proportions import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#222222", "#767676", "#e3e3e3"
LOOKS = {"impossible": ("#D55E00", "o", "-"), "possible": ("#0072B2", "s", "--")}
WIDE, ROW = 8.2, 0.36  # inches
SIZE, SMALL = 10.0, 8.5


@dataclass(frozen=True, kw_only=True)
class Curve:
    """name: 'impossible' or 'possible'; means by attempt, and of how many episodes each is."""

    name: str
    means: Sequence[Interval]
    counts: Sequence[int]


def attempts_figure(emotion: str, panels: Mapping[str, Sequence[Curve]]) -> Figure:
    """A panel for each place that is read: the emotion's mean score by attempt, with 95 % intervals over tasks."""
    figure = _figure(3.4)
    n = max(len(curve.means) for curves in panels.values() for curve in curves)
    left, gap, bottom = 0.085, 0.085, 0.235
    wide = (1 - left - 0.02 - gap * (len(panels) - 1)) / len(panels)
    for i, (where, curves) in enumerate(panels.items()):
        axes = figure.add_axes((left + i * (wide + gap), bottom, wide, 0.63))
        for j, curve in enumerate(curves):
            colour, marker, line = LOOKS[curve.name]
            mean_k, low_k, high_k = (np.array([m[part] for m in curve.means], float) for part in range(3))
            x_k = np.arange(1, len(mean_k) + 1) + 0.06 * (j - (len(curves) - 1) / 2)
            known = np.isfinite(mean_k)
            axes.plot(x_k[known], mean_k[known], color=colour, marker=marker, ls=line, lw=1.6, ms=5.5, label=curve.name)
            axes.vlines(x_k, low_k, high_k, color=colour, lw=1.2)
        axes.set_xlim(0.6, n + 0.4)
        ticks = ["\n".join([str(k + 1), *(f"{_at(c.counts, k)}" for c in curves)]) for k in range(n)]
        axes.set_xticks(range(1, n + 1), ticks, fontsize=SMALL, color=INK)
        for j, curve in enumerate(curves):  # the counts under the ticks, in the colours of their curves
            axes.annotate("n", (0, 0), (-8, -22 - 11.5 * j), xycoords="axes fraction", textcoords="offset points",
                          fontsize=SMALL, color=LOOKS[curve.name][0], ha="right")  # fmt: skip
        axes.set_xlabel("attempt, and episodes that got there", fontsize=SMALL, color=INK)
        axes.set_title(where, loc="left", fontsize=SIZE, color=INK)
        _bare(axes, "y")
        if i == 0:
            axes.set_ylabel(f"mean score of '{emotion}'", fontsize=SMALL, color=INK)
            axes.legend(loc="best", fontsize=SMALL, frameon=False, title="tasks", title_fontsize=SMALL)
    figure.text(0.012, 0.95, f"'{emotion}' by attempt, unsteered (intervals of 95 % over tasks)", fontsize=SIZE,
                color=INK, fontweight="bold")  # fmt: skip
    return figure


def rates_figure(names: Sequence[str], shares: Sequence[Interval], differences: Sequence[Interval | None]) -> Figure:
    """Left: the share of episodes with cheating by condition. Right: its difference from unsteered."""
    high = 1.25 + ROW * len(names)
    figure = _figure(high)
    bottom, top = 0.6 / high, 1 - 1.25 / high
    y = np.arange(len(names))
    for at, wide, title, values, mark in (
        (0.19, 0.37, "cheated", list(shares), None), (0.61, 0.37, "difference from unsteered", list(differences), 0.0),
    ):  # fmt: skip
        axes = figure.add_axes((at, bottom, wide, top))
        for row, (name, value) in enumerate(zip(names, values, strict=True)):
            if value is None or not math.isfinite(value.value):
                continue
            colour = FAINT if name.startswith("random") else INK if name == "unsteered" else _colour(name, names)
            axes.plot([value.low, value.high], [row, row], color=colour, lw=1.6)
            axes.plot([value.value], [row], color=colour, marker="o" if "+" in name else "v" if "−" in name else "D",
                      ms=6.5)  # fmt: skip
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_yticks(y, names if mark is None else [""] * len(names), fontsize=SMALL, color=INK)
        axes.set_title(title, loc="left", fontsize=SIZE, color=INK)
        axes.set_xlabel("share of episodes" if mark is None else "points", fontsize=SMALL, color=INK)
        if mark is None:
            axes.set_xlim(-0.03, 1.03)
        else:
            axes.axvline(mark, color=FAINT, lw=1, ls=(0, (4, 3)))
            ends = [abs(end) for value in values if value is not None for end in value if math.isfinite(end)]
            reach = 1.1 * max(ends, default=1.0) or 1.0
            axes.set_xlim(-reach, reach)
        _percent(axes)
        _bare(axes, "x")
    figure.text(0.012, 1 - 0.3 / high, "Cheating at impossible tasks (intervals of 95 %)", fontsize=SIZE, color=INK,
                fontweight="bold")  # fmt: skip
    return figure


COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#8C6D1F")


def _colour(name: str, names: Sequence[str]) -> str:
    """One colour an emotion, whatever the strength."""
    emotions = list(
        dict.fromkeys(n.rsplit(" ", 1)[0] for n in names if n != "unsteered" and not n.startswith("random"))
    )
    return COLOURS[emotions.index(name.rsplit(" ", 1)[0]) % len(COLOURS)]


def _at(counts: Sequence[int], k: int) -> int:
    return counts[k] if k < len(counts) else 0


def _figure(high: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, high), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _percent(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %".replace("-", "−")))


def _bare(axes: Axes, grid: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis=grid, color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=SMALL)
