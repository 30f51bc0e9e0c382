"""What the pictures of an evaluation share: size, colours, axes, names and their places."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#222222", "#767676", "#e3e3e3"
OWN = "#0072B2"
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
MARKERS = "osD^vP"
WIDE = 8.2  # inches: 902 pixels at 110 dpi
SIZE, SMALL = 9.0, 8.0
POINTS = 72  # an inch
NAME = 28
"""Characters of a name on one line; longer ones take two."""

Values = Sequence[float | None] | np.ndarray


def figure_of(high: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, high), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def bare(axes: Axes, grid: str) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis=grid, color=GRID, lw=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=SMALL)


def axis_of(axis: Any, ticks: Sequence[float] | None = None, *, percent: bool) -> None:
    from matplotlib.ticker import FuncFormatter

    if ticks is not None:
        axis.set_ticks(ticks)
    if percent:
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %".replace("-", "−")))


def colours_of(names: Collection[str], own: Collection[str], nulls: Collection[str]) -> dict[str, str]:
    """Blue for the first of one's own, grey for nulls, the other colours in turn."""
    colours, first = {}, next((name for name in names if name in own), None)
    turn = 0
    for name in names:
        if name == first or name in nulls:
            colours[name] = OWN if name == first else FAINT
        else:
            colours[name] = COLOURS[turn % len(COLOURS)]
            turn += 1
    return colours


def floats(values: Values, n: int) -> np.ndarray:
    """Values as floats (n,), None as NaN; ValueError if there are not n."""
    floats = np.array([np.nan if v is None else float(v) for v in values])
    if len(floats) != n:
        raise ValueError(f"{len(floats)} values for {n} places")
    return floats


def last_known(value: np.ndarray) -> tuple[int, float]:
    """Place and height of a curve's last known point; place -1 if there is none."""
    known = np.flatnonzero(np.isfinite(value))
    return (int(known[-1]), float(value[known[-1]])) if len(known) else (-1, math.nan)


def shortened(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, NAME, max_lines=2, placeholder="…")) or "–"


def room_of(figure: Figure, texts: Collection[str], size: float = SMALL) -> float:
    """Inches that the widest line of the texts takes."""
    from matplotlib.font_manager import FontProperties

    renderer, font = figure.canvas.get_renderer(), FontProperties(size=size)  # type: ignore[attr-defined]
    lines = [line for text in texts for line in text.split("\n")]
    wide = (renderer.get_text_width_height_descent(line, font, ismath=False)[0] for line in lines)
    return max(wide, default=0.0) / figure.dpi


def spaced(middle_n: np.ndarray, high_n: np.ndarray, low: float, top: float) -> np.ndarray:
    """Middles of boxes of the given heights, in the same order and near where they were, none over another and all
    within [low, top] as far as they fit: neighbours that touch become a block around their mean."""
    order = np.argsort(middle_n, kind="stable")
    blocks: list[list[Any]] = []  # [wanted middles relative to the block's start, members, height]
    for i in order:
        blocks.append([[middle_n[i] - high_n[i] / 2], [i], high_n[i]])
        while len(blocks) > 1 and _start(blocks[-2], low, top) + blocks[-2][2] > _start(blocks[-1], low, top):
            starts, members, height = blocks.pop()
            blocks[-1][0] += [start - blocks[-1][2] for start in starts]
            blocks[-1][1] += members
            blocks[-1][2] += height
    out = np.zeros(len(middle_n))
    for block in blocks:
        at = _start(block, low, top)
        for i in block[1]:
            out[i] = at + high_n[i] / 2
            at += high_n[i]
    return out


def _start(block: list[Any], low: float, top: float) -> float:
    return max(low, min(float(np.mean(block[0])), top - block[2]))
