"""Pictures of an evaluation, all 900 pixels wide: what a score is worth, detectors by size, labelled sets, models.

Figures are matplotlib `Figure` objects on the Agg canvas, without pyplot and its global state. Colours are Okabe and
Ito's, told apart by the colour-blind; curves carry their names and bars their values, so that none stands on a colour
alone. NaN or None: not measured, left out and said so where there is a place for it.

Shapes: N texts, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saefeat.evaluate.drawing import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    OWN,
    POINTS,
    SIZE,
    SMALL,
    WIDE,
    Values,
    axis_of,
    bare,
    colours_of,
    figure_of,
    floats,
    last_known,
    room_of,
    shortened,
    spaced,
    wrapped,
)
from saefeat.evaluate.shown import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# ---------------------------------------------------------------- what a highest score is worth
def reliability_figure(
    emotional: Mapping[str, np.ndarray], flat: Mapping[str, np.ndarray], *, bins: int = 10, level: float | None = None
) -> Figure:
    """Left: of the texts with about the same highest score, the share that is emotional, in bins of about as many
    texts, with 95 % intervals. Right: where the highest scores lie, group by group, emotional and flat apart.

    emotional, flat: {group of texts: their highest scores (N,)}, for instance of narratives, dialogues, short texts.
    level: a score to mark, that from which an emotion stands out for instance.
    """
    groups = list(dict.fromkeys([*emotional, *flat]))
    rows = [(name, values[name], colour, word) for name in groups
            for values, colour, word in ((emotional, COLOURS[0], "emotional"), (flat, OWN, "flat"))
            if name in values]  # fmt: skip
    figure = figure_of(max(3.6, 1.2 + 0.36 * len(rows)))
    height = figure.get_size_inches()[1]
    names = [f"{shortened(name, 20)}, {word} ({np.isfinite(v).sum():,})" for name, v, _, word in rows]
    start = 0.42 + (room_of(figure, names) + 0.1) / WIDE
    bottom, high = 0.62 / height, 1 - 1.02 / height
    left = figure.add_axes((0.075, bottom, 0.335, high))
    right = figure.add_axes((start, bottom, 0.98 - start, high))
    score_N = np.concatenate([np.asarray(v, float) for _, v, _, _ in rows]) if rows else np.zeros(0)
    true_N = np.concatenate([np.full(len(v), word == "emotional") for _, v, _, word in rows]) if rows else np.zeros(0)
    middle_B, share_B, low_B, high_B, count_B = share_by_bin(score_N, true_N, bins)
    error_2B = np.stack([share_B - low_B, high_B - share_B])
    left.errorbar(middle_B, share_B, error_2B, color=INK, marker="o", ms=4.5, lw=1.2, elinewidth=1, capsize=2.5)
    if len(true_N):
        left.axhline(float(true_N.mean()), color=FAINT, lw=0.8, ls=(0, (4, 3)))
    left.set_ylim(-0.03, 1.03)
    axis_of(left.yaxis, [0, 0.25, 0.5, 0.75, 1.0], percent=True)
    left.set_title("Share of texts that are emotional", loc="left", fontsize=SIZE, color=INK)
    counts = [f"{n:,.0f}" for n in sorted({min(count_B, default=0), max(count_B, default=0)})]
    each = f"{' to '.join(counts)} texts a point"
    left.set_xlabel(f"highest score of the text\n{each}; dashed: all texts", fontsize=SMALL, color=INK)
    for y, (_, values, colour, _) in enumerate(rows):
        values = np.asarray(values, float)[np.isfinite(values)]
        if len(values):
            q05, q25, q50, q75, q95 = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
            right.plot([q05, q95], [y, y], color=colour, lw=1.4)
            right.plot([q25, q75], [y, y], color=colour, lw=7, solid_capstyle="butt", alpha=0.55)
            right.plot([q50], [y], color=colour, marker="o", ms=5, ls="none")
    right.set_yticks(range(len(rows)), names, fontsize=SMALL, color=INK, parse_math=False)
    right.set_ylim(len(rows) - 0.4, -0.6)
    right.set_title("Highest scores by kind of text", loc="left", fontsize=SIZE, color=INK)
    marked = "" if level is None else "\ndotted: stands out from here"
    right.set_xlabel(f"median, middle half, 5 to 95 %{marked}", fontsize=SMALL, color=INK)
    for axes in (left, right):
        bare(axes, grid="y" if axes is left else "x")
        if level is not None:
            axes.axvline(level, color=FAINT, lw=1, ls=":")
    return figure


def share_by_bin(score_N: np.ndarray, true_N: np.ndarray, bins: int) -> tuple[np.ndarray, ...]:
    """Per bin of about equally many scores (B,): median score, share that is true, its 95 % interval (Wilson 1927),
    count. Equal scores share a bin, so there may be fewer bins; NaN scores are left out."""
    keep_N = np.isfinite(score_N)
    score_N, true_N = score_N[keep_N], true_N[keep_N].astype(bool)
    if not len(score_N):
        return tuple(np.zeros(0) for _ in range(5))
    edges = np.unique(np.quantile(score_N, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_N = np.searchsorted(edges, score_N, side="right")
    kept = np.unique(bin_N)
    n_B = np.array([(bin_N == b).sum() for b in kept])
    share_B = np.array([true_N[bin_N == b].mean() for b in kept])
    middle_B = np.array([np.median(score_N[bin_N == b]) for b in kept])
    z = 1.959964
    centre_B = (share_B + z * z / (2 * n_B)) / (1 + z * z / n_B)
    half_B = z / (1 + z * z / n_B) * np.sqrt(share_B * (1 - share_B) / n_B + (z / (2 * n_B)) ** 2)
    return middle_B, share_B, np.minimum(centre_B - half_B, share_B), np.maximum(centre_B + half_B, share_B), n_B


# ---------------------------------------------------------------- curves
def lines_by_k_figure(
    ks: Sequence[int | None],
    values: Mapping[str, Values],
    intervals: Mapping[str, tuple[Values, Values]] | None = None,
    ylabel: str = "",
    *,
    own: Collection[str] = (),
    nulls: Collection[str] = (),
    percent: bool = False,
    chance: float | None = None,
) -> Figure:
    """Detectors of k columns, one curve a representation, its name and last value at its end. ks: None is all columns;
    own: curves drawn in front, with their intervals shaded; nulls: grey and dashed; chance: a level to mark."""
    ticks = ["all" if k is None else f"{k:,}" for k in ks]
    label = "columns a detector may use" + ("" if chance is None else "; dotted: chance")
    return _curves(ticks, values, intervals or {}, label, ylabel, own=own, nulls=nulls, percent=percent, level=chance)


def length_figure(n_words_bins: Sequence[str], spread: Mapping[str, Values], *, texts: Sequence[int] = ()) -> Figure:
    """Spread of calibrated scores by length of text; a score means the same at every length where the curve is flat.

    n_words_bins: names of the bins ('1–4'). spread: {curve, for instance a readout: standard deviation by bin}.
    texts: how many there are in each bin. The first curve is drawn in front.
    """
    names = [f"{b}\n({n:,})" for b, n in zip(n_words_bins, texts, strict=True)] if len(texts) else list(n_words_bins)
    label = "words of the text" + (" (number of texts)" if len(texts) else "") + "; dotted: as calibrated"
    ylabel = "standard deviation of calibrated scores"
    own = list(spread)[:1]
    return _curves(names, spread, {}, label, ylabel, own=own, nulls=(), percent=False, level=1.0)


def _curves(
    ticks: Sequence[str], values: Mapping[str, Values], intervals: Mapping[str, tuple[Values, Values]], xlabel: str,
    ylabel: str, *, own: Collection[str], nulls: Collection[str], percent: bool, level: float | None,
) -> Figure:  # fmt: skip
    """Curves over places of equal distance, each named at its end, names kept apart."""
    unit = "percent" if percent else "number"
    curves = {name: floats(value, len(ticks)) for name, value in values.items()}
    labels = {n: f"{wrapped(n)} {quantity(last_known(v)[1], unit)}" for n, v in curves.items() if last_known(v)[0] >= 0}
    figure = figure_of(max(4.2, 0.9 + 0.34 * len(labels)))
    height = figure.get_size_inches()[1]
    margin = room_of(figure, labels.values()) + 0.3
    bottom = (0.55 + 0.15 * any("\n" in t for t in ticks)) / height
    axes = figure.add_axes((0.085, bottom, 0.915 - margin / WIDE, 0.95 - bottom))
    colours = colours_of(curves, own, nulls)
    for i, (name, value) in enumerate(curves.items()):
        x = np.flatnonzero(np.isfinite(value))
        style: dict[str, Any] = {"ls": (0, (4, 2)), "lw": 1.1} if name in nulls else {"lw": 2.4 if name in own else 1.5}
        axes.plot(x, value[x], color=colours[name], marker=MARKERS[i % len(MARKERS)], ms=4.5, label=name,
                  zorder=4 if name in own else 3, **style)  # fmt: skip
        if name in intervals:
            low, high = (floats(end, len(ticks)) for end in intervals[name])
            if name in own:
                axes.fill_between(x, low[x], high[x], color=colours[name], alpha=0.15, lw=0, zorder=2)
            else:
                axes.vlines(x, low[x], high[x], color=colours[name], lw=1, zorder=2)
    if level is not None:
        axes.axhline(level, color=FAINT, lw=0.8, ls=":")
    axes.set_xlim(-0.3, len(ticks) - 0.8)
    axes.margins(y=0.08)
    axes.set_xticks(range(len(ticks)), ticks, fontsize=SMALL, color=INK)
    axes.set_xlabel(xlabel, fontsize=SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=SIZE, color=INK)
    axis_of(axes.yaxis, percent=percent)
    bare(axes, grid="y")
    _name_ends(axes, {name: curves[name] for name in labels}, labels, colours)
    return figure


def _name_ends(
    axes: Axes, curves: Mapping[str, np.ndarray], labels: Mapping[str, str], colours: Mapping[str, str]
) -> None:
    """Write each curve's label right of the last place, as near to the curve's height as the others let it."""
    if not curves:
        return
    box = axes.get_window_extent()
    per_point = axes.figure.dpi / POINTS
    ends = {name: last_known(value) for name, value in curves.items()}
    y = np.array([axes.transData.transform((0, ends[name][1]))[1] for name in curves]) / per_point
    high = np.array([1.22 * SMALL * (1 + labels[name].count("\n")) + 1.5 for name in curves])
    places = spaced(y, high, box.y0 / per_point - 8, box.y1 / per_point + 8)
    left, right = axes.get_xlim()
    for name, place in zip(curves, places, strict=True):
        x, value = ends[name]
        at = axes.transData.inverted().transform((0, place * per_point))[1]
        arrow = {"arrowstyle": "-", "color": colours[name], "lw": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
        axes.annotate(
            labels[name], (x, value), (right + 0.008 * (right - left), at), fontsize=SMALL, color=colours[name],
            va="center", ha="left", arrowprops=arrow, annotation_clip=False, parse_math=False,
        )  # fmt: skip


# ---------------------------------------------------------------- bars
def bars_figure(
    groups: Sequence[str],
    values: Mapping[str, Values],
    *,
    xlabel: str = "",
    intervals: Mapping[str, tuple[Values, Values]] | None = None,
    own: Collection[str] = (),
    nulls: Collection[str] = (),
    percent: bool = False,
    chance: float | None = None,
) -> Figure:
    """Bars by group, for instance of labelled sets, one a representation, each with its value at its end."""
    unit = "percent" if percent else "number"
    bars = {name: floats(value, len(groups)) for name, value in values.items()}
    rows = math.ceil(len(bars) / 3)
    high = 0.19 * (len(bars) + 0.8) * len(groups)
    figure = figure_of(high + 0.75 + 0.2 * rows)
    height = figure.get_size_inches()[1]
    names = [wrapped(group) for group in groups]
    margin = room_of(figure, names) + 0.2
    axes = figure.add_axes((margin / WIDE, 0.55 / height, 1 - (margin + 0.25) / WIDE, high / height))
    colours = colours_of(bars, own, nulls)
    ends = [*(v[np.isfinite(v)] for v in bars.values())]
    step = 1 / (len(bars) + 0.8)
    for i, (name, value) in enumerate(bars.items()):
        y = np.arange(len(groups)) + (i - (len(bars) - 1) / 2) * step
        low, top = (floats(end, len(groups)) for end in (intervals or {}).get(name, (value, value)))
        ends += [top[np.isfinite(top)], low[np.isfinite(low)]]
        seen = np.isfinite(value)
        axes.barh(y[seen], value[seen], 0.86 * step, color=colours[name], label=name, zorder=2,
                  hatch="////" if name in nulls else None, edgecolor="white", lw=0)  # fmt: skip
        if intervals and name in intervals:
            axes.hlines(y[seen], low[seen], top[seen], color=INK, lw=1, zorder=3)
        for g in range(len(groups)):
            out = np.nanmax([0.0, value[g], top[g]])  # values are written right of the bar and of its interval
            axes.annotate(
                quantity(float(value[g]), unit) if seen[g] else "not measured", (out, y[g]), (3, 0), va="center",
                textcoords="offset points", fontsize=SMALL - 0.5, fontweight="bold" if name in own else "normal",
                color=INK if seen[g] else FAINT, bbox={"fc": "white", "ec": "none", "pad": 0.3},
            )  # fmt: skip
    every = np.concatenate(ends) if ends else np.zeros(0)
    start, stop = float(every.min(initial=0.0)), float(every.max(initial=0.0)) or 1.0
    axes.set_xlim(1.05 * start, stop + 0.1 * (stop - start))
    axes.set_ylim(max(len(groups), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(groups)), names, fontsize=SMALL, color=INK, parse_math=False)
    marked = "dotted: chance" if chance is not None else ""
    axes.set_xlabel("; ".join(part for part in (xlabel, marked) if part), fontsize=SIZE, color=INK)
    axis_of(axes.xaxis, percent=percent)
    bare(axes, grid="x")
    if chance is not None:
        axes.axvline(chance, color=INK, lw=1, ls=":", zorder=2.5)
    legend = axes.legend(axes.containers, [shortened(name, 40) for name in bars], loc="lower left",
                         bbox_to_anchor=(0, 1), ncols=3, fontsize=SMALL, frameon=False, borderaxespad=0.2,
                         columnspacing=1.4, handlelength=1.2)  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def models_figure(models: Sequence[str], metrics: Mapping[str, Values], *, percent: Collection[str] = ()) -> Figure:
    """One panel a figure, one line a model, in the order given (from small to large): how figures grow with the model.

    percent: the metrics that are shares. Panels do not begin at zero: their dots are for comparing models.
    """
    names = [wrapped(model) for model in models]
    rows = math.ceil(len(metrics) / 3) or 1
    columns = math.ceil(len(metrics) / rows) or 1
    panel, head = 0.34 * len(models), 0.55
    figure = figure_of(rows * (panel + head) + 0.15)
    height = figure.get_size_inches()[1]
    margin = room_of(figure, names) + 0.2
    wide = (WIDE - margin - 0.15) / columns
    for i, (metric, value) in enumerate(metrics.items()):
        value_M, y = floats(value, len(models)), np.arange(len(models))
        unit = "percent" if metric in percent else "number"
        row, column = divmod(i, columns)
        bottom = height - (row + 1) * (panel + head)
        axes = figure.add_axes(((margin + column * wide) / WIDE, bottom / height, (wide - 0.3) / WIDE, panel / height))
        seen = np.isfinite(value_M)
        axes.plot(value_M, y, color=OWN, lw=1, marker="o", ms=6, alpha=0.9, zorder=3)
        low, top = (value_M[seen].min(), value_M[seen].max()) if seen.any() else (0.0, 1.0)
        room = (top - low) or abs(top) or 1.0
        axes.set_xlim(low - 0.15 * room, top + 0.55 * room)  # room for the values right of the dots
        for m in y:
            where = (value_M[m], m) if seen[m] else (low, m)
            axes.annotate(
                quantity(float(value_M[m]), unit) if seen[m] else "not measured", where, (6, 0), va="center",
                textcoords="offset points", fontsize=SMALL, color=INK if seen[m] else FAINT, zorder=5,
                bbox={"fc": "white", "ec": "none", "pad": 0.6},
            )  # fmt: skip
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.set_yticks(y, names if column == 0 else [""] * len(models), fontsize=SMALL, color=INK, parse_math=False)
        axes.set_title(wrapped(metric), loc="left", fontsize=SIZE, color=INK, parse_math=False)
        bare(axes, grid="y")
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
    return figure
