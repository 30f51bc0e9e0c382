"""The pictures of `study dose-response`: a small panel for each emotion with its random control; the effect matrix.

Figures are matplotlib `Figure` objects on the Agg canvas, without pyplot and its global state. Colours are Okabe and
Ito's; what is not surgical is hollow, not another colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from saefeat.causal.dose_response import RISES, Response

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID, NULL = "#222222", "#767676", "#e3e3e3", "#9a9a9a"
BLUE, ORANGE = "#0072B2", "#D55E00"
WIDE, COLUMNS, PANEL = 8.6, 4, 1.55  # inches
SIZE, SMALL, TINY = 10.5, 8.0, 7.0


def curves_figure(responses: Sequence[Response], *, title: str, unit: str) -> Figure:
    """A panel for each response: the reading by strength above the unsteered texts, and that of random directions."""
    count = len(responses)
    rows = -(-count // COLUMNS)
    high = 1.25 + PANEL * rows
    figure = _figure(WIDE, high)
    low, top = _limits(responses)
    left, right, bottom, over = 0.075, 0.99, 0.5 / high, 0.78 / high
    wide, tall = (right - left) / COLUMNS, (1 - bottom - over) / rows
    for i, response in enumerate(responses):
        row, column = divmod(i, COLUMNS)
        place = (left + column * wide, 1 - over - (row + 1) * tall + 0.1 * tall, 0.9 * wide, 0.66 * tall)
        axes = figure.add_axes(place)
        _panel(axes, response)
        axes.set_ylim(low, top)
        last = i + COLUMNS >= count
        axes.tick_params(labelleft=column == 0, labelbottom=last)
        if last:
            axes.set_xlabel("strength, in mean norms", fontsize=TINY, color=INK)
    figure.text(0.012, 1 - 0.26 / high, title, fontsize=SIZE, color=INK, fontweight="bold")
    figure.text(0.012, 0.5, f"difference from unsteered ({unit})", fontsize=SMALL, color=INK, rotation=90, va="center")
    _legend(figure, high)
    return figure


def _panel(axes: Axes, response: Response) -> None:
    x_S, within_S = response.strengths, response.within_S
    shown = ORANGE if response.verdict == RISES else BLUE
    for curve, colour, marker, order in ((response.random, NULL, "s", 2), (response.curve, shown, "o", 4)):
        mean_S, low_S, high_S = (np.array([point[part] for point in curve], float) for part in range(3))
        axes.fill_between(x_S, low_S, high_S, color=colour, alpha=0.25, lw=0, zorder=order - 1)
        axes.plot(x_S, mean_S, color=colour, lw=1.3, zorder=order)
        for inside, face in ((True, colour), (False, "white")):
            at = within_S == inside
            axes.plot(x_S[at], mean_S[at], color=colour, marker=marker, mfc=face, ls="none", ms=3.6, zorder=order + 1)
    axes.axhline(0, color=FAINT, lw=0.7, zorder=1)
    axes.axvline(0, color=FAINT, lw=0.7, zorder=1)
    axes.set_title(response.arm.name, loc="left", fontsize=SMALL, color=INK, pad=11)
    slope, p = response.slope.value, response.p
    told = "too few surgical strengths" if not np.isfinite(p) else f"slope {slope:+.2f}".replace("-", "−") + _p(p)
    axes.text(0, 1.04, told, transform=axes.transAxes, fontsize=TINY, color=FAINT)
    reach = float(np.abs(x_S).max())
    axes.set_xlim(-1.08 * reach, 1.08 * reach)
    _bare(axes)


def _p(p: float) -> str:
    return ", p < .001" if p < 0.001 else f", p = {p:.3f}".replace("0.", ".")


def _limits(responses: Sequence[Response]) -> tuple[float, float]:
    """Ends that show every mean, and intervals as far as they do not dwarf the means."""
    means = [point.value for r in responses for point in (*r.curve, *r.random) if np.isfinite(point.value)]
    ends = [end for r in responses for point in (*r.curve, *r.random) for end in point[1:] if np.isfinite(end)]
    low, high = min([0.0, *means, *ends]), max([0.0, *means, *ends])
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _legend(figure: Figure, high: float) -> None:
    from matplotlib.lines import Line2D

    def line(colour: str, marker: str, face: str | None = None) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, ms=4, lw=1.3, mfc=face or colour)

    handles = [line(ORANGE, "o"), line(BLUE, "o"), line(NULL, "s"), line(FAINT, "o", "white")]
    labels = ["rises, random flat", "not so", "random directions, same norms", "hollow: not surgical"]
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.008, 1 - 0.34 / high), ncols=4, frameon=False,
                  fontsize=SMALL, borderaxespad=0, columnspacing=1.6)  # fmt: skip


# ---------------------------------------------------------------- the matrix
def matrix_figure(
    names: Sequence[str],
    shift_AE: np.ndarray,
    classes: Sequence[tuple[str, Sequence[str], np.ndarray]],
    on_top: Sequence[bool],
    n_controls: int,
) -> Figure:
    """Left: by how much the reading of each emotion (columns, in the order of the rows) rises as each row's is turned.
    Right: the classes of each independent judge, (file, classes, shift (A, C)). The last n_controls rows are controls;
    on_top: of the other rows."""
    A = len(names)
    shown = A - n_controls
    cell, left, gap = 0.19, 1.75, 0.5
    across = cell * shown + sum(gap + cell * 1.35 * len(own) for _, own, _ in classes)
    wide, high = left + across + 0.35, 1.95 + cell * A + 0.75
    figure = _figure(wide, high)
    at = left
    panels = [("atlas (not independent)", list(names[:shown]), shift_AE, cell)]
    panels += [(file, list(own), shift_AC, 1.35 * cell) for file, own, shift_AC in classes]
    for i, (title, columns, values, each) in enumerate(panels):
        across = each * len(columns)
        axes = figure.add_axes((at / wide, 0.75 / high, across / wide, cell * A / high))
        reach = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
        image = axes.imshow(values, cmap="PuOr_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=TINY, color=INK, parse_math=False)
        axes.xaxis.tick_top()
        marks = [*("✓ " if hit else "– " for hit in on_top), *[""] * n_controls]
        told = [mark + name for mark, name in zip(marks, names, strict=True)] if i == 0 else [""] * A
        axes.set_yticks(range(A), told, fontsize=TINY, color=INK, parse_math=False)
        axes.tick_params(length=0)
        if n_controls:
            axes.axhline(shown - 0.5, color=INK, lw=0.8)
        for side in axes.spines.values():
            side.set_visible(False)
        bar = figure.add_axes((at / wide, 0.47 / high, min(across, 1.6) / wide, 0.09 / high))
        figure.colorbar(image, cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=TINY, length=2)
        figure.text(at / wide, 0.12 / high, title, fontsize=TINY, color=INK, parse_math=False)
        at += across + gap
    figure.text(0.012, 1 - 0.28 / high, "What rises (sd) as each emotion is turned up", fontsize=SIZE, color=INK,
                fontweight="bold")  # fmt: skip
    figure.text(0.012, 1 - 0.47 / high, "✓ its own family is on top of all emotions read", fontsize=TINY, color=FAINT)
    return figure


def _figure(wide: float, high: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=TINY)
